"""Tiny Hugging Face models with random weights, saved by `transformers` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = ["the cat sat on the mat", "a dog ran", "the end of the day is the start of the night", "no", "it was good"] * 8


def transformers() -> Any:
    import transformers

    return transformers


def tokenizer(folder: Path) -> None:
    """A word-level tokenizer of `TEXTS`, as BERT's and Llama's are stored, with [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers().PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def llama(folder: str = "llama", **changes: Any) -> str:
    """Two layers with grouped heads; the vocabulary is that of bytes."""
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 256, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 16, "eos_token_id": 255, "bos_token_id": 254,
        "initializer_range": 0.4,
    }  # fmt: skip
    hf = transformers()
    hf.LlamaForCausalLM(hf.LlamaConfig(**(sizes | changes))).save_pretrained(folder)
    return folder


def bert(folder: str = "bert", *, classes: int = 3, head: bool = True, **changes: Any) -> str:
    """Two layers, with a classification head or as a bare encoder."""
    torch.manual_seed(4)
    sizes = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 32, "initializer_range": 0.4, "hidden_dropout_prob": 0.1,
    }  # fmt: skip
    hf = transformers()
    config = hf.BertConfig(num_labels=classes, **(sizes | changes))
    (hf.BertForSequenceClassification(config) if head else hf.BertModel(config)).save_pretrained(folder)
    tokenizer(Path(folder))
    return folder


def gguf_llama(path: str) -> str:
    """One layer in a GGUF file, by the package `gguf`; without a tokenizer."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "block_count": 1, "context_length": 16, "embedding_length": 16, "feed_forward_length": 24, "head_count": 4,
        "head_count_kv": 2, "vocab_size": 64, "rope_dimension_count": 4, "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    shapes = {"token_embd": (64, 16), "output_norm": (16,), "output": (64, 16)}
    layer = {"attn_norm": (16,), "ffn_norm": (16,), "attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16)}
    layer |= {"attn_output": (16, 16), "ffn_gate": (24, 16), "ffn_up": (24, 16), "ffn_down": (16, 24)}
    generator = np.random.default_rng(0)
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in layer.items()}).items():
        writer.add_tensor(f"{name}.weight", generator.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ragged(vocabulary: int, lengths: tuple[int, ...] = (5, 12, 2, 7), width: int = 12) -> dict[str, torch.Tensor]:
    """Sequences of these lengths, padded on the right with random tokens."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(4, vocabulary, (len(lengths), width), generator=generator),
        "attention_mask": torch.arange(width) < torch.tensor(lengths)[:, None],
    }
