import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.questions.matching import answer_matches, can_match, contains, equals, thought_matches, token_places
from mralign.questions.normalisation import normalize

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
        ("“Paris” — yes", "paris yes"),
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


@pytest.mark.parametrize("alias", ["", " \u00a0", "\u200b", "\u00ad\ufeff"])
def test_an_alias_of_which_nothing_can_be_seen_never_matches(alias):
    assert not can_match(alias)
    for answer in ("", "the", "---", "anything", alias):
        assert not contains(answer, [alias])
        assert not equals(answer, [alias])


def test_equals_is_of_the_whole_answer():
    assert equals("The Michio Sugeno.", ["michio sugeno"])
    assert not equals("It is Michio Sugeno.", ["michio sugeno"])
    assert not equals("anything", [])


def test_answer_modes_differ_and_unknown_ones_are_refused():
    found = {
        (mode, thinking): answer_matches("It is Paris", ["Paris"], mode=mode, thinking=thinking)
        for mode in ("exact", "contains", "paper")
        for thinking in (True, False)
    }
    assert [key for key, right in found.items() if right] == [("contains", True), ("contains", False), ("paper", False)]
    assert all(answer_matches("Paris.", ["paris"], mode=mode, thinking=thinking) for mode, thinking in found)
    with pytest.raises(ValueError, match=r"'fuzzy'.*exact, contains, paper"):
        answer_matches("a", ["a"], mode="fuzzy", thinking=True)


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


@pytest.mark.parametrize(
    ("thought", "aliases", "held"),
    [
        ("中国的首都是北京，不是上海。", ["北京"], True),
        ("中国的首都是北京，不是上海。", ["京北", "北海"], False),
        ("答案是２００８年八月。", ["2008年"], True),
        ("レオナルド・ダ・ヴィンチは画家です。", ["レオナルドダヴィンチ"], True),
        ("เมืองหลวงคือกรุงเทพมหานคร", ["กรุงเทพ"], True),
        ("เมืองหลวงคือกรุงเทพมหานคร", ["เทพกรุง"], False),
        ("프랑스의 수도는 파리입니다.", ["파리"], True),
        ("서울 대학교", ["서울대학교"], True),  # parted or not
        ("The capital, 北京, is old.", ["北京"], True),
        ("A Han alias 人 in English", ["人"], True),
    ],
)
def test_scripts_without_spaces_are_matched_by_their_characters(thought, aliases, held):
    assert contains(thought, aliases) == held
    assert (token_places(thought, aliases) is not None) == held


def test_a_right_chinese_answer_is_right():
    assert equals("北京。", ["北京"]) and equals("「北京」", ["北京市", "北京"]) and equals("北 京", ["北京"])
    assert not equals("北京市", ["北京"])
    assert answer_matches("首都是北京。", ["北京"], mode="paper", thinking=False)


EMPTIED = [
    # alias, texts that equal it, texts that hold it, texts that do not
    (
        "A",
        ["A", "a", "A.", "(A)", '"A"', "**A**", " a "],
        ["vitamin A.", "So it is A", "Options: (A) or B", "I think **A**", "“A”, he said"],
        ["It was in a party", "grade A+", "AA", "", "vitamin a dose", "She has a b"],
    ),
    (
        "A",
        ["A"],
        ["Blood type A is rare", "vitamin A helps", "A is right", "A or B: A"],
        ["A dog and a cat.", "So.\nA cat", "1. A dog", "the film A Beautiful Mind"],
    ),
    ("a", ["a", "A", "a."], ["the letter a.", "write 'a' here"], ["a dog", "It is a dog", "an apple"]),
    ("The The", ["The The", "the the", "The The."], ["a song by The The in 1986"], ["the", "Then the", "the band"]),
    ("the", ["the", "The"], ["the word 'the'", "most frequent: the."], ["the word", "The word", "of the kind"]),
    ("+", ["+", "'+'", "+."], ["the + sign", "write '+' here", "it is +"], ["2+2", "C++", "+ item", "++", ""]),
    ("---", ["---"], ["three dashes --- so"], ["--", "----", "text\n---\ntext", "a---b"]),
    (")", [")"], ["the sign ')' closes", "close it with )"], ["(so)", 'he said "no")', "1) first", ""]),
    ("*", ["*", "`*`"], ["the symbol `*` here", "the symbol * here"], ["* item\n* item", "**bold**", "*a*"]),
    ("A+", ["A+", "a+", "A+."], ["her grade was A+, twice", "an A+"], ["A", "a", "grade A", "A++"]),
    ("？", ["?", "？"], ["the sign '？' is"], ["Is it？ No", "Who?"]),
]


@pytest.mark.parametrize(("alias", "same", "holding", "others"), EMPTIED)
def test_an_alias_that_normalisation_empties_is_compared_as_it_is_written(alias, same, holding, others):
    assert normalize(alias) == "" and can_match(alias)
    for text in same:
        assert equals(text, [alias]) and contains(text, [alias]), text
    for text in holding:
        assert contains(text, [alias]) and not equals(text, [alias]), text
        first, last, tokens = token_places(text, [alias])
        assert 0 <= first <= last < tokens
    for text in others:
        assert not contains(text, [alias]) and not equals(text, [alias]) and token_places(text, [alias]) is None, text


def test_what_has_a_normal_form_keeps_squads():
    assert equals("C", ["C++"]) and equals("c#", ["C"])
    assert equals("B", ["(B)"]) and not equals("A", ["B"])


@given(st.text(), st.lists(st.text(st.characters(max_codepoint=127), max_size=4), max_size=3))
def test_places_are_there_where_something_is_contained(haystack, aliases):
    assert (token_places(haystack, aliases) is not None) == contains(haystack, aliases)


def test_a_thought_about_choices_does_not_hold_the_answer_by_its_letter():
    golds = ["Paris", "B", "B) Paris"]
    wrong = "A is Rome and B may be right, but C) Oslo is it."
    assert answer_matches("B", golds, mode="exact", thinking=True)
    assert contains(wrong, golds)
    assert not thought_matches(wrong, golds)
    assert token_places(wrong, golds) is None
    assert thought_matches("So it is Paris.", golds)
    assert thought_matches("Vitamin B helps.", ["B"])  # an answer of its own, no letter of a choice


def test_brackets_without_end_are_unwrapped():
    deep = "(" * 5_000 + "A" + ")" * 5_000
    assert equals(deep, ["A"])
    assert not equals("(" * 5_000 + ")" * 5_000, ["A"])


def test_a_thought_that_repeats_an_article_is_read_in_one_pass():
    thought = "the A " * 40_000 + "is A."
    assert contains(thought, ["A"])
    assert token_places(thought, ["A"]) is not None
