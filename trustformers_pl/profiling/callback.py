"""Torch's profiler over a few steps of a run, and model FLOPs utilisation over all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from typing_extensions import override

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.profiling.peak import peak_flops
from trustformers_pl.tracking.log import is_due, log_scalars
from trustformers_pl.tracking.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

FOLDER, OPERATORS, TRACE = "profile", "operators.json", "trace.json"
DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}


def _attention(query: Any, key: Any, value: Any, *args: Any, **named: Any) -> int:
    del args, named
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# Operators that torch's counter leaves out.
LEFT_OUT = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


class Profile(Callback):
    """Writes where the time of some steps went, and logs `mfu`.

    After `start_step` optimizer steps of this process, `steps` are recorded by `torch.profiler` on rank zero.
    `profile/operators.json` then has the operators by the time spent in them, and `profile/trace.json` every call, for
    https://ui.perfetto.dev or `chrome://tracing`.

    `mfu`, logged from then on with what Lightning logs, is the model FLOPs utilisation of Chowdhery et al. 2022
    ("PaLM", appendix B): floating-point operations that training a batch takes, over its seconds, over the peak of the
    device. For composable modules, whose forward pass is counted once more, by itself. Nothing of training changes.

    Args:
        folder: Where the folder `profile` is made; the Trainer's `default_root_dir` if not given.
        start_step: Steps before measuring, as the first ones are slower.
        steps: Steps that are recorded.
        peak_tflops: The device's peak in 10^12 operations a second; from its data sheet, or measured, if not given.

    Attributes:
        flops: Operations of one batch; None before they are counted, and for modules that are not composable.
        peak: Operations a second at most, and where the number comes from.
    """

    measured_times = ("mfu",)

    def __init__(
        self,
        folder: str | None = None,
        *,
        start_step: int = 10,
        steps: int = 3,
        peak_tflops: float | None = None,
    ) -> None:
        self.folder = folder
        self.start_step, self.steps = start_step, steps
        self.flops: int | None = None
        self.peak: tuple[float, str] | None = None if peak_tflops is None else (peak_tflops * 1e12, "given")
        self._batches = 0
        self._throughput = Throughput()
        self._profiler: torch.profiler.profile | None = None
        self._recorded = self._log_now = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the device can do."""
        self._batches = 0
        if self.peak is None:
            name = str(trainer.precision).partition("-")[0]
            self.peak = peak_flops(trainer.strategy.root_device, DTYPES.get(name, torch.float32))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count, and begin to record, when it is time."""
        if self._begins(trainer):
            if isinstance(pl_module, DecomposedLoss):
                self.flops = training_flops(pl_module, batch)
            if trainer.is_global_zero:
                on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
                self._profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU, *on_gpu])
                self._profiler.start()

    @override
    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        """Remember whether this step is logged: its other micro-batches are not."""
        self._log_now = is_due(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """End what is over, and log."""
        self._batches += 1
        if self._recording and self._batches == (self.start_step + self.steps) * trainer.accumulate_grad_batches:
            self._write(trainer)
            self._throughput.start()
        elif self._recorded and self.flops is not None:
            self._throughput.add(self.flops)
            if self._log_now and (speed := self._throughput.read()) is not None:
                assert self.peak is not None
                log_scalars(trainer, {"mfu": speed / self.peak[0]})
        self._log_now = False

    def _begins(self, trainer: Trainer) -> bool:
        return self._batches == self.start_step * trainer.accumulate_grad_batches

    @property
    def _recording(self) -> bool:
        return self._profiler is not None and not self._recorded

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._throughput.pause()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        self._throughput.go_on()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write what was recorded, where the run ended before its time."""
        if self._recording:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        assert self._profiler is not None
        self._profiler.stop()
        self._recorded = True
        folder = Path(self.folder or trainer.default_root_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(operators(self._profiler), indent=1)
        (folder / OPERATORS).write_text(text, encoding="utf-8")
        self._profiler.export_chrome_trace(str(folder / TRACE))


def training_flops(module: DecomposedLoss, batch: Any) -> int:
    """Floating-point operations of training on a batch: three times the forward pass's (the backward pass takes two).

    Counted by torch's `FlopCounterMode` over a forward pass of its own, without gradients or dropout; random numbers
    and statistics stay as they are. Products of matrices, convolutions and attention count; the rest is small.

    Args:
        module: Composable.
        batch: On the module's device.
    """
    model: Any = module
    was_training = [part for part in model.modules() if part.training]
    model.eval()
    counter = FlopCounterMode(display=False, custom_mapping=LEFT_OUT)
    try:
        with torch.random.fork_rng(), torch.no_grad(), model.trainer.precision_plugin.forward_context(), counter:
            model(batch)
    finally:
        for part in was_training:
            part.training = True
    return 3 * int(counter.get_total_flops())


def operators(profiler: torch.profiler.profile) -> list[dict[str, Any]]:
    """The operators that a profiler has recorded, most time first.

    Args:
        profiler: One that has stopped.

    Returns:
        For each operator its `name`, number of `calls`, `microseconds` spent in it and not in others that it calls (on
        the accelerator where there is one, else on the CPU), and the `share` of all time so spent.
    """
    times = {
        event.key: (event.count, event.self_device_time_total or event.self_cpu_time_total)
        for event in profiler.key_averages()
    }
    total = sum(time for _, time in times.values()) or 1.0
    rows = [
        {"name": name, "calls": calls, "microseconds": round(time, 1), "share": round(time / total, 6)}
        for name, (calls, time) in times.items()
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])
