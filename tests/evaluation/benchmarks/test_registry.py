"""Benchmarks are found by the names of their files, and what one says of itself holds together."""

import json
import sys
from dataclasses import fields

import jsonschema
import pytest

from mralign.asking.json_reply import Fault, read_reply, reply_schema
from mralign.config import FORMATS, Evaluation
from mralign.evaluation import benchmarks
from mralign.evaluation.benchmarks import find, measures, of_format, registry
from mralign.evaluation.benchmarks.benchmark import ROLES, Measure
from mralign.evaluation.scoring import SCORES

STEPS = [step for benchmark in registry().values() for step in benchmark.steps]


def test_a_benchmark_is_found_by_the_name_of_its_file():
    assert list(registry()) == ["factscore", "frames", "longfact", "short_answer", "triviaqa", "truthfulqa"]
    with pytest.raises(ValueError, match=r"'chess' is no benchmark; allowed are \['factscore', 'frames'"):
        find("chess")


def test_every_format_of_questions_has_one_benchmark():
    own = ("factscore", "frames", "longfact", "triviaqa", "truthfulqa")
    assert {format: of_format(format) for format in own} == dict(zip(own, own, strict=True))
    assert {of_format(format) for format in FORMATS if format not in own} == {"short_answer"}
    assert sum(not benchmark.formats for benchmark in registry().values()) == 1


@pytest.mark.parametrize(
    ("formats", "taken"), [("('frames',)", "format 'frames'"), ("()", "all formats that are left")]
)
def test_two_benchmarks_for_one_format_are_refused(tmp_path, monkeypatch, formats, taken):
    text = "from dataclasses import replace\nfrom mralign.evaluation.benchmarks import frames\n"
    (tmp_path / "zzz.py").write_text(f"{text}BENCHMARK = replace(frames.BENCHMARK, formats={formats})\n")
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    registry.cache_clear()
    try:
        with pytest.raises(ValueError, match=rf"the benchmarks \w+ and zzz both take {taken}; give one of them other"):
            registry()
    finally:
        monkeypatch.undo()
        registry.cache_clear()
        sys.modules.pop(f"{benchmarks.__name__}.zzz")


def test_a_key_means_the_same_in_every_benchmark():
    """Tables that know a measure by its key alone show it as each benchmark does."""
    told = ("title", "better", "unit", "paired", "gain")
    assert set(told) < {field.name for field in fields(Measure)}
    for benchmark in registry().values():
        for measure in benchmark.measures:
            other = measures()[measure.key]
            assert [getattr(measure, name) for name in told] == [getattr(other, name) for name in told]
            assert not measure.paired or measure.key in benchmark.columns
        assert set(benchmark.columns) <= set(SCORES.names)


def test_judges_are_asked_in_one_order():
    for benchmark in registry().values():
        places = [ROLES.index(step.role) for step in benchmark.steps]
        assert places == sorted(places)
        assert len({step.kind for step in benchmark.steps}) == len(benchmark.steps)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
def test_the_example_of_an_instruction_is_a_reply_and_its_schema_takes_nothing_else(step):
    example = json.loads(step.instruction[step.instruction.rindex('{"') :])
    assert read_reply(json.dumps(example), step.reply, alone=True).model_dump() == example
    jsonschema.validate(example, reply_schema(step.reply))
    for bad in ({}, {**example, "more": 1}, dict.fromkeys(example, 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, reply_schema(step.reply))
        assert isinstance(read_reply(json.dumps(bad), step.reply, alone=True), Fault)


@pytest.mark.parametrize("name", list(registry()))
def test_the_page_is_told_what_is_measured(name):
    said = find(name).explain(Evaluation())
    assert said.endswith(".")
    assert any(measure.title in said for measure in find(name).measures)
