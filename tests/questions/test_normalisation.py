"""The normal form beside SQuAD's own function, Unicode's definitions, and texts in many scripts."""

import json
import re
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mralign.miniworld
from mralign.chat.thought import clean_answer
from mralign.questions.normalisation import key, normalize, visible, words


def squad(text):
    """SQuAD's `normalize_answer`, step by step as its evaluation script has it: the oracle for ASCII text."""
    lower = text.lower()
    bare = "".join(char for char in lower if char not in set(string.punctuation))
    without_articles = re.sub(r"\b(a|an|the)\b", " ", bare)
    return " ".join(without_articles.split())


ASCII_WORDS = st.lists(
    st.sampled_from(["the", "A", "an", "Then", "U.S.", "a+", "-", "x", "\t", "\x1c", "\x00a"])
    | st.text(st.characters(max_codepoint=127)),
    max_size=8,
).map(" ".join)


@given(st.text(st.characters(max_codepoint=127)) | ASCII_WORDS)
def test_on_ascii_the_normal_form_is_squads(text):
    assert normalize(text) == squad(text)
    # The road of other texts gives the same: a word that is not ASCII sends it there, and stays alone.
    assert normalize(f"{text} é") == f"{squad(text)} é".strip()


@given(st.text())
def test_the_normal_form_of_a_normal_form_is_itself(text):
    assert normalize(normalize(text)) == normalize(text)


@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_canonically_equal_texts_have_one_form(text, form):
    other = unicodedata.normalize(form, text)
    assert normalize(other) == normalize(text)
    assert words(other) == words(text)
    assert visible(other) == visible(text)


def test_every_character_is_what_unicode_says_it_is():
    """All of Unicode, by the categories and decompositions of its database."""
    for code in range(0x80, 0x110000):
        char = chr(code)
        category = unicodedata.category(char)
        if category in ("Cs", "Co", "Cn", "Lo"):  # Lo: below, and most of the 1.1 million
            continue
        found = normalize(f"x{char}y")
        if category[0] == "Z" or "WORDSPACE" in unicodedata.name(char, ""):
            assert found == "x y", hex(code)
        elif category[0] == "P" or category == "Cf":
            assert found == "xy", hex(code)
        elif category == "Nd":
            assert found == f"x{unicodedata.decimal(char)}y", hex(code)
        elif category in ("Lu", "Ll", "Lt"):
            assert found == normalize(f"x{char.upper()}y") == normalize(f"x{char.casefold()}y"), hex(code)
            assert found == normalize(f"x{unicodedata.normalize('NFKC', char)}y"), hex(code)


SPACELESS = (
    "CJK UNIFIED IDEOGRAPH",
    "HIRAGANA LETTER",
    "KATAKANA LETTER",
    "HANGUL SYLLABLE",
    "BOPOMOFO LETTER",
    "THAI CHARACTER KO",
    "LAO LETTER KO",
    "KHMER LETTER",
    "MYANMAR LETTER",
    "TIBETAN LETTER KA",
    "YI SYLLABLE",
    "TAI THAM LETTER",
)
SPACED = ("LATIN", "GREEK", "CYRILLIC", "ARABIC LETTER", "HEBREW LETTER", "DEVANAGARI LETTER", "ARMENIAN", "ETHIOPIC")


def test_letters_of_scripts_without_spaces_are_tokens_and_those_of_others_are_not():
    seen = set()
    for code in range(0x80, 0x20100):
        char = chr(code)
        name = unicodedata.name(char, "")
        if unicodedata.category(char) not in ("Lo", "Ll"):
            continue
        if spaceless := next((prefix for prefix in SPACELESS if name.startswith(prefix)), None):
            assert normalize(f"x{char}{char}y").split() == ["x", char, char, "y"], name
            seen.add(spaceless)
        elif name.startswith(SPACED):
            assert len(normalize(f"x{char}{char}y").split()) == 1, name
    assert seen == set(SPACELESS)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("北京是中国的首都。", "北 京 是 中 国 的 首 都"),
        ("2008年", "2008 年"),
        ("列奥纳多·达·芬奇", "列 奥 纳 多 达 芬 奇"),
        ("ﾄｳｷｮｳﾀﾜｰ", "ト ウ キ ョ ウ タ ワ ー"),
        ("か\u3099 ｶﾞ", "が ガ"),  # a voiced mark joins its letter, however both are written
        ("서울은 수도다", "서 울 은 수 도 다"),
        ("ที่1", "ที่ 1"),  # marks stay on their letter, and a number is one token
        ("ភ្នំពេញ", "ភ្ នំ ពេ ញ"),
        ("रवीन्द्रनाथ ठाकुर", "रवीन्द्रनाथ ठाकुर"),  # Devanagari has spaces
        ("A股 维生素 A", "a 股 维 生 素 a"),  # no English articles
        ("Ｔｈｅ Ｂｅａｔｌｅｓ", "beatles"),
    ],
)
def test_scripts_without_spaces_are_cut_into_characters(text, normal):
    assert normalize(text) == normal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Medellín", "Medelli\u0301n"),
        ("１９６９", "1969"),
        ("ﬁnance", "finance"),
        ("Elizabeth Ⅱ", "Elizabeth II"),
        ("H₂O", "H2O"),
        ("5 m²", "5 m2"),
        ("1ˢᵗ", "1st"),
        ("½", "1/2"),
        ("5½", "5 1/2"),
        ("٢٠٢٠", "2020"),
        ("O’Brien", "O'Brien"),
        ("O´Brien", "O'Brien"),
        ("Hawaiʻi", "Hawai'i"),
        ("“Heroes”", '"Heroes"'),
        ("«Heroes»", "Heroes"),
        ("1914–1918", "1914-1918"),
        ("Jean—Paul", "Jean-Paul"),
        ("Jean\u2011Paul", "Jean-Paul"),
        ("\u22125", "-5"),
        ("New\u00a0York", "New York"),
        ("New\u202fYork", "New York"),
        ("New\u3000York", "New York"),
        ("Hydro\u00adgen", "Hydrogen"),
        ("Algeria\u200e", "Algeria"),
        ("\ufeffParis\u200b", "Paris"),
        ("\u2067Paris\u2069", "Paris"),
        ("❤\ufe0f", "❤"),
        ("Straße", "STRASSE"),
        ("ΟΔΥΣΣΕΎΣ", "οδυσσεύς"),
        ("İstanbul", "Istanbul"),
        ("ISPARTA", "ısparta"),
        ("i\u0307stanbul", "istanbul"),
        ("iPhone™", "iPhone"),
        ("کتاب\u200cها", "کتابها"),
        ("ﷺ", "صلى الله عليه وسلم"),
    ],
)
def test_what_is_written_otherwise_is_the_same(one, other):
    assert normalize(one) == normalize(other) != ""
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10²", "102"),
        ("10⁻³", "10³"),
        ("101₂", "1012"),
        ("Medellín", "Medellin"),
        ("€5", "5"),
        ("20°", "20"),
        ("北京", "京北"),
        ("东京", "東京"),  # simplified and traditional characters are different characters
        ("a̱", "the"),
    ],
)
def test_what_differs_stays_different(one, other):
    assert normalize(one) != normalize(other)


def test_the_key_is_empty_only_where_nothing_can_be_seen():
    assert (key("The The"), key("+"), key("---"), key("A+")) == ("the the", "+", "---", "a+")
    assert key(" \u200b\u00ad\ufeff\u3000") == key("") == ""
    assert key("—") == "-"


def test_words_of_a_search_are_parted_by_punctuation_and_folded_as_answers_are():
    assert words("Well-known: the O’Brien, 1.5 km²") == ["well", "known", "the", "o", "brien", "1", "5", "km2"]
    assert words("北京（首都）") == ["北", "京", "首", "都"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # vowel signs are no punctuation
    assert words("20 ℃ ﬁne\x00x") == ["20", "c", "fine", "x"]
    assert words("\ud800 ?!") == []


def test_the_embedded_world_reads_as_before():
    """Its texts are ASCII, so their normal form is SQuAD's, and no answer of it is emptied or taken for a label."""
    data = Path(mralign.miniworld.__file__).parent / "data"
    rows = [json.loads(line) for path in sorted((data / "questions").glob("*.jsonl")) for line in path.open()]
    vocabulary = json.loads((data / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(rows) == 1000
    texts = [text for row in rows for text in (row["question"], *row["answer"])]
    for text in [*texts, *(word.replace("▁", " ") for word in vocabulary)]:
        assert text.isascii() and normalize(text) == squad(text)
    for row in rows:
        for answer in row["answer"]:
            assert normalize(answer) == answer == clean_answer(f"\n\n{answer} .").removesuffix(" .")


def test_the_ethiopic_word_space_parts_words():
    assert normalize("አዲስ፡አበባ") == normalize("አዲስ አበባ") == "አዲስ አበባ"
