"""An annotators' instruction of the user's own: what is refused, what an endpoint is asked, what counts."""

import asyncio
import json

import pytest
from loopback_server import LoopbackServer

from mralign.annotation.resolved import resolve_annotation
from mralign.annotation.stage import ANNOTATION_STAGE, Annotating
from mralign.annotation.template import fill
from mralign.config import parse
from mralign.plan import placing

TEMPLATE = """Strategies:
{taxonomy}
Reply as {"steps": [{"segments": [0], "labels": []}], "confidence": 7}, where 7 is a bet that I would take.
Asked: {question} Gold: {answers}
{segments}
That was all."""
SEGMENTS = ("First, {answers} is asked.", "It was Ada {question}.", "So: Ada.")
TEXT = "\n\n".join(SEGMENTS)
STARTS = [TEXT.index(segment) for segment in SEGMENTS]
ENDS = [start + len(segment) for start, segment in zip(STARTS, SEGMENTS, strict=True)]
ROW = {
    "row_id": "q/on/0",
    "question_id": "q",
    "dataset": "d",
    "polarity": 1,
    "question": "Who {segments}?",
    "answers": ["Ada", "A. L."],
    "text": TEXT,
    "segment_start": STARTS,
    "segment_end": ENDS,
}


def config(tmp_path, template=TEMPLATE, *, url="http://127.0.0.1:1/v1", **settings):
    (tmp_path / "mine.txt").write_text(template)

    def chat(name):
        return {"name": name, "engine": "http", "http": {"base_url": url, "model": name, "vllm_extras": False}}

    annotation = {"annotators": [chat("Ann"), chat("Ben")], "adjudicator": chat("Jo")}
    annotation |= {"instruction": f"{tmp_path}/mine.txt", **settings}
    questions = {"train": [{"name": "a", "path": "a.jsonl"}]}
    return parse({"run": {"dir": f"{tmp_path}/run"}, "questions": questions, "annotation": annotation})


def answer(request):
    """Ann and Ben agree on one step of all segments."""
    step = {"segments": [0, 1, 2], "labels": [{"label": "framing", "confidence": 9}]}
    return json.dumps({"steps": [step], "confidence": 9})


def test_both_annotators_are_asked_by_the_template_and_their_replies_count(tmp_path):
    asked = []

    def prompt(payload):
        asked.append((payload["model"], payload["messages"]))
        return payload["model"]

    with LoopbackServer(prompt=prompt, answer=answer) as server:
        resolved = resolve_annotation(config(tmp_path, url=server.base_url))

        async def annotate():
            rows = [ROW]
            for roles in resolved.engines:
                actor = Annotating(resolved=resolved, roles=roles, last=roles == resolved.engines[-1])
                (answered,) = await actor.answer(rows)
                for annotator in actor.annotators.values():
                    await annotator.chat.endpoint.close()
                rows = [ROW | {"state": answered.state}]
            return answered

        answered = asyncio.run(annotate())
    (row,) = answered.rows
    assert [(list(step["labels"]), step["rule"]) for step in row["steps"]] == [(["framing"], "equal")]
    assert sorted(model for model, _ in asked) == ["Ann", "Ben"]
    for _, messages in asked:
        (message,) = messages
        assert message["role"] == "user"
        said = message["content"]
        assert "\n- framing: " in said
        assert '{"steps": [{"segments": [0], "labels": []}], "confidence": 7}' in said  # braces around no word are text
        # What is filled in is not filled in again.
        assert "Asked: Who {segments}? Gold: Ada / A. L.\n[0] First, {answers} is asked.\n[1] It was Ada {q" in said
        assert said.endswith("[2] So: Ada.\nThat was all.")


@pytest.mark.parametrize(
    ("template", "settings", "said"),
    [
        (
            TEMPLATE + "{labels}",
            {},
            r"holds \{labels\}, for which nothing stands; allowed are \{taxonomy\}, ",
        ),
        (TEMPLATE.replace("{segments}", ""), {}, r"mine\.txt does not hold \{segments\}; put each where it goes"),
        (TEMPLATE.replace("{answers}", ""), {}, r"does not hold \{answers\}; .*annotation\.show_answers=false"),
        (TEMPLATE, {"show_answers": False}, r"shows \{answers\}, and annotation\.show_answers=false hides them"),
        (TEMPLATE, {"instruction": "/nowhere/mine.txt"}, r"mine\.txt cannot be read: No such file or directory; give"),
        (TEMPLATE, {"instruction": "/"}, "annotation.instruction=/ cannot be read: Is a directory"),
    ],
)
def test_what_is_wrong_with_a_template_is_said_in_the_plan(tmp_path, template, settings, said):
    with pytest.raises(ValueError, match=said):
        ANNOTATION_STAGE.check(config(tmp_path, template, **settings))


def test_a_file_that_is_no_text_and_annotators_that_are_not_asked(tmp_path):
    wanted = config(tmp_path)
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"mine\.txt is no text in UTF-8"):
        ANNOTATION_STAGE.check(wanted)
    book = "pkg://mralign.annotation/rule_books/first.yaml"
    cues = [{"name": name, "rule_book": book} for name in "ab"]
    with pytest.raises(ValueError, match="neither annotator is a chat model, others are told nothing"):
        ANNOTATION_STAGE.check(config(tmp_path, annotators=cues))


def test_without_answers_their_place_need_not_be_there(tmp_path):
    ANNOTATION_STAGE.check(config(tmp_path, TEMPLATE.replace("{answers}", ""), show_answers=False))


def test_the_content_of_the_file_counts_and_its_place_does_not(tmp_path):
    def mark(wanted):
        return placing.place(wanted, ANNOTATION_STAGE, upstream={}).out.fingerprint

    built_in = mark(config(tmp_path, instruction=None))
    before = mark(config(tmp_path))
    (tmp_path / "other.txt").write_text(TEMPLATE)
    assert mark(config(tmp_path, instruction=f"{tmp_path}/other.txt")) == before != built_in
    assert mark(config(tmp_path, TEMPLATE + "!")) != before


def test_fill_looks_once():
    assert fill("{a} {b}", values={"a": "{b}", "b": "c"}) == "{b} c"
