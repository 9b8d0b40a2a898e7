"""`trustformers-pl generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    import argparse

    from trustformers_pl.run import Run


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Print the prompt and its continuation."""
    show_notices()
    trained = opened(options.recipe, overrides)
    _refuse_silent(trained)
    trained.load_weights()
    print(_continued(trained, options))
    return 0


def _refuse_silent(trained: Run) -> None:
    if not hasattr(trained.module, "generate"):
        raise RefusedError(f"model: {type(trained.module).__name__} has no method generate(); use a generative model")
    if not (hasattr(trained.datamodule, "encode") and hasattr(trained.datamodule, "decode")):
        raise RefusedError(
            f"data: {type(trained.datamodule).__name__} has no encode() and decode() between text and tokens"
        )


def _continued(trained: Run, options: argparse.Namespace) -> str:
    import torch

    data = trained.datamodule
    prompt = torch.tensor([data.encode(options.prompt or "\n")])  # type: ignore[union-attr]
    try:
        tokens = trained.module.generate(  # type: ignore[operator]
            prompt,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            generator=torch.Generator().manual_seed(options.sample_seed),
        )
    except ValueError as error:
        raise RefusedError(f"generate: {error}") from error
    text: str = data.decode(tokens[0].tolist())  # type: ignore[union-attr]
    return text if options.prompt else text.removeprefix("\n")
