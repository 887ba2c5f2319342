"""Stand-in."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mralign.asking.json_reply import Fault, parse_object, reader

M = TypeVar("M", bound=BaseModel)


@reader
def read_reply(text: str, model: type[M]) -> M | Fault:
    value = parse_object(text, alone=True)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the reply"
        return Fault("wrong_shape", f"{place}: {first['msg']}")
