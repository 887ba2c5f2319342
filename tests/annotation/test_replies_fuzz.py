"""A hundred thousand broken replies: each ends as labels that are valid, or as a reason (method.md §2a, validation).

A broken reply is a right one with one or more mutations of a kind. Where the kind changes nothing that matters (`SAFE`)
the labels must survive equal; where nothing can be saved (`HOPELESS`) none may come. Where the broken reply is still an
object, `lawful`, which is method.md's sentence on validation read literally, says whether it is accepted. Seeded; the
counts are printed (`-s`).
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mralign.annotation.consensus import Span, label_fault, validate
from mralign.annotation.replies import Opinion, read_adjudication, read_annotation
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.asking.json_reply import Fault

Labels = Opinion | tuple[StepLabels, ...]
REASONS = {"not_json", "wrong_shape", "bad_segments", "bad_labels"}
CASES = 102_000


@dataclass(frozen=True)
class Base:
    """A right reply, and what it must be read as. With `spans` it is an adjudicator's."""

    reply: dict[str, Any]
    text: str
    labels: Labels
    segments: int
    spans: tuple[Span, ...] | None


def read(text: str, base: Base) -> Labels | Fault:
    if base.spans is None:
        return read_annotation(text, segments=base.segments, taxonomy=PAPER)
    return read_adjudication(text, spans=base.spans, taxonomy=PAPER)


# --- right replies -----------------------------------------------------------------------------------------------


def right(rng: random.Random) -> Base:
    segments = rng.randint(1, 9)
    cuts = sorted(rng.sample(range(1, segments), rng.randint(0, segments - 1)))
    spans = tuple((first, end - 1) for first, end in zip([0, *cuts], [*cuts, segments], strict=True))
    entries = [
        [
            {"label": label, "confidence": rng.choice([0, 3, 7, 10, 6.5, 9.0])}
            for label in rng.sample(PAPER.labels, rng.randint(0, 2))
        ]
        for _ in spans
    ]
    steps = tuple(
        StepLabels(*span, tuple(e["label"] for e in entry), tuple(float(e["confidence"]) for e in entry))
        for span, entry in zip(spans, entries, strict=True)
    )
    if rng.random() < 0.3:
        reply = {f"dispute_{number}": entry for number, entry in enumerate(entries, start=1)}
        return Base(reply, json.dumps(reply), steps, segments, spans)
    reply = {
        "steps": [
            {"segments": list(range(first, last + 1)), "labels": entry}
            for (first, last), entry in zip(spans, entries, strict=True)
        ],
        "confidence": rng.randint(0, 10),
    }
    return Base(reply, json.dumps(reply), Opinion(steps, float(reply["confidence"])), segments, None)


# --- docs/method.md's validation, read literally ----------------------------------------------------------------------


def lawful(reply: Any, base: Base) -> bool:
    """Known labels only, none twice, at most two; indices ascending, contiguous, in range, disjoint, covering all."""
    try:
        if base.spans is not None:
            return isinstance(reply, dict) and all(
                lawful_labels(reply[f"dispute_{number + 1}"]) for number in range(len(base.spans))
            )
        indices = [index for step in reply["steps"] for index in step["segments"]]
        return (
            type(reply["steps"]) is list
            and all(type(step["segments"]) is list and step["segments"] for step in reply["steps"])
            and all(type(index) is int for index in indices)
            and indices == list(range(base.segments))
            and all(lawful_labels(step["labels"]) for step in reply["steps"])
            and lawful_number(reply["confidence"])
        )
    except (KeyError, TypeError, IndexError):
        return False


def lawful_labels(labels: Any) -> bool:
    names = [entry["label"] for entry in labels]
    return (
        type(labels) is list
        and len(names) <= 2
        and all(type(name) is str and name in PAPER.labels for name in names)
        and len(names) == len(set(names))
        and all(lawful_number(entry["confidence"]) for entry in labels)
    )


def lawful_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 10


# --- mutations of the object -------------------------------------------------------------------------------------

WRONG = [None, True, False, 0, 1, -1, 10, 11, 10**30, 0.0, 0.5, -0.0, 7.5, 1e308, float("nan"), float("inf")]
WRONG += [-float("inf"), "", "0", "framing", "guessing", "<start>", "\ud800", "\x00", [], [0], [[]], {}, {"a": 1}]
WRONG += [{"label": "framing", "confidence": 5}, [{"label": "framing", "confidence": 5}]]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def of_type(reply: Any, kind: type, rng: random.Random) -> Any:
    """Some list or object inside the reply, or the reply."""
    return rng.choice([reply, *(box[key] for box, key in places(reply) if type(box[key]) is kind)])


def wrong_type(reply: Any, rng: random.Random) -> None:
    box, key = rng.choice(places(reply))
    box[key] = copy.deepcopy(rng.choice(WRONG))


def dropped(reply: Any, rng: random.Random) -> None:
    box, key = rng.choice(places(reply))
    del box[key]


def doubled(reply: Any, rng: random.Random) -> None:
    box = of_type(reply, list, rng)
    if isinstance(box, list) and box:
        box.insert(rng.randrange(len(box) + 1), rng.choice(box))


def shuffled(reply: Any, rng: random.Random) -> None:
    box = of_type(reply, list, rng)
    if isinstance(box, list):
        rng.shuffle(box)


def indices(reply: Any, rng: random.Random) -> None:
    """Numbers moved: negative, twice, too high; in an adjudication, its confidences."""
    numbers = [(box, key) for box, key in places(reply) if type(box[key]) is int]
    for box, key in rng.sample(numbers, min(len(numbers), rng.randint(1, 3))):
        box[key] = rng.choice([box[key] - 1, box[key] + 1, -box[key], 2**63, -(2**63), 10**25, box[key]])


def relabelled(reply: Any, rng: random.Random) -> None:
    for box, key in places(reply):
        if key == "label" and isinstance(box[key], str) and rng.random() < 0.5:
            odd = [box[key].upper(), box[key] + " ", box[key].replace("a", "а"), box[key].replace("i", "ı"), "<stop>"]
            box[key] = rng.choice([*odd, rng.choice(PAPER.labels), 5])


def more_labels(reply: Any, rng: random.Random) -> None:
    for box, key in places(reply):
        if type(box[key]) is list and (key == "labels" or key.startswith("dispute")):
            box[key] += [{"label": rng.choice(PAPER.labels), "confidence": 5} for _ in range(rng.randint(0, 3))]


def number_kinds(reply: Any, rng: random.Random) -> None:
    """Bools, texts and other kinds of the same number."""
    numbers = [(box, key) for box, key in places(reply) if type(box[key]) in (int, float)]
    if numbers:
        box, key = rng.choice(numbers)
        box[key] = rng.choice([bool, str, float, lambda x: [x], lambda x: x + 1e-12, lambda x: f"{x}/10"])(box[key])


def not_numbers(reply: Any, rng: random.Random) -> None:
    for box, key in places(reply):
        if key == "confidence" and rng.random() < 0.4:
            box[key] = rng.choice([float("nan"), float("inf"), -float("inf"), -1, 10.000001, 1e400, -1e-320])


def unwrapped(reply: Any, rng: random.Random) -> None:
    """A list in place of its element, or the element in place of its list."""
    box, key = rng.choice(places(reply))
    box[key] = box[key][0] if isinstance(box[key], list) and box[key] else [box[key]]


OBJECT: dict[str, Callable[[Any, random.Random], None]] = {
    "wrong type": wrong_type,
    "key or item dropped": dropped,
    "item doubled": doubled,
    "items shuffled": shuffled,
    "indices moved": indices,
    "labels renamed": relabelled,
    "labels added": more_labels,
    "kinds of number": number_kinds,
    "NaN, Infinity, out of range": not_numbers,
    "list unwrapped": unwrapped,
}

# --- mutations of the text ---------------------------------------------------------------------------------------

ODD = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ",",
    ":",
    "\\",
    "\\u",
    "\\ud800",
    "\ud800",
    "\udfff",
    "\x00",
    "\ufeff",
    "\n",
    "-",
    "e9",
]
ODD += [
    "0",
    "9",
    "١",
    "９",
    "“",
    "”",
    "，",
    "：",
    "｛",
    "ａ",
    "ﬁ",
    "\u202e",
    "\u2028",
    "NaN",
    "true",
    "null",
    "//",
    "/*",
    "```",
]
ODD += ["<think>", "</think>", ".", "1e999", "0x1", " "]
LOOKALIKES = str.maketrans(
    {'"': "”", ":": "：", ",": "，", "{": "｛", "0": "０", "1": "１", "a": "а", "i": "і", "e": "е"}
)
PROSE = [
    "Sure!",
    "Here is [my] JSON:",
    "```",
    "Done.\n",
    "\ufeff",
    "\x00",
    "\ud800",
    "</think>",
    '"',
    "0,",
    "Ω≈ç√",
    "] [",
    "  ",
]


def somewhere(text: str, rng: random.Random) -> int:
    return rng.randrange(len(text) + 1)


def spliced(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        at = somewhere(text, rng)
        text = text[:at] + rng.choice(ODD) + text[at + rng.randint(0, 2) :]
    return text


def lookalike(text: str, rng: random.Random) -> str:
    at, length = somewhere(text, rng), rng.randint(1, 12)
    return text[:at] + text[at : at + length].translate(LOOKALIKES) + text[at + length :]


def moved(text: str, rng: random.Random) -> str:
    first, second, third = sorted(somewhere(text, rng) for _ in range(3))
    return text[:first] + text[second:third] + text[first:second] + text[third:]


def key_twice(text: str, rng: random.Random) -> str:
    """A key and its value once more, before it."""
    return text.replace(
        *rng.choice([('{"', '{"confidence": 1, "confidence": 2, "'), ('"label":', '"label": 1, "label":')]), 1
    )


def two_objects(text: str, rng: random.Random) -> str:
    return rng.choice(["", "\n", ", ", "\nor:\n"]).join([text, rng.choice([text, "{}", "{", '{"steps": []}'])])


def fenced(text: str, rng: random.Random) -> str:
    return (
        rng.choice(["```json\n", "```\n", "``` ", "```JSON\r\n", "~~~\n"])
        + text
        + rng.choice(["\n```", "```", "", "\n~~~"])
    )


def prose(text: str, rng: random.Random) -> str:
    before, after = rng.choices(PROSE, k=rng.randint(0, 3)), rng.choices(PROSE, k=rng.randint(0, 3))
    return " ".join(before) + text + " ".join(after)


def thought(text: str, rng: random.Random) -> str:
    inside = rng.choice(["", "\n\n", "Hm. {", text[: somewhere(text, rng)], text, "<think> [[[ ```", "\ud800\x00"])
    return rng.choice(["", "\n ", "\t"]) + "<think>" + inside + "</think>" + rng.choice(["", "\n\n", " Now: "]) + text


def laid_out(text: str, rng: random.Random) -> str:
    reply = json.loads(text)
    space = rng.choice([None, 0, 1, "\t"])
    return json.dumps(dict(reversed(reply.items())), indent=space, separators=rng.choice([(",", ":"), (" , ", "\n: ")]))


def more_keys(text: str, rng: random.Random) -> str:
    value = json.dumps(rng.choice([*WRONG[:20], "</think>"]))
    return text[:-1] + f', "{rng.choice(["note", "x", "Steps", "dispute_0"])}": {value}}}'


SAFE = {
    "fence": fenced,
    "prose": prose,
    "thought": thought,
    "order and white space": laid_out,
    "more keys": more_keys,
}
TEXT = {
    "cut short": lambda text, rng: text[: rng.randrange(len(text))],
    "cut at the front": lambda text, rng: text[rng.randrange(1, len(text)) :],
    "cut in a fence": lambda text, rng: "```json\n" + text[: rng.randrange(len(text))] + "\n```",
    "thought without end": lambda text, rng: "<think>" + prose(text, rng).replace("</think>", ""),
    "key twice": key_twice,
    "several objects": two_objects,
    "quotes": lambda text, rng: text.replace('"', rng.choice(["'", "“", '\\"', "", '""'])),
    "no white space, or other": lambda text, rng: text.replace(" ", rng.choice(["", "\u00a0", "\x00", "\u3000", "\n"])),
    "pieces moved": moved,
    "lookalikes": lookalike,
    "odd text spliced in": spliced,
}
HOPELESS = {"cut short", "cut at the front", "cut in a fence", "thought without end", "key twice", "several objects"}


def text_of(kind: str, base: Base, rng: random.Random) -> tuple[str, Any]:
    """A mutated reply, and its object where it still has one."""
    if kind in SAFE:
        return SAFE[kind](base.text, rng), None
    if kind in TEXT:
        return TEXT[kind](base.text, rng), None
    reply = json.loads(base.text)
    for _ in range(rng.choice([1, 1, 2])):
        if places(reply):
            OBJECT[kind](reply, rng)
    return json.dumps(reply), reply


# --- the promises ------------------------------------------------------------------------------------------------


def check(result: Labels | Fault, base: Base) -> str:
    """That it is valid labels or a reason, whatever it was made from: the outcome."""
    if isinstance(result, Fault):
        assert result.reason in REASONS
        assert 0 < len(result.detail) <= 500
        assert result.detail.encode("utf-8")
        return result.reason
    if base.spans is None:
        assert isinstance(result, Opinion)
        assert validate(result.steps, segments=base.segments, taxonomy=PAPER) is None
        assert type(result.confidence) is float and 0 <= result.confidence <= 10
    else:
        assert isinstance(result, tuple)
        assert tuple((step.first_segment, step.last_segment) for step in result) == base.spans
        assert not any(label_fault(step, taxonomy=PAPER) for step in result)
    steps = result.steps if isinstance(result, Opinion) else result
    assert all(type(confidence) is float for step in steps for confidence in step.confidences)  # Parquet's type
    return "labels"


def from_object(reply: Any, base: Base) -> Labels:
    """Labels of a lawful object, literally."""

    def step(first: int, last: int, labels: Any) -> StepLabels:
        return StepLabels(first, last, tuple(e["label"] for e in labels), tuple(e["confidence"] for e in labels))

    if base.spans is not None:
        return tuple(step(*span, reply[f"dispute_{number}"]) for number, span in enumerate(base.spans, start=1))
    steps = tuple(step(s["segments"][0], s["segments"][-1], s["labels"]) for s in reply["steps"])
    return Opinion(steps, reply["confidence"])


def object_in(text: str) -> Any:
    """The object that a text with an accepted reply must hold, from its first brace on; stray braces may follow."""
    body = text.lstrip()
    body = body[body.index("</think>") :] if body.startswith("<think>") else body
    body = body[body.index("{") :]
    while True:
        body = body[: body.rindex("}") + 1]
        try:
            return json.loads(body)
        except json.JSONDecodeError:
            body = body[:-1]


def test_a_hundred_thousand_broken_replies_end_as_labels_or_as_a_reason() -> None:
    rng = random.Random(20_250_802)
    bases = [right(rng) for _ in range(600)]
    for base in bases:
        assert read(base.text, base) == base.labels
        assert lawful(base.reply, base)
    kinds = [*SAFE, *TEXT, *OBJECT]
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(CASES):
        kind, base = kinds[number % len(kinds)], bases[rng.randrange(len(bases))]
        text, reply = text_of(kind, base, rng)
        result = read(text, base)
        outcome = check(result, base)
        counts[kind, outcome] += 1
        if kind in SAFE:
            assert result == base.labels, (kind, text)
        elif kind in HOPELESS and text != base.text:
            assert outcome != "labels", (kind, text)
        elif reply is not None:
            assert (outcome == "labels") == lawful(reply, base), (kind, text, result)
        if outcome == "labels":
            assert result == from_object(object_in(text), base), (kind, text)
    report(counts, kinds=kinds)
    assert sum(counts.values()) == CASES >= 100_000
    # The corpus reaches every outcome, and none of its kinds is idle.
    assert {outcome for _, outcome in counts} == REASONS | {"labels"}
    assert all(sum(counts[kind, reason] for reason in REASONS) > 100 for kind in kinds if kind not in SAFE)
    assert all(counts[kind, "labels"] > 50 for kind in OBJECT)


def report(counts: Counter[tuple[str, str]], *, kinds: list[str]) -> None:
    outcomes = ["labels", *sorted(REASONS)]
    print("\n" + f"{'kind':28}" + "".join(f"{outcome:>14}" for outcome in outcomes))
    for kind in kinds:
        print(f"{kind:28}" + "".join(f"{counts[kind, outcome]:14,}" for outcome in outcomes))
    totals = [sum(counts[kind, outcome] for kind in kinds) for outcome in outcomes]
    print(f"{'together':28}" + "".join(f"{total:14,}" for total in totals))


# --- giants ------------------------------------------------------------------------------------------------------


def giants() -> dict[str, str]:
    step = '{"segments": [%d], "labels": []}'
    label = '{"label": "framing", "confidence": 5}'
    nested = {
        f"{depth:,} deep": '{"steps": ' + "[" * depth + "]" * depth + ', "confidence": 1}' for depth in (985, 10**5)
    }
    return nested | {
        "10,000 steps": '{"steps": [' + ",".join(step % i for i in range(10_000)) + '], "confidence": 1}',
        "10,000 steps on one segment": '{"steps": [' + ",".join([step % 0] * 10_000) + '], "confidence": 1}',
        "10,000 labels": '{"steps": [{"segments": [0], "labels": ['
        + ",".join([label] * 10_000)
        + ']}], "confidence": 1}',
        "an index of 4,300 digits": '{"steps": [' + step.replace("%d", "9" * 4300) + '], "confidence": 1}',
        "an index of 4,301 digits": '{"steps": [' + step.replace("%d", "9" * 4301) + '], "confidence": 1}',
        "minus 100,000 digits": '{"steps": [' + step.replace("%d", "-" + "9" * 10**5) + '], "confidence": 1}',
        "a confidence of 4,300 digits": '{"steps": [], "confidence": ' + "9" * 4300 + "}",
        "a confidence of 1e(100,000 digits)": '{"steps": [], "confidence": 1e' + "9" * 10**5 + "}",
        "10,000 keys": "{" + ",".join(f'"{i}": 1' for i in range(10_000)) + "}",
        "10,000 objects": '{"steps": [], "confidence": 1}' * 10_000,
        "1 MB of thought": "<think>" + "{" * 2**20,
        "1 MB of fences": "```json\n" * 2**17,
        "1 MB of escapes": '{"' + "\\" * 2**20,
        "a label of 1 MB": '{"steps": [{"segments": [0], "labels": [{"label": "'
        + "\\ud800" * 2**17
        + '", "confidence": 1}]}]}',
    }


def test_giants_end_as_a_reason() -> None:
    rng = random.Random(7)
    bases = [base for base in (right(rng) for _ in range(40)) if base.segments > 1]
    annotator = next(base for base in bases if base.spans is None)
    adjudicator = next(base for base in bases if base.spans is not None)
    for name, text in giants().items():
        for wrapped in (text, f"```json\n{text}\n```", f"<think>{{</think>{text}"):
            assert check(read(wrapped, annotator), annotator) in REASONS, name
            assert check(read(wrapped, adjudicator), adjudicator) in REASONS, name
            as_ruling = wrapped.replace("steps", "dispute_1").replace("confidence", "dispute_2")
            assert check(read(as_ruling, adjudicator), adjudicator) in REASONS, name
