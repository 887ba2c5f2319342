"""The stage `examples` on a real local Ray and the embedded tokenizer: which data sets become examples."""

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from mralign.config import parse, resolve_path
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, EXAMPLES
from mralign.run.part_names import part_name
from mralign.run.stage import Context
from mralign.run.store import StageDir
from mralign.training.examples import of_datasets
from mralign.training.index import read_index
from mralign.training.stage import EXAMPLES_STAGE, REFERENCE_STAGE, objective, training_stage

MODEL = "pkg://mralign.miniworld/data/model"


def config_of(*datasets, **examples):
    train = [{"name": name, "path": "a"} for name in ("nq", "sciq")]
    return parse(
        {
            "questions": {"train": train},
            "model": {"path": MODEL, "dtype": "float32"},
            "training": {"datasets": datasets},
            "examples": examples,
        }
    )


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """Two parts of candidates and their annotation: nq and sciq in turn, polarities +1 -1 0 in turn."""
    home = tmp_path_factory.mktemp("upstream")
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(MODEL))
    ids = tokenizer.encode("what", add_special_tokens=False)
    text = tokenizer.decode(ids)
    candidates, annotation = (StageDir(f"{home}/{name}", stage=name, fingerprint="t") for name in ("candidates", "an"))
    for part in range(2):
        rows = []
        for n in range(12):
            name = ("nq", "sciq")[n % 2]
            row = {"row_id": f"{name}/{part}-{n}/on/0", "question_id": f"{name}/{part}-{n}", "dataset": name}
            row |= {"polarity": (1, -1, 0)[n % 3], "prompt_token_ids": ids * (1 + n), "token_ids": ids, "text": text}
            row |= {"thought_start": 0, "thought_end": len(text), "segment_start": [0], "segment_end": [len(text)]}
            rows.append(row)
        steps = [{"first_segment": 0, "last_segment": 0, "labels": ["framing"]}]
        labelled = [{key: row[key] for key in ("row_id", "dataset", "polarity")} | {"steps": steps} for row in rows]
        candidates.commit(part_name(f"{part}"), pa.Table.from_pylist(rows, schema=CANDIDATES), schema=CANDIDATES)
        annotation.commit(part_name(f"{part}"), pa.Table.from_pylist(labelled, schema=ANNOTATIONS), schema=ANNOTATIONS)
    return {"candidates": candidates, "annotation": annotation}


def made(config, home, upstream):
    out = StageDir(str(home), stage="examples", fingerprint="t")
    return EXAMPLES_STAGE.run(Context(config, out, upstream)), out


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_only_the_chosen_data_set_becomes_examples(tmp_path, upstream):
    whole, everything = made(config_of(), tmp_path / "all", upstream)
    some, chosen = made(config_of("sciq"), tmp_path / "sciq", upstream)
    assert (whole.rows_in, whole.rows_out) == (16, 16)  # eight of twelve rows a part are positive or negative
    assert (some.rows_in, some.rows_out) == (8, 8)
    rows = everything.read(schema=EXAMPLES)
    assert chosen.read(schema=EXAMPLES) == of_datasets(rows, datasets=["sciq"])
    assert set(chosen.read(schema=EXAMPLES).column("dataset").to_pylist()) == {"sciq"}
    assert chosen.parts() == everything.parts()
    assert len(read_index(chosen)) == 8
    assert some.figures["positive"] + some.figures["negative"] == 8


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_a_row_that_is_not_chosen_is_no_reject(tmp_path, upstream):
    outcome, out = made(config_of("nq", max_length=5), tmp_path / "nq", upstream)
    reasons = out.read_rejects()
    assert outcome.rows_in == outcome.rows_out + reasons.num_rows == 8
    assert {row.split("/")[0] for row in reasons.column("row_id").to_pylist()} == {"nq"}
    assert set(reasons.column("reason").to_pylist()) == {"too_long"}


def test_rows_of_data_sets():
    table = pa.table({"dataset": ["a", "b", "a", "c"], "n": [0, 1, 2, 3]})
    assert of_datasets(table, datasets=["a", "c"]).column("n").to_pylist() == [0, 2, 3]
    assert of_datasets(table, datasets=["d"]).num_rows == 0
    assert of_datasets(table, datasets=()) is table


def test_the_choice_is_in_the_fingerprint_of_the_examples_alone():
    whole, named, one = (config_of(*names) for names in ((), ("sciq", "nq"), ("nq",)))
    everything = {"examples": {"max_length": 4096}, "training.datasets": []}
    assert EXAMPLES_STAGE.settings(whole) == EXAMPLES_STAGE.settings(named) == everything
    assert EXAMPLES_STAGE.settings(one) == everything | {"training.datasets": ["nq"]}
    for stage in (REFERENCE_STAGE, training_stage(objective(one))):  # which stand on the examples
        assert stage.settings(whole) == stage.settings(one)


def test_an_unknown_data_set_is_refused_with_those_that_there_are():
    EXAMPLES_STAGE.check(config_of("nq"))
    with pytest.raises(ValueError, match=r"training.datasets names \['nqq'\].*allowed are \['nq', 'sciq'\]"):
        EXAMPLES_STAGE.check(config_of("nq", "nqq"))
    imported = {"import_on": "on.jsonl", "import_off": "off.jsonl", "import_name": "mine"}
    EXAMPLES_STAGE.check(parse({"rollouts": imported, "training": {"datasets": ["mine"]}}))
    with pytest.raises(ValueError, match=r"allowed are \['mine'\]"):
        EXAMPLES_STAGE.check(parse({"rollouts": imported, "training": {"datasets": ["nq"]}}))
