"""What a user is told when an endpoint is asked no more.

The failure that ended it enters; a sentence leaves that quotes the server, names the setting and says what to do. After
each of them the same command goes on: answers are kept, and nothing that was refused or unanswered is counted as lost.
"""

from __future__ import annotations

from decimal import Decimal

from mralign.config import Http
from mralign.serving.api_key import ApiKey
from mralign.serving.calls import Failure, Refusal


class StopMessages:
    """Of the endpoint at `setting`, whose section of the configuration holds the other settings."""

    def __init__(self, settings: Http, *, key: ApiKey, setting: str) -> None:
        self._settings, self._key, self._setting = settings, key, setting
        self._section = setting.rpartition(".")[0]
        self._name = f"{setting}={settings.base_url}"

    def refused(self, refusal: Refusal) -> str:
        """Every call is refused."""
        advice = f"Correct what it names (fields: {self._section}.request)"
        if refusal.of_all:
            advice = f"Correct {self._setting} or the model's name"
        elif refusal.reason == "http_403":
            advice = f"Look at the key in the environment variable {self._key.env} ({self._key.setting})"
        limit = f"{self._section}.max_refusals={self._settings.max_refusals}"
        return (
            f"{self._name} refuses one request after another, and answers none: {refusal.detail:.500}. {advice}, and "
            f"run the same command again: nothing refused was counted as lost. If the rows themselves are to blame, "
            f"raise {limit} (null: no limit)"
        )

    def limited(self, failure: Failure, *, silent_s: float) -> str:
        """Nothing but 429 for `silent_s` seconds, the pause that is asked for included."""
        longest = f"{self._section}.max_rate_limited_s={self._settings.max_rate_limited_s:g}"
        return (
            f"{self._name} answers nothing but 429 for {silent_s:.0f} s, longer than {longest}: {failure.detail:.500}. "
            f"Run the same command again later, answers so far are kept; to go slowly, set "
            f"{self._section}.requests_per_minute"
        )

    def unreachable(self, failure: Failure) -> str:
        """No connection was ever made."""
        return (
            f"{self._name} has never answered: {failure.detail:.300}. Start the server or correct the address, and run "
            f"the same command again"
        )

    def untrusted(self, detail: str) -> str:
        """Its certificate is not trusted."""
        return f"{self._name} has a certificate that is not trusted: {detail:.300}. Correct the address or install it"

    def down(self, failure: Failure) -> str:
        """One call after another is out of tries."""
        tries = f"{self._section}.max_retries={self._settings.max_retries}"
        return (
            f"{self._name} fails one request after another, however often it is tried ({tries}): "
            f"{failure.detail:.500}. Run the same command again when it serves; answers so far are kept"
        )

    def without_usage(self, failure: Failure) -> str:
        """Money is counted, and answers do not say what they cost."""
        return (
            "the endpoint does not say how many tokens it used, so money cannot be counted (http.price_prompt, "
            f"http.price_completion, http.budget): set both prices to 0 and budget to null. {failure.detail:.300}"
        )

    def spent(self, spent: Decimal, *, cache: str) -> str:
        """The budget is spent; `cache` holds the answers."""
        return (
            f"http.budget={self._settings.budget:g} is spent: the replies in {cache} have cost "
            f"{spent.normalize():f}. Raise http.budget (the annotator's own, where it has one) and run the same "
            f"command again; those replies cost nothing"
        )
