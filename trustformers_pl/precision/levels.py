"""Which types, opt levels and loss scales go together. No torch is imported."""

from __future__ import annotations

DTYPES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
OF_16_BITS = ("bf16", "fp16")
# The Lightning name of what each level does to weights and operations; O2's masters are float32.
NAMES = {
    ("fp64", "O0"): "64-true",
    ("fp32", "O0"): "32-true",
    ("bf16", "O1"): "bf16-mixed",
    ("bf16", "O2"): "32-true",
    ("bf16", "O3"): "bf16-true",
    ("fp16", "O1"): "16-mixed",
    ("fp16", "O2"): "32-true",
    ("fp16", "O3"): "16-true",
}


def usual_level(dtype: str) -> str:
    """The opt level that is meant where none is given."""
    return "O1" if dtype in OF_16_BITS else "O0"


def usual_scale(dtype: str, level: str) -> str:
    """The loss scale that is meant where none is given: Apex scales no losses at O3."""
    return "dynamic" if dtype == "fp16" and level != "O3" else "none"


def why_refused(dtype: str, level: str, loss_scale: str | float | None) -> str | None:
    """Why a type, an opt level and a loss scale do not go together; None where they do."""
    if dtype not in DTYPES:
        return f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}"
    if (dtype, level) not in NAMES:
        levels = ", ".join(known for name, known in NAMES if name == dtype)
        return f"opt_level {level} is not one of {dtype}; use {levels}, or another dtype"
    if loss_scale not in (None, "none") and dtype != "fp16":
        return f"loss_scale is for fp16, whose small gradients would be lost; {dtype} needs none: remove it"
    if isinstance(loss_scale, str) and loss_scale not in ("dynamic", "none"):
        return f"loss_scale = {loss_scale!r}: expected dynamic, none or a number"
    if isinstance(loss_scale, int | float) and not 0 < loss_scale < float("inf"):
        return f"loss_scale = {loss_scale}: a factor must be above 0 and finite; `dynamic` finds one"
    return None
