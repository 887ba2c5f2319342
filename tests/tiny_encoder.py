"""A sentence encoder of a few thousand random weights, made here: a BERT that knows the words w0 to w399."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [f"w{n}" for n in range(400)]


def save_encoder(place):
    """Write model and tokenizer to a directory; vectors of even words lie near each other, those of odd ones too."""
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(place)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **size))
    with torch.no_grad():
        middle = torch.randn(2, 32)
        for n in range(len(WORDS)):
            model.embeddings.word_embeddings.weight[n + 2] = middle[n % 2] + 0.1 * torch.randn(32)
    model.save_pretrained(place)
    return place
