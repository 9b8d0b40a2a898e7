"""The sections `csv`, `metrics`, `progress` and `samples`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection
from trustformers_pl.traits import Slot, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class CSVPlugin(Plugin):
    """A table of all logged metrics, `metrics.csv` in the run folder, without gaps or duplicates after a resume."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `csv` section."""

        file: str = "metrics.csv"
        """The table's name in the run folder."""

    config: Config

    @hookimpl
    def loggers(self, plan: Plan) -> list[Part]:
        """The logger."""
        return [part("trustformers_pl.tracking:CSVLogger", str(plan.folder), name=self.config.file)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The table's columns."""
        path = run.folder / self.config.file
        return f"columns: {path.read_text().splitlines()[0]}" if path.exists() else None


class MetricsPlugin(Plugin):
    """Loss, learning rate, gradient norm and tokens per second; perplexity and bits per byte after each validation."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `metrics` section; how often it logs is Lightning's `trainer.log_every_n_steps`."""

        gradient_norm: bool = True
        """Log `grad_norm`, the norm of all gradients before clipping."""
        learning_rate: bool = True
        """Log `lr`."""
        tokens_per_second: bool = True
        """Log `tokens_per_second`."""

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that measures."""
        del plan
        c = self.config
        return [
            part(
                "trustformers_pl.tracking:Metrics",
                gradient_norm=c.gradient_norm,
                learning_rate=c.learning_rate,
                tokens_per_second=c.tokens_per_second,
            )
        ]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The training metrics that were measured."""
        names = sorted(run.trainer.callback_metrics.keys() & {"train_loss", "lr", "grad_norm", "tokens_per_second"})
        return f"measured: {', '.join(names)}" if names else None


class ProgressPlugin(Plugin):
    """A progress bar in a terminal, a line now and then elsewhere."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `progress` section."""

        plain_every_seconds: float = 30.0
        """Where the output is not a terminal, seconds between lines."""

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """One feature draws on the terminal."""
        del config
        return Traits(claims=frozenset({Slot.PROGRESS}))

    @hookimpl
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any]:
        """Lightning must know that a bar is meant."""
        del plan
        return {"enable_progress_bar": True}

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The bar."""
        del plan
        return [part("trustformers_pl.tracking:Progress", plain_every_seconds=self.config.plain_every_seconds)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The bar that was shown."""
        bar = run.trainer.progress_bar_callback
        return f"bar: {type(bar).__name__}" if bar is not None and type(bar).__name__ == "Progress" else None


class SamplesPlugin(Plugin):
    """Generated text after validations, so that a person reads what the model has learned."""

    example = {"prompts": ["Sing, "], "max_new_tokens": 4}  # noqa: RUF012 - read, never written

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `samples` section."""

        prompts: list[str]
        """Texts to go on from; an empty one starts from a new line."""
        max_new_tokens: int = 200
        """Tokens generated for each."""
        temperature: float = 0.8
        """Divides the logits; 0 takes the likeliest token each time."""
        top_k: int | None = None
        """Draw from the k likeliest tokens only."""
        every_n_validations: int = 1
        """Validations between samples."""

        def __post_init__(self) -> None:
            """Refuse what generates nothing."""
            if self.max_new_tokens < 1 or self.every_n_validations < 1:
                raise ValueError("max_new_tokens and every_n_validations must be at least 1")
            if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
                raise ValueError("temperature must not be negative, and top_k must be at least 1")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that generates."""
        c = self.config
        return [
            part(
                "trustformers_pl.tracking:Samples",
                prompts=c.prompts,
                max_new_tokens=c.max_new_tokens,
                temperature=c.temperature,
                top_k=c.top_k,
                every_n_validations=c.every_n_validations,
                folder=str(plan.folder),
            )
        ]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many samples were kept."""
        count = len(_samples(run))
        return f"{count} samples" if count else None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """The last sample of each prompt."""
        last = {sample["prompt"]: sample for sample in _samples(run)}
        texts = [f"Step {s['step']}:\n\n```text\n{s['prompt']}{s['text']}\n```" for s in last.values()]
        return [ReportSection("Samples", "\n\n".join(texts), source="samples.jsonl")] if texts else []


def _samples(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "samples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
