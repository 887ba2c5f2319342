"""The key of an endpoint, kept out of everything that a run writes.

The name of an environment variable enters; a header for the request leaves, and texts in which the key is blacked out.
The key is in no repr and cannot be pickled, so that neither a log, a traceback nor Ray's object store gets to hold it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import quote

_BLACKED_OUT = "***"
_SECRET_FROM = 12  # characters; a shorter "key" (EMPTY, dummy) is no secret, and may be a word of an answer


@dataclass(frozen=True)
class ApiKey:
    """The key that the environment variable `env` holds; empty where it is not set."""

    env: str
    value: str = field(default="", repr=False)
    header: str = "Authorization"
    setting: str = "http.key_env"  # where the configuration names the variable

    @classmethod
    def from_environment(cls, env: str, *, header: str = "Authorization", setting: str = "http.key_env") -> ApiKey:
        """Raises ValueError, without the value, where the variable holds what no key can be."""
        value = os.environ.get(env, "").strip()
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise ValueError(
                f"the environment variable {env} ({setting}) holds blanks, control or non-ASCII characters within "
                f"its value; a key has none: export it again"
            )
        return cls(env, value, header, setting)

    def headers(self) -> dict[str, str]:
        """What proves who asks; nothing without a key. Only Authorization says the kind of the key as well."""
        kind = "Bearer " if self.header.lower() == "authorization" else ""
        return {self.header: kind + self.value} if self.value else {}

    def redact(self, text: str) -> str:
        """`text` with the key blacked out, also where it is escaped as in JSON or a URL."""
        if not self.value:
            return text
        escaped = json.dumps(self.value)[1:-1]
        for form in (escaped.replace("/", "\\/"), escaped, quote(self.value, safe=""), self.value):
            text = text.replace(form, _BLACKED_OUT)
        return text

    def clean(self, value: Any) -> Any:
        """The parsed JSON `value` with a secret key blacked out in every string, names of fields included."""
        return self._clean(value) if len(self.value) >= _SECRET_FROM else value

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        if isinstance(value, dict):
            return {self.redact(name): self._clean(item) for name, item in value.items()}
        return value

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not sent to another process: build the endpoint where it is used")
