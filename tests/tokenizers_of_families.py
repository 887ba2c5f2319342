"""Small real tokenizers, each in its family's published configuration, trained on a few sentences here.

`build(name, directory)` saves one with its chat template and, where the family has several stop tokens, its
generation_config.json. The SentencePiece ones are trained by the sentencepiece library, which is their oracle too.
"""

import io
import json
from functools import cache

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "Who wrote the first program? Ada Lovelace wrote the first program for the engine.",
    "What is the capital of France? The capital of France is Paris, and not Rome.",
    "Let me see. So the question asks for a person. Wait, I should check the other candidate.",
    "Okay, so I recall that Paris is the answer. Hmm, the answer is Paris.",
    "Think step by step about the question, then give the final answer, as short as possible.",
    "USER: ASSISTANT: user assistant system model <think> </think> <answer> </answer> [INST] [/INST] 12345 67890",
] * 4
SYSTEM = "{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% endif %}"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{% if m.role == 'assistant' and m.reasoning_content is defined %}"
    "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'assistant' %}"
    "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{{ '<think>\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + "
    "(messages[0].content + '\n\n' if loop.index == 2 and messages[0].role == 'system' else '') "
    "+ m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + "
    "(messages[0].content + '\n\n' if loop.index == 2 and messages[0].role == 'system' else '') "
    "+ m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}"
    "{{ 'USER: ' + m.content }}{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start_of_turn>{{ ('model' if m.role == 'assistant' else m.role) + '\n' + m.content }}<end_of_turn>{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model{{ '\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
    "{{ '\n\n' + m.content | trim }}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>{{ '\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>{{ '\n' + m.content }}<|end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GPT_OSS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}"
    "{% if m.thinking is defined and loop.last %}<|channel|>analysis<|message|>{{ m.thinking }}"
    "<|end|><|start|>assistant"
    "{% endif %}<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{% else %}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
MAGISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
BERT = (
    "{% for m in messages %}{{ m.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)
TURNS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"  # ends no turn

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_3_SPLIT = _QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)

# name: (kind, chat template, bos, eos, marks that are special, marks that are not, stop tokens of generation_config)
FAMILIES = {
    "qwen3": (
        "bytes",
        CHATML,
        None,
        "<|im_end|>",
        ["<|endoftext|>", "<|im_start|>"],
        ["<think>", "</think>"],
        ["<|im_end|>", "<|endoftext|>"],
    ),
    "r1": (
        "bytes",
        R1,
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        [],
        ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
        [],
    ),
    "llama3": (
        "tiktoken",
        LLAMA_3,
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        [],
        ["<|end_of_text|>", "<|eot_id|>"],
    ),
    "glm": (
        "tiktoken",
        GLM,
        None,
        "<|endoftext|>",
        ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"],
        [],
        ["<|endoftext|>", "<|user|>"],
    ),
    "gpt_oss": (
        "tiktoken",
        GPT_OSS,
        None,
        "<|return|>",
        ["<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"],
        [],
        ["<|return|>", "<|endoftext|>"],
    ),
    "phi3": (
        "llama2",
        PHI,
        "<s>",
        "<|endoftext|>",
        ["<|system|>", "<|user|>", "<|assistant|>"],
        ["<|end|>"],  # a stop token that is not marked as special
        ["<|endoftext|>", "<|assistant|>", "<|end|>"],
    ),
    "llama2": ("llama2", LLAMA_2, "<s>", "</s>", [], [], ["</s>"]),
    "vicuna": ("llama2", VICUNA, "<s>", "</s>", [], [], ["</s>"]),
    "mistral": ("first", MISTRAL, "<s>", "</s>", [], [], ["</s>"]),
    "magistral": (
        "bytes",
        MAGISTRAL,
        "<s>",
        "</s>",
        ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"],
        [],
        ["</s>"],
    ),
    "gemma": (
        "gemma",
        GEMMA,
        "<bos>",
        "<eos>",
        ["<start_of_turn>", "<end_of_turn>"],
        ["\n\n"],
        ["<eos>", "<end_of_turn>"],
    ),
    "unigram": ("unigram", CHATML, None, "</s>", ["<|im_start|>", "<|im_end|>"], [], []),
    "wordpiece": ("wordpiece", BERT, "[CLS]", "[SEP]", [], [], []),
    "endless": ("bytes", TURNS, None, "<|endoftext|>", [], [], []),
}


def build(name, directory, *, generation_config=True):
    """The tokenizer of that family, saved in `directory`; its path."""
    kind, template, bos, eos, special, plain, stops = FAMILIES[name]
    core = Tokenizer.from_str(_core(kind))
    core.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (bos, eos, *special) if mark])
    core.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in plain])
    extra = {"bos_token": bos} if bos else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, clean_up_tokenization_spaces=False, **extra
    )
    tokenizer.chat_template = template
    target = directory / name
    tokenizer.save_pretrained(target)
    if stops and generation_config:
        ids = tokenizer.convert_tokens_to_ids(stops)
        (target / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return target


@cache
def _core(kind):
    makers = {
        "bytes": lambda: _byte_level(_QWEN_SPLIT, normalizer=normalizers.NFC()),
        "tiktoken": lambda: _byte_level(_LLAMA_3_SPLIT, ignore_merges=True),
        "llama2": lambda: _sentencepiece_bpe(
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), strip=True
        ),
        "first": lambda: _sentencepiece_bpe(
            pre_tokenizer=pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False), strip=True
        ),
        "gemma": lambda: _sentencepiece_bpe(
            normalizer=normalizers.Replace(" ", "▁"),
            pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
            strip=False,
        ),
        "unigram": _unigram,
        "wordpiece": _wordpiece,
    }
    return makers[kind]().to_str()


def _byte_level(pattern, *, normalizer=None, ignore_merges=False):
    core = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return core


@cache
def sentencepiece_model(kind="bpe"):
    """The trained processor: the original of Llama 2's and Gemma's tokenizers."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type=kind,
        vocab_size=420,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def _sentencepiece_bpe(*, normalizer=None, pre_tokenizer=None, strip):
    processor = sentencepiece_model()
    vocabulary = {processor.id_to_piece(i): i for i in range(len(processor))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(vocabulary, key=lambda piece: -processor.get_score(vocabulary[piece]))
        for cut in range(1, len(piece))
        if not processor.is_byte(vocabulary[piece]) and piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        core.normalizer = normalizer
    if pre_tokenizer is not None:
        core.pre_tokenizer = pre_tokenizer
    ends = [decoders.Strip(content=" ", left=1, right=0)] if strip else []
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    return core


def _unigram():
    processor = sentencepiece_model("unigram")
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    return core


def _wordpiece():
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    special = ["[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    return core
