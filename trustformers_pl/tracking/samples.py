"""Generated text after validations: what a loss looks like."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.tracking.excerpt import excerpt, sample_generator
from trustformers_pl.tracking.rows import append, keep_lines, whole_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer


class Samples(Callback):
    """Lets the module continue prompts after a validation, prints the beginning and keeps all in `samples.jsonl`.

    The module must have `generate(input_ids, *, max_new_tokens, temperature, top_k, generator)`, from `(1, T)` int64
    to `(1, T + new)`, and the datamodule `encode(str) -> list[int]` and `decode(list[int]) -> str`. The global random
    state is not touched, and a resumed run generates the same texts. The file has a JSON object a line: `step`
    (optimizer steps completed), `prompt` and `text` (what was generated, without the prompt).

    Args:
        prompts: What to continue; an empty prompt starts from a newline.
        max_new_tokens: Tokens to generate for each prompt.
        temperature: Divides the logits; 1 samples from the model's distribution, less is bolder.
        top_k: Sample from the k likeliest tokens; from all when None.
        every_n_validations: Generate after each n-th validation.
        folder: Where `samples.jsonl` lies; the trainer's `default_root_dir` when None.
    """

    def __init__(
        self,
        *,
        prompts: Sequence[str] = ("",),
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        every_n_validations: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        self._prompts = tuple(prompts)
        self._sampling: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
        }
        self._every_n_validations = every_n_validations
        self._path = None if folder is None else Path(folder) / "samples.jsonl"
        self._validations = 0
        self._lines = sys.maxsize  # of the file that are known to this run; all, before it has counted them

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the file, and refuse what cannot be sampled.

        Raises:
            RefusedError: The module cannot generate, or the datamodule cannot turn text into tokens and back.
        """
        self._path = self._path or Path(trainer.default_root_dir) / "samples.jsonl"
        datamodule = getattr(trainer, "datamodule", None)
        needed = ((pl_module, "generate"), (datamodule, "encode"), (datamodule, "decode"))
        missing = [(owner, name) for owner, name in needed if not callable(getattr(owner, name, None))]
        if stage == "fit" and missing:
            owner, name = missing[0]
            place = "the trainer's datamodule" if owner is None else type(owner).__name__
            raise RefusedError(f"samples: {place} has no method {name!r}; define it, or leave samples out")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop a line torn by a kill and, after a resume, the samples taken after the checkpoint."""
        if trainer.is_global_zero:
            self.truncate_after(trainer.global_step or sys.maxsize)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate, when it is this validation's turn."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        # Where each rank has a part of the weights, they can only compute together.
        takes_part = trainer.is_global_zero or getattr(trainer.strategy, "shards_weights", False)
        if takes_part and self._validations % self._every_n_validations == 0:
            for index, prompt in enumerate(self._prompts):
                self._sample(trainer, pl_module, index, prompt)

    @torch.no_grad()
    def _sample(self, trainer: Trainer, pl_module: LightningModule, index: int, prompt: str) -> None:
        step, data = trainer.global_step, trainer.datamodule  # type: ignore[attr-defined]
        prompt_ids = data.encode(prompt or "\n")
        input_ids = torch.tensor([prompt_ids], dtype=torch.int64, device=pl_module.device)
        generator = sample_generator(step, index, pl_module.device)
        ids = pl_module.generate(input_ids, **self._sampling, generator=generator)  # type: ignore[operator]
        if not trainer.is_global_zero:
            return
        text = data.decode(ids[0, len(prompt_ids) :].tolist())
        append(self._file, json.dumps({"step": step, "prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
        self._lines += 1
        bar = trainer.progress_bar_callback
        show = print if bar is None else bar.print
        show(f"step {step}  sample\n{excerpt(prompt, text)}" if index == 0 else excerpt(prompt, text))

    @property
    def _file(self) -> Path:
        if self._path is None:
            raise RefusedError("samples: no folder yet; name one, or call this after the trainer's setup")
        return self._path

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Forget the samples taken after a checkpoint; the rewrite is atomic.

        Args:
            step: `trainer.global_step` of the checkpoint: optimizer steps completed when it was saved. The samples of
                the validation due at that step stay. Those of one amid the accumulation that follows say the same
                step: they go, being more lines than the checkpoint knows of.

        Raises:
            TrustformersError: The file cannot be written.
        """
        lines = itertools.count()

        def known(line: str) -> bool:
            index, of = next(lines), int(json.loads(line)["step"])
            return of < step or (of == step and index < self._lines)

        keep_lines(self._file, known)
        self._lines = len(whole_lines(self._file))

    @override
    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, for `every_n_validations`, and how many lines."""
        return {"validations": self._validations, "lines": self._lines}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = state_dict["validations"]
        self._lines = state_dict.get("lines", sys.maxsize)
