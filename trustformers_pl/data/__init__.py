"""Data: the order of samples as a pure function, loaders that start anywhere, and text of every everyday form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.data.eligible import why_not_resumable
    from trustformers_pl.data.labelled_text import LabelledText
    from trustformers_pl.data.loader import ResumableLoader, resumable
    from trustformers_pl.data.module import resumable_datamodule
    from trustformers_pl.data.order import counter_seed, epoch_order
    from trustformers_pl.data.phases import DataPhases
    from trustformers_pl.data.streamed import StreamedLoader
    from trustformers_pl.data.text import ByteText
    from trustformers_pl.data.text_data import TextData
    from trustformers_pl.data.tokenizer import ByteTokenizer, SubwordTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ByteText",
    "ByteTokenizer",
    "DataPhases",
    "LabelledText",
    "ResumableLoader",
    "StreamedLoader",
    "SubwordTokenizer",
    "TextData",
    "Tokenizer",
    "counter_seed",
    "epoch_order",
    "load_tokenizer",
    "resumable",
    "resumable_datamodule",
    "why_not_resumable",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "ByteText": "text",
        "ByteTokenizer": "tokenizer",
        "DataPhases": "phases",
        "LabelledText": "labelled_text",
        "ResumableLoader": "loader",
        "StreamedLoader": "streamed",
        "SubwordTokenizer": "tokenizer",
        "TextData": "text_data",
        "Tokenizer": "tokenizer",
        "counter_seed": "order",
        "epoch_order": "order",
        "load_tokenizer": "tokenizer",
        "resumable": "loader",
        "resumable_datamodule": "module",
        "why_not_resumable": "eligible",
    },
)
