"""A tiny language model, and sentences that it can learn."""

import json

import numpy as np
import torch

WORDS = ["good", "fine", "nice", "bad", "poor", "sad", "day", "book", "the", "a", "very"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]


def write_tiny_bert(folder, transformers):
    """A tiny BERT with random weights and a small vocabulary."""
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )


def sentences(count, seed=0):
    """Sentences with a good or a bad word."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        label = i % 2
        filler = list(rng.choice(WORDS[6:], size=rng.integers(1, 5)))
        filler.insert(int(rng.integers(len(filler))), WORDS[rng.integers(3) + 3 * label])
        rows.append((" ".join(filler), ("good", "bad")[label]))
    return rows


def write_csv(path, rows):
    """Sentences and labels as a file with a header."""
    path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
