import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mralign.chat.thought import split_thinking
from mralign.rollouts import segments
from mralign.training.tokens import token_offsets, token_steps

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"
SENTENCES = [
    "Okay, so the café in Medellín opened in 1690.\n\nWait, maybe it was São Paulo 😀.\n\n",
    "<think>\nHmm, let me check the naïve answer 😀😂.\n\nFirst,  the city.\n</think>\n\nAnswer: Zürich",
]
PIECES = st.lists(st.sampled_from(["a", "b c", "\n", "\n\n", " ", "\t", "é", "😀", "<think>", "."]), max_size=30)


def byte_level(*, trim_offsets, vocab_size=330):
    """A real byte-level BPE tokenizer: few merges, so that accents and emoji are spread over several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_end|>", "<|pad|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")


def sentencepiece_like():
    """Metaspace with byte fallback, as in Llama 2: the decoder strips the blank before its first token."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdé", "▁c", "▁d"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(dict.fromkeys(words))}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


BPE = byte_level(trim_offsets=True)
UNTRIMMED = byte_level(trim_offsets=False)


def offsets_by_bytes(tokenizer, ids, text):
    """Oracle for byte-level ids: a token starts at the character that holds its first byte."""
    alphabet = {chr(n): n for n in (*range(33, 127), *range(161, 173), *range(174, 256))}
    odd = [n for n in range(256) if n not in alphabet.values()]
    alphabet |= {chr(256 + i): n for i, n in enumerate(odd)}
    char_of_byte = [i for i, char in enumerate(text) for _ in char.encode()]
    spans, reached = [], 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        last = reached + len(bytes(alphabet[char] for char in token)) - 1
        spans.append((char_of_byte[reached], char_of_byte[last] + 1))
        reached = last + 1
    assert reached == len(char_of_byte)
    return spans


def test_steps_by_first_character():
    text = "<think>\nOne.\n\nTwo.\n\nThree\n</think>Hi"
    spans = segments(text, start=7, end=26)
    assert [text[a:b] for a, b in spans] == ["\nOne.", "Two.", "Three"]
    pieces = ["<think>", "\n", "One", ".\n\n", "Two.", "\n\nTh", "ree", "\n", "</think>", "Hi", ""]
    offsets, reached = [], 0
    for piece in pieces:
        offsets.append((reached, reached + len(piece)))
        reached += len(piece)
    steps = token_steps(offsets, segment_spans=spans, segment_steps=[0, 0, 1], thought_end=26)
    assert steps == [0, 0, 0, 0, 0, 0, 1, 1, -1, -1, -1]
    each = token_steps(offsets, segment_spans=spans, segment_steps=[0, 1, 2], thought_end=26)
    assert each == [0, 0, 0, 0, 1, 1, 2, 2, -1, -1, -1]
    straddling = [(25, 28)]  # "\n</": its first character is still thought
    assert token_steps(straddling, segment_spans=spans, segment_steps=[0, 1, 2], thought_end=26) == [2]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_white_space_before_a_segment_goes_with_it(end):
    """Oracle: docs/method.md sections 1 and 4, token by token."""
    pieces = [
        ("<think>", 0),
        (f" {end}", 0),  # before the first visible character
        ("One.", 0),
        (end + end, 0),  # the blank line behind a segment belongs to it
        (end, 1),  # a third line end stands before the next one's first visible character
        ("  ", 1),
        ("Two", 1),
        (f" {end}", 1),
        (f"{end} {end}", 1),  # its first character still belongs to the blank line behind the second segment
        (f" {end}", 2),
        ("Three", 2),
        (end, 2),
        ("</think>", -1),
        ("Hi", -1),
    ]
    text = "".join(piece for piece, _ in pieces)
    offsets, reached = [], 0
    for piece, _ in pieces:
        offsets.append((reached, reached + len(piece)))
        reached += len(piece)
    thought_end = text.index("</think>")
    spans = segments(text, start=7, end=thought_end)
    steps = token_steps(offsets, segment_spans=spans, segment_steps=range(len(spans)), thought_end=thought_end)
    assert steps == [step for _, step in pieces]


def test_steps_without_a_thought_are_all_answer():
    assert token_steps([(0, 1), (1, 2)], segment_spans=[], segment_steps=[], thought_end=-1) == [-1, -1]
    assert token_steps([], segment_spans=[(0, 1)], segment_steps=[0], thought_end=1) == []


@settings(deadline=None)
@given(PIECES, st.lists(st.integers(0, 6), max_size=60), st.integers(0, 80))
def test_every_token_gets_exactly_one_step(pieces, widths, cut):
    text = "".join(pieces) + "end"
    thought_end = min(cut, len(text))
    spans = segments(text, start=0, end=thought_end)
    if not spans:
        return
    offsets, reached = [], 0
    for width in widths:
        offsets.append((min(reached, len(text)), min(reached + width, len(text))))
        reached += width
    steps = token_steps(offsets, segment_spans=spans, segment_steps=list(range(len(spans))), thought_end=thought_end)
    assert len(steps) == len(offsets)
    for (first, _), step in zip(offsets, steps, strict=True):
        before = [i for i, (start, _) in enumerate(spans) if start <= first]  # oracle: the last segment begun
        assert step == (-1 if first >= thought_end else max(before, default=0))


@pytest.mark.parametrize("tokenizer", [BPE, UNTRIMMED])
@pytest.mark.parametrize("text", [*SENTENCES, "naïve 😀😂 ünïcode  blanks\n\n  😂", ""])
def test_canonical_ids_have_offsets_of_their_bytes(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert token_offsets(tokenizer, token_ids=ids, text=text) == offsets_by_bytes(tokenizer, ids, text)


def test_other_ids_of_the_same_text_have_offsets_of_their_bytes():
    text = "".join(SENTENCES)
    canonical = BPE(text, add_special_tokens=False)["input_ids"]
    single = [BPE.convert_tokens_to_ids(char) for token in BPE.convert_ids_to_tokens(canonical) for char in token]
    mixed = canonical[:20] + [
        BPE.convert_tokens_to_ids(char) for token in BPE.convert_ids_to_tokens(canonical[20:]) for char in token
    ]
    for ids in (single, mixed):
        assert ids != canonical
        assert BPE.decode(ids) == text
        assert token_offsets(BPE, token_ids=ids, text=text) == offsets_by_bytes(BPE, ids, text)


@pytest.mark.parametrize("tokenizer", [BPE, UNTRIMMED])
@settings(deadline=None)
@given(st.text(st.sampled_from("ab .\t\né😀😂ñ"), max_size=40), st.sampled_from([0, 0.5, 1]), st.randoms())
def test_any_tokenisation_has_offsets_of_its_bytes(tokenizer, text, share, random):
    tokens = []
    for token in tokenizer.tokenize(text):
        tokens += list(token) if random.random() < share else [token]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert token_offsets(tokenizer, token_ids=ids, text=text) == offsets_by_bytes(tokenizer, ids, text)


def test_special_tokens_have_no_width_unless_they_stand_in_the_text():
    end, pad = BPE.eos_token_id, BPE.pad_token_id
    ids = BPE("Hi é", add_special_tokens=False)["input_ids"]
    plain = offsets_by_bytes(BPE, ids, "Hi é")
    assert token_offsets(BPE, token_ids=[*ids, end], text="Hi é") == [*plain, (4, 4)]
    assert token_offsets(BPE, token_ids=[*ids, end, pad], text="Hi é") == [*plain, (4, 4), (4, 4)]
    assert token_offsets(BPE, token_ids=[*ids, end], text="Hi é<|im_end|>") == [*plain, (4, 14)]
    middle = token_offsets(BPE, token_ids=[ids[0], pad, *ids[1:], end], text="Hi é")
    assert middle == [plain[0], (plain[0][1],) * 2, *plain[1:], (4, 4)]
    letters = [BPE.convert_tokens_to_ids(c) for t in BPE.convert_ids_to_tokens(ids) for c in t]
    spelt = token_offsets(BPE, token_ids=[*letters, end], text="Hi é<|im_end|>")
    assert spelt == [(0, 1), (1, 2), (2, 3), (3, 4), (3, 4), (4, 14)]


def test_bytes_of_no_character_are_replacement_characters_in_the_text():
    emoji = BPE.convert_tokens_to_ids(list("ðŁĺĢ"))  # the four bytes of 😀 in the byte alphabet
    a = BPE.convert_tokens_to_ids("a")
    ids = [a, emoji[0], emoji[0], *emoji[1:], a, *emoji[:2]]
    text = BPE.decode(ids)
    assert text == "a\ufffd😀a\ufffd"
    starts = [start for start, _ in token_offsets(BPE, token_ids=ids, text=text)]
    assert starts[:7] == [0, 1, 2, 2, 2, 2, 3]
    assert starts[7] == 4
    noise = [emoji[0]] * 500
    offsets = token_offsets(BPE, token_ids=noise, text=BPE.decode(noise))
    assert [start for start, _ in offsets] == list(range(500))


def test_a_decoder_that_strips_blanks_and_spells_bytes():
    tokenizer = sentencepiece_like()
    pieces = ["▁", "a", "b", "▁c", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁d", "é", "</s>"]  # not canonical
    ids = tokenizer.convert_tokens_to_ids(pieces)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "ab c😀 dé"
    assert ids[:-1] != tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = [start for start, _ in token_offsets(tokenizer, token_ids=ids, text=text)]
    assert starts == [0, 0, 1, 2, 4, 4, 4, 4, 5, 7, 8]


@pytest.mark.parametrize("text", ["Hi", "Hi è", "Hi é and more", ""])
def test_ids_that_do_not_spell_the_text_are_refused(text):
    ids = BPE("Hi é", add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match="do not spell"):
        token_offsets(BPE, token_ids=ids, text=text)


class CountingTokenizer:
    """The real tokenizer, with the number of ids it was asked to decode."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0
        self.backend_tokenizer, self.all_special_ids = self, tokenizer.all_special_ids
        self.added_tokens_decoder = tokenizer.added_tokens_decoder

    def __call__(self, text, **options):
        return self.tokenizer(text, **options)

    def decode(self, ids, *, skip_special_tokens):
        self.decoded += len(ids)
        return self.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def test_long_traces_are_linear():
    text = "".join(SENTENCES) * 60
    ids = [BPE.convert_tokens_to_ids(char) for token in BPE.tokenize(text) for char in token]
    counting = CountingTokenizer(BPE)
    assert token_offsets(counting, token_ids=ids, text=text) == offsets_by_bytes(BPE, ids, text)
    assert len(ids) > 10_000
    assert counting.decoded < 8 * len(ids)  # whole prefixes would be len(ids) / 2 times as many


@pytest.mark.skipif(not TRACES.is_file(), reason=f"published traces not found at {TRACES}")
def test_real_traces_have_their_paragraphs_and_every_token_one_step():
    counts = []
    for number, line in enumerate(TRACES.read_text().splitlines()):
        row = json.loads(line)
        text = row["thought"] + row["response"]
        split = split_thinking(text, mode="on")
        start, end = split.thought_start, split.thought_end
        spans = segments(text, start=start, end=end)
        assert [text[a:b].strip() for a, b in spans] == [p.strip() for p in text[start:end].split("\n\n") if p.strip()]
        counts.append(len(spans))
        if number % 40:
            continue
        ids = BPE(text, add_special_tokens=False)["input_ids"]
        offsets = token_offsets(BPE, token_ids=ids, text=text)
        steps = token_steps(offsets, segment_spans=spans, segment_steps=range(len(spans)), thought_end=end)
        thinking = [step for step in steps if step >= 0]
        assert thinking == sorted(thinking)
        assert set(thinking) == set(range(len(spans)))
        assert steps == thinking + [-1] * (len(steps) - len(thinking))
        assert BPE.decode(ids[len(thinking) :], skip_special_tokens=False) == text[end:]
    assert (len(counts), min(counts), max(counts)) == (800, 3, 144)
    assert sum(4 < count < 15 for count in counts) == 722
