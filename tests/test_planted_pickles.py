"""Pickles in files from somebody else: question files, run directories, indices, models. None of them is run.

DeepSpeed's state files are in tests/training/test_checkpoint.py.
"""

import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from peft import LoraConfig, get_peft_model
from planted import Payload, pickled_column, planted, planted_parquet

from mralign.config import resolve_path
from mralign.questions.records import read_records
from mralign.retrieval.bm25 import open_index
from mralign.retrieval.corpus import read_corpus
from mralign.run.arrow_files import check_types, open_ipc
from mralign.run.store import StageDir
from mralign.serving.adapter import check_adapter, load_merged
from mralign.training.checkpoint import read_state


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "ran"


def test_the_payload_runs_where_it_is_unpickled(mark):
    pickle.loads(planted(mark))
    assert mark.is_dir()


def test_the_planted_column_runs_where_arrow_alone_reads_it(mark):
    """What our readers are compared with: Ray's type, once registered, unpickles its values."""
    pa.table({"question": pickled_column(mark, rows=1)}).to_pylist()
    assert mark.is_dir()


def test_question_file(tmp_path, mark):
    path = tmp_path / "questions.parquet"
    planted_parquet(path, mark, column="question", id=["a"], answer=["x"])
    with pytest.raises(ValueError, match=r"questions\.parquet: column 'question' has the extension type ray\.data"):
        list(read_records(str(path)))
    assert not mark.exists()


def test_corpus(tmp_path, mark):
    path = tmp_path / "corpus.parquet"
    planted_parquet(path, mark, column="text", id=["a"], title=["x"])
    with pytest.raises(ValueError, match=r"corpus\.parquet: column 'text' has the extension type"):
        list(read_corpus(str(path), fields={}))
    assert not mark.exists()


def test_part_of_a_run_directory(tmp_path, mark):
    planted_parquet(tmp_path / "part-0.parquet", mark, column="row_id", other=["x"])
    schema = pa.schema([("row_id", pa.string())])
    with pytest.raises(ValueError, match=r"part-0\.parquet: column 'row_id' has the extension type"):
        StageDir(str(tmp_path)).read(schema=schema).to_pylist()
    assert not mark.exists()


def test_a_payload_inside_a_list_or_dictionary_is_found(mark):
    column = pickled_column(mark, rows=1)
    nested = pa.schema([("steps", pa.list_(pa.struct([("label", column.type)])))])
    with pytest.raises(ValueError, match="column 'steps'"):
        check_types(nested, name="x")
    check_types(pa.schema([("id", pa.uuid()), ("value", pa.json_())]), name="x")  # Arrow's own


INDEX_FILES = ["data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"]


@pytest.fixture
def index(tmp_path):
    """A corpus, where its index lies, and the index."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "text": "the moon is far"}\n{"id": "2", "text": "the sun is hot"}\n')
    open_index(str(corpus), fields={}, directory=tmp_path)
    return corpus, next(tmp_path.glob("bm25-*"))


@pytest.mark.parametrize("name", INDEX_FILES)
def test_array_of_an_index(tmp_path, mark, index, name):
    corpus, place = index
    np.save(place / name, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"{place.name} cannot be read.*delete it"):
        open_index(str(corpus), fields={}, directory=tmp_path)
    assert not mark.exists()


def test_texts_of_an_index(tmp_path, mark, index):
    corpus, place = index
    (texts,) = place.glob("*.arrow")
    column = pickled_column(mark, rows=2)
    table = open_ipc(str(texts))
    changed = table.drop_columns("text").append_column("text", column)
    with pa.OSFile(str(place / "new"), "wb") as file, pa.ipc.new_file(file, changed.schema) as writer:
        writer.write_table(changed)
    (place / "new").replace(texts)
    with pytest.raises(ValueError, match="column 'text' has the extension type"):
        open_index(str(corpus), fields={}, directory=tmp_path)
    assert not mark.exists()


@pytest.fixture
def model(tmp_path):
    """The embedded model, in a directory of the test's own."""
    directory = tmp_path / "model"
    shutil.copytree(resolve_path("pkg://mralign.miniworld/data/model"), directory)
    return directory


def test_weights_of_a_model(model, mark):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(planted(mark))
    with pytest.raises(pickle.UnpicklingError):
        load_merged(str(model), adapters=[], dtype="float32")
    assert not mark.exists()


def test_weights_of_a_model_in_the_engine(model, mark):
    """vLLM's own reader of such files."""
    from vllm.model_executor.model_loader.weight_utils import pt_weights_iterator

    (model / "pytorch_model.bin").write_bytes(planted(mark))
    with pytest.raises(pickle.UnpicklingError):
        list(pt_weights_iterator([str(model / "pytorch_model.bin")], use_tqdm_on_load=False))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_other_files_of_a_model(model, mark, name):
    from transformers import AutoTokenizer

    (model / name).write_bytes(planted(mark))
    with pytest.raises((OSError, ValueError, TypeError)):
        AutoTokenizer.from_pretrained(str(model))
    assert not mark.exists()


@pytest.fixture
def adapter(tmp_path, model):
    """A fresh adapter on the embedded model, its weights as a pickle."""
    policy = get_peft_model(load_merged(str(model), adapters=[], dtype="float32"), LoraConfig(task_type="CAUSAL_LM"))
    policy.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    return tmp_path / "adapter"


def test_weights_of_an_adapter(model, adapter, mark):
    (adapter / "adapter_model.bin").write_bytes(planted(mark))
    with pytest.raises(ValueError, match=r"lacks adapter_model\.safetensors"):
        check_adapter(str(adapter))
    with pytest.raises(pickle.UnpicklingError):
        load_merged(str(model), adapters=[str(adapter)], dtype="float32")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["ray_train/checkpoint_manager_snapshot.json", "state.json", "manifest.json"])
def test_json_of_a_run_directory(tmp_path, mark, name):
    """What is read as JSON is never unpickled; Ray Train's own snapshot among it."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(planted(mark))
    with pytest.raises(ValueError):  # noqa: PT011  (JSON or UTF-8, as it happens)
        {"state.json": read_state, "manifest.json": _manifest}.get(name, _snapshot)(tmp_path)
    assert not mark.exists()


def _manifest(directory):
    return StageDir(str(directory)).manifest()


def _snapshot(directory):
    """Ray Train's reader of its snapshot, as it is when a training is resumed."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager

    reader = CheckpointManager.__new__(CheckpointManager)
    return reader._load_state((directory / "ray_train/checkpoint_manager_snapshot.json").read_bytes().decode())
