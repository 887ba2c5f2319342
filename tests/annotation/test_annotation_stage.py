import pyarrow as pa
import pytest

from mralign.annotation.stage import ANNOTATION_STAGE
from mralign.config import parse
from mralign.schema import CANDIDATES
from mralign.stage import Context
from mralign.store import StageDir, part_name


def test_without_a_candidate_the_run_stops_and_says_where_they_went(tmp_path):
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    source.commit(part_name("train-00-00000"), pa.Table.from_pylist([], schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = parse({"questions": {"train": [{"name": "a", "path": "a"}]}})
    with pytest.raises(ValueError, match=r"no candidate is left: .* --until candidates prints how many went where"):
        ANNOTATION_STAGE.run(Context(config, out, {"candidates": source}))
    assert not out.exists()
