"""The closed taxonomy and its file form (method.md §2, §3)."""

import pickle
from pathlib import Path

import pytest
import yaml

from mralign.annotation.taxonomy import PAPER, Taxonomy, load_taxonomy

IN_ORDER = [
    *("framing", "backtracking", "self_verification", "evaluation", "decomposition", "chaining", "causal_reasoning"),
    *("retrieval", "analogy", "synthesis", "comparison", "categorization", "case_analysis", "explanation"),
    "summarization",
]


def _write(tmp_path: Path, content: object) -> str:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def test_paper_taxonomy_has_the_published_labels_in_order() -> None:
    assert list(PAPER.labels) == IN_ORDER
    assert PAPER.K == 17
    assert PAPER.states == ("<start>", *IN_ORDER, "<stop>")


def test_paper_macros_have_four_two_seven_and_two_labels() -> None:
    sizes = {macro: list(PAPER.macro.values()).count(macro) for macro in PAPER.macro.values()}
    assert sizes == {
        "Meta-cognitive Regulation": 4,
        "Problem-Solving Operations": 2,
        "Knowledge Operations": 7,
        "Explanatory & Communication": 2,
    }
    assert PAPER.macro["case_analysis"] == "Knowledge Operations"


def test_index_is_the_place_in_states() -> None:
    assert [PAPER.index(state) for state in ("<start>", "framing", "summarization", "<stop>")] == [0, 1, 15, 16]


def test_index_of_an_unknown_label_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"'guessing' is not in the taxonomy; allowed are \['framing'"):
        PAPER.index("guessing")


def test_a_file_of_another_size_gives_its_own_K(tmp_path: Path) -> None:
    rows = [{"label": name, "macro": "all"} for name in ("zeta", "alpha", "mid")]
    taxonomy = load_taxonomy(_write(tmp_path, {"labels": rows}))
    assert taxonomy.labels == ("zeta", "alpha", "mid")
    assert taxonomy.K == 5
    assert taxonomy.index("<stop>") == 4


def test_the_paper_written_as_a_file_is_the_paper(tmp_path: Path) -> None:
    rows = [{"label": n, "macro": PAPER.macro[n], "meaning": PAPER.meaning[n]} for n in PAPER.labels]
    assert load_taxonomy(_write(tmp_path, {"labels": rows})) == PAPER


def test_a_meaning_may_be_left_out(tmp_path: Path) -> None:
    rows = [{"label": "a", "macro": "all", "meaning": "says a"}, {"label": "b", "macro": "all"}]
    assert load_taxonomy(_write(tmp_path, {"labels": rows})).meaning == {"a": "says a"}


def test_a_meaning_of_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`meaning` names \['b'\], which are no labels"):
        Taxonomy(labels=("a",), macro={"a": "all"}, meaning={"b": "says b"})


def test_a_taxonomy_travels_between_processes_and_can_be_a_key() -> None:
    assert pickle.loads(pickle.dumps(PAPER)) == PAPER
    assert hash(PAPER) == hash(pickle.loads(pickle.dumps(PAPER)))


def test_sixty_four_labels_are_the_most() -> None:
    names = tuple(f"label_{number}" for number in range(65))
    assert Taxonomy(labels=names[:64], macro=dict.fromkeys(names[:64], "m")).K == 66
    with pytest.raises(ValueError, match="65 labels; allowed are 1 to 64"):
        Taxonomy(labels=names, macro=dict.fromkeys(names, "m"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": []}, "0 labels; allowed are 1 to 64"),
        (["framing"], "exactly one key, `labels`"),
        ({"labels": "framing"}, "exactly one key, `labels`"),
        ({"labels": [{"label": "a"}]}, "label 1 is .* exactly the keys label and macro"),
        ({"labels": [{"label": "a", "macro": "m"}, {"label": True, "macro": "m"}]}, "label 2 is .* quote them"),
        ({"labels": [{"label": "a", "macro": "m"}, {"label": "a", "macro": "n"}]}, r"\['a'\] occur more than once"),
        ({"labels": [{"label": "<stop>", "macro": "m"}]}, r"\['<stop>'\] cannot be used"),
        ({"labels": [{"label": " a", "macro": "m"}]}, r"\[' a'\] cannot be used"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, content: object, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_taxonomy(path)
    assert path in str(caught.value)


def test_a_macro_for_an_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in \['b'\]"):
        Taxonomy(labels=("a",), macro={"a": "m", "b": "m"})
