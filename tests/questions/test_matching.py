import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.questions.matching import answer_matches, contains, equals, normalize

WORDS = st.lists(st.sampled_from(["paris", "art", "party", "1690", "são", "new", "york"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower, a\tlandmark!", "eiffeltower landmark"),
        ("14\u00a0December\u00a01972 UTC", "14 december 1972 utc"),
        ("an A+ for the theatre", "for theatre"),  # "A+" is an article once its sign is dropped
        ("---", ""),
        (")", ""),
        ("U.S.A.", "usa"),
        ("“Paris” — yes", "“paris” — yes"),  # SQuAD drops ASCII punctuation only
        ("Medellín", "medellín"),
    ],
)
def test_normalize_is_squads(text, normal):
    assert normalize(text) == normal


def test_contains_needs_token_boundaries():
    assert contains("A party of three.", ["Party"])
    assert not contains("A party of three.", ["art"])
    assert not contains("A party of three.", ["part"])
    assert contains("It was New York, I think", ["Boston", "new york"])
    assert not contains("It was new in York", ["new york"])
    assert contains("founded in 1,690.", ["1690"])


@pytest.mark.parametrize("alias", ["", "---", "the", " \u00a0"])
def test_an_alias_without_content_never_matches(alias):
    for answer in ("", "the", "---", "anything"):
        assert not contains(answer, [alias])
        assert not equals(answer, [alias])


def test_equals_is_of_the_whole_answer():
    assert equals("The Michio Sugeno.", ["michio sugeno"])
    assert not equals("It is Michio Sugeno.", ["michio sugeno"])
    assert not equals("anything", [])


def test_answer_modes_differ_and_unknown_ones_are_refused():
    assert not answer_matches("It is Paris", ["Paris"], mode="exact")
    assert answer_matches("It is Paris", ["Paris"], mode="contains")
    with pytest.raises(ValueError, match=r"'fuzzy'.*exact, contains"):
        answer_matches("a", ["a"], mode="fuzzy")


def test_a_bare_string_of_aliases_is_refused():
    with pytest.raises(ValueError, match="wrap it in a list"):
        contains("x y z", "x")


@given(st.text())
def test_normalize_is_idempotent(text):
    assert normalize(normalize(text)) == normalize(text)


@given(WORDS, WORDS)
def test_contains_is_containment_of_token_lists(haystack, alias):
    windows = [haystack[i : i + len(alias)] for i in range(len(haystack))]  # oracle: compare lists, not strings
    assert contains(" ".join(haystack), [" ".join(alias)]) == (alias in windows)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_an_equal_answer_is_contained(answer, aliases):
    if equals(answer, aliases):
        assert contains(answer, aliases)
