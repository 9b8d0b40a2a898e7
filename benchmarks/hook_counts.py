"""How often each hook of a step is called in each variant, on a module and a callback that override all of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule
from overhead_job import Job
from overhead_variants import VARIANTS

BOTH = (
    "on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_epoch_start", "on_train_epoch_end", "on_train_start", "on_train_end",
)  # fmt: skip
MODULE = (
    "training_step", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step",
    "configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer",
)  # fmt: skip


def counting(base: type, hooks: tuple[str, ...], counts: Counter[str], label: str) -> type:
    """A class that counts the calls of these hooks and hands them on; a mixin where the base is a module's."""

    def counted(hook: str) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            counts[f"{label}.{hook}"] += 1
            return getattr(super(made, self), hook)(*arguments, **named)

        return call

    made = type(f"Counting{label}", (base,), {hook: counted(hook) for hook in hooks})
    return made


def counted_run(name: str, steps: int) -> Counter[str]:
    """Run one variant on a tiny job; hook -> calls."""
    counts: Counter[str] = Counter()
    callback = counting(Callback, BOTH, counts, "callback")()
    mixin = counting(LightningModule, BOTH + MODULE, counts, "module")
    model = {"d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 8}
    VARIANTS[name](Job(model, 2, steps, None, (callback,), (mixin,)))
    return counts


def count_hooks(steps: int = 25) -> str:
    """Run every Lightning variant and compare.

    Raises:
        AssertionError: A variant calls a hook more or less often than the bare stock Trainer does.
    """
    expected = counted_run("stock, bare", steps)
    assert set(expected) == {f"callback.{hook}" for hook in BOTH} | {f"module.{hook}" for hook in BOTH + MODULE}
    for name in VARIANTS:
        if name not in ("plain torch", "stock, bare"):
            found = counted_run(name, steps)
            assert found == expected, f"{name}: {found - expected} more, {expected - found} fewer"
    return f"hooks: {sum(expected.values())} calls of {len(expected)} hooks in {steps} steps, equal in all variants"
