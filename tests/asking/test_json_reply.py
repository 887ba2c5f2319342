"""One class of a reply gives its JSON schema and its reader; what is wrong is said with what is allowed."""

import json
import subprocess
import sys
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import ConfigDict, Field, field_validator

from mralign.asking import Fault, JsonReply, read_reply, reply_schema


class Claim(JsonReply):
    """Never shown to a model."""

    text: Annotated[str, Field(min_length=1, max_length=5)]
    kind: Literal["fact", "opinion"]


class Verdict(JsonReply):
    """Never shown to a model either."""

    true: bool
    score: Annotated[float, Field(ge=0, le=1)]
    claims: Annotated[list[Claim], Field(max_length=2)]
    why: Literal["because"]

    @classmethod
    def reason(cls, field):
        return "bad_claims" if field in ("claims", "text", "kind") else "wrong_shape"

    @field_validator("claims")
    @classmethod
    def _are_sorted(cls, claims):
        texts = [claim.text for claim in claims]
        if texts != sorted(texts):
            raise ValueError("they must be in the order of the alphabet")
        return claims


GOOD = {"true": True, "score": 0.5, "claims": [{"text": "a", "kind": "fact"}], "why": "because"}


def changed(**change):
    return json.dumps(GOOD | change)


def claims(*texts, **change):
    return changed(claims=[{"text": text, "kind": "fact"} | change for text in texts])


def test_a_reply_becomes_an_object_of_its_class():
    found = read_reply(f"Sure:\n```json\n{json.dumps(GOOD)}\n```", Verdict)
    assert found == Verdict(true=True, score=0.5, claims=[Claim(text="a", kind="fact")], why="because")
    assert read_reply(json.dumps(GOOD), Verdict, alone=True) == found


def test_words_around_a_reply_that_must_stand_alone_are_a_fault():
    fault = read_reply(f"Sure: {json.dumps(GOOD)}", Verdict, alone=True)
    assert fault == Fault("not_json", "words stand around the JSON object; reply with the JSON object alone")


KEYS = "it must be an object with the keys ['true', 'score', 'claims', 'why']"


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("{}", "wrong_shape", f"the reply is []; {KEYS}"),
        ('{"true": 1, "why": "x"}', "wrong_shape", f"the reply is ['true', 'why']; {KEYS}"),
        (changed(more=1, other=2), "wrong_shape", f"has the keys ['more', 'other'] beside those asked for; {KEYS}"),
        (changed(true=1), "wrong_shape", "true is 1; it must be true or false"),
        (changed(true="true"), "wrong_shape", "true is 'true'; it must be true or false"),
        (changed(score=True), "wrong_shape", "score is True; it must be a number from 0 to 1"),
        (changed(score=float("nan")), "wrong_shape", "score is nan; it must be a number from 0 to 1"),
        (changed(score=1.5), "wrong_shape", "score is 1.5; it must be a number from 0 to 1"),
        (changed(why="so"), "wrong_shape", "why is 'so'; it must be 'because'"),
        (changed(claims={"a": 1}), "wrong_shape", "claims is {'a': 1}; it must be a list of at most 2 entries"),
        (changed(claims=["a"]), "wrong_shape", "claims[0] is 'a'; it must be an object with the keys ['text', 'kind']"),
        (claims("a", x=1), "wrong_shape", "claims[0] has the keys ['x'] beside those asked for"),
        (claims("a", "b", "c"), "bad_claims", "claims has 3 entries; it must be a list of at most 2 entries"),
        (claims("b", "a"), "bad_claims", "they must be in the order of the alphabet"),
        (claims("a", ""), "bad_claims", "claims[1].text is ''; it must be a text of 1 to 5 characters"),
        (claims("a\ud800"), "bad_claims", "claims[0].text is 'a\\ud800'; it must be a text of 1 to 5 characters"),
        (claims("a", kind="x"), "bad_claims", "claims[0].kind is 'x'; it must be one of ['fact', 'opinion']"),
        (f'{{"true": {"[" * 900}{"]" * 900}}}', "wrong_shape", "it must "),
    ],
)  # fmt: skip
def test_a_fault_says_where_what_was_given_and_what_is_allowed(text, reason, detail):
    fault = read_reply(text, Verdict)
    assert isinstance(fault, Fault) and fault.reason == reason
    assert detail in fault.detail and len(fault.detail) <= 500


def test_the_schema_is_closed_and_holds_nothing_but_bounds():
    schema = reply_schema(Verdict)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(GOOD, schema)
    objects = [schema, *schema["$defs"].values()]
    for one in objects:  # what OpenAI's strict mode asks for
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])
        assert not {"title", "description", "default"} & {*one, *(key for p in one["properties"].values() for key in p)}
    assert "Never shown" not in json.dumps(schema)


class Lenient(JsonReply):
    model_config = ConfigDict(extra="ignore")

    said: str


def test_a_lenient_reader_has_a_closed_schema_all_the_same():
    assert read_reply('{"said": "x", "note": [1]}', Lenient) == Lenient(said="x")
    assert reply_schema(Lenient)["additionalProperties"] is False


def test_the_public_functions_are_there_and_import_nothing_heavy():
    code = (
        "import sys, mralign.annotation as a, mralign.asking as b\n"
        "for room in (a, b):\n"
        "    for name in room.__all__:\n"
        "        assert name == 'PAPER' or getattr(room, name).__doc__, name\n"
        "assert callable(a.consensus) and callable(a.agreement) and a.PAPER.K == 17\n"
        "print(sorted({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
