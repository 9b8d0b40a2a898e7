"""The section `scores`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.names import nearest
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.tracking.score_names import KIND, KINDS, TEXTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class ScoresPlugin(Plugin):
    """Scores of validation and test by name: accuracy, F1, perplexity, BLEU, ROUGE and others of torchmetrics."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"metrics": {"accuracy": {}, "f1": {"average": "macro"}}})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `scores` section."""

        metrics: dict[str, dict[str, Any]]
        """Name -> options of torchmetrics' class: `{accuracy: {}, f1: {average: macro}}`. Logged as `val_NAME` and
        `test_NAME`. Another name than the score's own needs the option `metric`: `top5: {metric: accuracy, top_k: 5}`.
        Of classes or tokens: accuracy, precision, recall, f1, matthews, calibration_error. Of tokens: perplexity. Of
        generated texts: bleu, chrf, rouge."""
        references: str | None = None
        """A file of JSON Lines with `prompt` and `reference` (a text or a list of texts), for scores of texts."""
        max_new_tokens: int = 64
        """Tokens that are generated after each prompt."""

        def __post_init__(self) -> None:
            """Refuse scores that do not exist, and those of texts without texts."""
            if not self.metrics or self.max_new_tokens < 1:
                raise ValueError("metrics must name a score, and max_new_tokens must be at least 1")
            for name, options in self.metrics.items():
                kind = options.get(KIND, name)
                if kind not in KINDS:
                    raise ValueError(f"metrics.{name}: no score {kind!r}; {nearest(str(kind), KINDS)}")
                if kind in TEXTS and self.references is None:
                    raise ValueError(f"metrics.{name} compares texts; give a file of prompts in `references`")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that computes."""
        del plan
        c = self.config
        metrics = {name: dict(options) for name, options in c.metrics.items()}
        more = {} if c.references is None else {"references": c.references, "max_new_tokens": c.max_new_tokens}
        return [part("trustformers_pl.tracking:Scores", metrics, **more)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many scores were computed."""
        callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
        computed = sum(c.computed for c in callbacks if type(c).__name__ == "Scores")
        return f"computed {computed} scores" if computed else None
