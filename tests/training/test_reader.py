import numpy as np
import pyarrow as pa
import pytest
from tiny_policy import commit_examples, make_rows

from mralign.rows.schema import EXAMPLES
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.examples import content_hash, example_row, token_weights
from mralign.training.index import index_rows, read_index, write_index
from mralign.training.reader import Reader


def test_examples_come_in_the_order_asked_for_with_the_weights_of_their_steps(tmp_path):
    examples, weights = commit_examples(tmp_path)
    index = read_index(examples)
    reader = Reader(index, examples=examples, weights=weights)
    rows, steps = make_rows()
    by_id = {row["row_id"]: (row, step["step_weights"]) for row, step in zip(rows, steps, strict=True)}
    places = [5, 0, 12, 5, 7]
    found = reader.fetch(places)
    assert found[0].row_id == found[3].row_id
    for place, example in zip(places, found, strict=True):
        row, step_weights = by_id[example.row_id]
        assert example.prompt_ids.tolist() == row["prompt_token_ids"]
        assert example.completion_ids.tolist() == row["token_ids"]
        assert example.polarity == row["polarity"] == index.polarity_N[place]
        assert example.weights_T.tolist() == token_weights(row["token_step"], step_weights).tolist()
        assert example.weights_T[-1] == 1.0  # the answer
        assert len(row["token_ids"]) == index.completion_tokens_N[place]
        assert content_hash(np.array(row["token_ids"], np.int32).tobytes()) == index.completion_hash_N[place]
    assert len({e.row_id for e in reader.fetch(range(len(index)))}) == 13


def test_the_order_does_not_depend_on_how_examples_are_cut_into_parts(tmp_path):
    orders = []
    for parts in (1, 3, 5):
        examples, _ = commit_examples(tmp_path / str(parts), parts=parts)
        index = read_index(examples)
        orders.append([e.row_id for e in Reader(index, examples=examples).fetch(range(13))])
        same = index.question_N[:, None] == index.question_N[None]
        names = np.array([row_id.split("/")[0] for row_id in orders[-1]])
        assert (same == (names[:, None] == names[None])).all()
    assert orders[0] == orders[1] == orders[2]


def test_a_step_without_weight_is_refused():
    assert token_weights([0, 0, 1, 2, -1, -1], [0.5, 2.0, 1.25]).tolist() == [0.5, 0.5, 2.0, 1.25, 1.0, 1.0]
    with pytest.raises(ValueError, match="step 2, but there are weights for 2"):
        token_weights([0, 2], [1.0, 1.0])


def test_what_is_held_does_not_grow_with_the_corpus(tmp_path):
    examples = StageDir(str(tmp_path / "examples"), stage="examples")
    for number in range(40):
        candidate = {
            "row_id": f"q{number}",
            "question_id": f"q{number}",
            "dataset": "big",
            "polarity": 1,
            "prompt_token_ids": [1] * 10,
            "token_ids": [number % 50] * 5000,
        }
        table = pa.Table.from_pylist([example_row(candidate, token_step=[-1] * 5000)], schema=EXAMPLES)
        examples.commit(part_name(f"{number:02d}"), table, schema=EXAMPLES)
    write_index(examples, [index_rows(examples, list(enumerate(examples.parts())))])
    reader = Reader(read_index(examples), examples=examples, cache_bytes=200_000)
    for place in range(40):
        reader.fetch([place])
        assert sum(part.nbytes for part in reader._kept.values()) <= 200_000
    assert len(reader._kept) == 4  # 5,000 tokens and their steps, 4 bytes each: about 40 kB a part


def test_an_entry_of_the_index_takes_41_bytes_and_no_tokens(tmp_path):
    examples, _ = commit_examples(tmp_path)
    index = read_index(examples)
    arrays = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == 41 * len(index)


def test_without_negatives_only_positive_examples_are_indexed(tmp_path):
    examples, _ = commit_examples(tmp_path)
    whole, positive = read_index(examples), read_index(examples, negatives=False)
    assert positive.row_N.tolist() == whole.row_N[whole.polarity_N > 0].tolist()
    assert len(positive) == (whole.polarity_N > 0).sum() < len(whole)


def test_parts_that_were_read_ahead_are_not_read_again(tmp_path, monkeypatch):
    examples, weights = commit_examples(tmp_path, parts=5)
    expected = Reader(read_index(examples), examples=examples, weights=weights).fetch(range(13))
    reader, read = Reader(read_index(examples), examples=examples, weights=weights), []
    plain = Reader._read
    monkeypatch.setattr(Reader, "_read", lambda self, name: read.append(name) or plain(self, name))
    reader.prefetch(np.arange(13))
    reader._ahead.shutdown(wait=True)
    assert sorted(read) == examples.parts()
    found = reader.fetch(range(13))
    assert len(read) == 5
    assert [e.row_id for e in found] == [e.row_id for e in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
        assert one.weights_T.tolist() == other.weights_T.tolist()
