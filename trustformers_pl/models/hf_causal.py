"""Any Hugging Face causal language model, from a local folder."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trustformers_pl.errors import RefusedError
from trustformers_pl.models.generation import continued
from trustformers_pl.models.next_token import IGNORED, NextTokenLoss
from trustformers_pl.models.pretrained import DType, PretrainedModule
from trustformers_pl.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping


class HFCausalLM(NextTokenLoss, PretrainedModule):
    """A decoder-only language model that `transformers.AutoModelForCausalLM` can read, composable with every feature.

    A batch is a mapping with `input_ids` (B, T) int64 and, if there is padding, `attention_mask` (B, T), true or 1
    where there is a token. `labels` (B, T) are aligned: `labels[:, t]` is the token after position t, -100 is ignored;
    without them, the labels are the input one position later, and nothing is predicted from or at padding.
    `document_ids` (B, T) int64, if there are some, number the documents packed in a row: attention then stays within
    each, and positions count from its beginning.

    Weights are read once: see `PretrainedModule`. Nothing is downloaded and no code of the folder is run. No optimizer
    is configured here.

    Args:
        path: The folder with `config.json` and safetensors, or a `.gguf` file, whose weights are dequantised.
        gguf_file: Name of such a file in the folder.
        dtype: Of the weights. Train in float32, with the Trainer's precision for what is computed in 16 bits.
        config: Values of the model's configuration to change, such as `{attention_dropout: 0.1}`.

    Raises:
        RecipeError: There is no such model at `path`, or its configuration has no value of that name.
        RefusedError: `transformers` is not installed.
    """

    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        *,
        path: str,
        gguf_file: str | None = None,
        dtype: DType = "float32",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, gguf_file, dtype, config or {})
        self.save_hyperparameters()
        self.vocab_size = int(self.model.config.get_text_config().vocab_size)

    @property
    def context_length(self) -> int:
        """Most positions one forward pass may have."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else 2**31 - 1

    def vocabulary_mend(self, tokens: int) -> str:
        """The model's own tokenizer."""
        del tokens
        return f"set data.init_args.tokenizer={self.folder}"

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, T, V) of the token after each position of `input_ids` (B, T)."""
        inputs = self._inputs(batch)
        if "document_ids" in batch:
            if not self._keeps_documents_apart:
                name = type(self.model).__name__
                raise RefusedError(
                    f"data: {name} looks across documents in a row; use packing: concat, or another model"
                )
            inputs = packed_inputs(batch["input_ids"], batch["document_ids"])
        return self.model(**inputs, use_cache=False).logits  # type: ignore[no-any-return]

    @cached_property
    def _keeps_documents_apart(self) -> bool:
        """Whether the model heeds positions that start again: found by trying, for some architectures ignore them."""
        device = next(self.model.parameters()).device
        # Two rows with another first document each, and the same second one.
        rows = torch.tensor([[0, 1, 1, 2], [2, 3, 1, 2]], device=device)
        documents = torch.tensor([[0, 0, 1, 1]] * 2, device=device)
        # Autocast would keep weights that it has cast here, where no gradient is wanted.
        with evaluating(self), torch.inference_mode(), torch.autocast(device.type, enabled=False):
            try:
                logits = self.model(**packed_inputs(rows, documents), use_cache=False).logits
            except TypeError:  # it takes no positions
                return False
        return torch.equal(logits[0, 2:], logits[1, 2:])

    def labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The batch's `labels` (B, T), or the input one position later."""
        if "labels" in batch:
            return batch["labels"]
        return next_tokens(batch["input_ids"], batch.get("attention_mask"))

    def generate(
        self,
        input_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        stop: bool = True,
    ) -> Tensor:
        """Continue each row token by token, in evaluation mode, with cached keys and values.

        Args:
            input_ids: (B, T) int64, the prompts, without padding.
            max_new_tokens: How many tokens to add at most.
            temperature: Divides the logits; 0 takes the most likely token.
            top_k: Draw only from the `top_k` most likely tokens.
            generator: The only source of randomness, on the device of `input_ids`; None takes torch's global one.
            stop: End a row at the model's end-of-sequence token, which fills it up to the longest row.

        Returns:
            (B, T + new) int64: prompts and continuations.

        Raises:
            ValueError: A prompt is empty or longer than `context_length`, or an option is out of range.
        """
        self.read_weights()
        with evaluating(self), torch.inference_mode():
            tokens = continued(
                _Reader(self.model),
                input_ids,
                context_length=self.context_length,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                generator=generator,
                stop=self._ends() if stop else (),
            )
        return tokens.clone()  # outside of inference mode, so that it can be trained on

    def _ends(self) -> set[int]:
        found: int | list[int] | None = getattr(self.model.generation_config, "eos_token_id", None)
        if found is None:
            return set()
        return set(found) if isinstance(found, list) else {found}


class _Reader:
    """Reads tokens piece by piece; a model that keeps no keys and values reads all of them each time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._past: Any = None
        self._tokens: Tensor | None = None
        keeps_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": True, **({"logits_to_keep": 1} if keeps_last else {})}

    def __call__(self, unread: Tensor, anew: bool) -> Tensor:
        if anew or self._tokens is None:
            self._past, self._tokens = None, unread
        else:
            self._tokens = torch.cat([self._tokens, unread], dim=1)
        read = self._tokens if self._past is None else unread
        output = self._model(input_ids=read, past_key_values=self._past, **self._options)
        self._past = getattr(output, "past_key_values", None)
        logits: Tensor = output.logits
        return logits[:, -1]


def next_tokens(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Aligned labels: the token after each position, -100 where there is none, or either of the two is padding.

    Args:
        input_ids: (B, T) int64.
        attention_mask: (B, T), 0 at padding; None where there is none.

    Returns:
        (B, T) int64.
    """
    labels = F.pad(input_ids[:, 1:], (0, 1), value=IGNORED)
    if attention_mask is None:
        return labels
    tokens = attention_mask.bool()
    return labels.masked_fill(~(tokens & F.pad(tokens[:, 1:], (0, 1))), IGNORED)


def packed_inputs(input_ids: Tensor, document_ids: Tensor) -> dict[str, Tensor]:
    """What `transformers` models are called with for documents packed in rows, both (B, T).

    From positions that start again they see the documents, and keep attention within them, but only where there is no
    mask; padding behind is a document of its own.
    """
    return {"input_ids": input_ids, "position_ids": positions_in(document_ids)}


def positions_in(document_ids: Tensor) -> Tensor:
    """Positions within each document, from 0.

    Args:
        document_ids: (B, T), equal within a document, which is one stretch.

    Returns:
        (B, T) int64.
    """
    positions = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    begins = F.pad(document_ids[:, 1:] != document_ids[:, :-1], (1, 0), value=True)
    return positions - positions.where(begins, torch.zeros_like(positions)).cummax(dim=1).values
