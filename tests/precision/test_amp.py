"""Opt levels and loss scaling, against loops written with torch's own autocast, GradScaler and functional_call."""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from tiny import Composable
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.loop import exact_loop
from trustformers_pl.precision import AMP, LossScaleMonitor, underflow
from trustformers_pl.tracking import CSVLogger

if TYPE_CHECKING:
    from trustformers_pl.precision_order import OrderedPrecision

STEPS, CLIP = 6, 0.5
LEVELS_16 = [("bf16", "O1"), ("bf16", "O2"), ("bf16", "O3"), ("fp16", "O1"), ("fp16", "O2"), ("fp16", "O3")]
DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(STEPS)]


class Net(Composable):
    """Two layers, one of them used again when the backward pass recomputes it; fused AdamW, a schedule that halves."""

    def __init__(self, bad: int = -1, recompute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)
        self.layer = nn.Linear(4, 1)
        self.bad, self.recompute = bad, recompute
        self.seen: list[torch.dtype] = []

    def forward(self, batch: Any) -> Tensor:
        self.seen.append(self.layer.weight.dtype)
        x = batch[0]
        hidden = checkpoint(self._hidden, x, use_reentrant=False) if self.recompute else self._hidden(x)
        return self.layer(hidden)

    def _hidden(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh()

    def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch)
        overflows = getattr(self, "_trainer", None) is not None and self.trainer.global_step == self.bad
        return total * (float("inf") if overflows else 1.0), count

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module: LightningModule, precision: OrderedPrecision, *callbacks: Callback, **more: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    arguments = {"accelerator": "cpu", "max_steps": STEPS, "gradient_clip_val": CLIP, **quiet, **more}
    trainer = Trainer(plugins=[LightningEnvironment(), precision], callbacks=list(callbacks), **arguments)
    exact_loop(trainer).fit(module, DataLoader(batches(), batch_size=None))
    return trainer


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters()]


def of_plain_torch(net: Net, forward: Any, scaler: torch.amp.GradScaler | None) -> list[Tensor]:
    """The loop of torch's documentation on mixed precision: scale, backward, unscale, clip, step, update."""
    made = net.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for batch in batches():
        loss = forward(batch)
        optimizer.zero_grad()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        schedule.step()
    return weights(net)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_o1_is_torchs_autocast_and_scaler(dtype: str) -> None:
    net = Net()

    def forward(batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=DTYPE[dtype]):
            return ((net((batch[0],)) - batch[1]) ** 2).sum() / 8

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if dtype == "fp16" else None
    expected = of_plain_torch(net, forward, scaler)
    module = Net()
    fit(module, AMP(dtype, initial_scale=1024.0) if dtype == "fp16" else AMP(dtype))
    assert all(torch.equal(a, b) for a, b in zip(weights(module), expected, strict=True))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_o2_trains_float32_masters_of_a_16_bit_model(dtype: str, recompute: bool) -> None:
    """Expected: `torch.func.functional_call` with cast weights; gradients reach the float32 ones through the cast."""
    net = Net()
    low = DTYPE[dtype]

    def forward(batch: Any) -> Tensor:
        cast = {name: parameter.to(low) for name, parameter in net.named_parameters()}
        outputs = functional_call(net, cast, (([batch[0].to(low)],)))
        return ((outputs.float() - batch[1]) ** 2).sum() / 8

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if dtype == "fp16" else None
    expected = of_plain_torch(net, forward, scaler)
    module = Net(recompute=recompute)
    fit(module, AMP(dtype, opt_level="O2", **({"initial_scale": 1024.0} if scaler else {})))
    assert set(module.seen) == {low}
    assert all(parameter.dtype is torch.float32 for parameter in module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights(module), expected, strict=True))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_o3_is_a_16_bit_model_throughout(dtype: str) -> None:
    """Expected: `module.to(dtype)` and a loop; the loss of a composable module is still computed in float32."""
    net = Net().to(DTYPE[dtype])

    def forward(batch: Any) -> Tensor:
        return ((net((batch[0].to(DTYPE[dtype]),)).float() - batch[1]) ** 2).sum() / 8

    expected = of_plain_torch(net, forward, None)
    module = Net()
    fit(module, AMP(dtype, opt_level="O3"))
    for found, of_loop in zip(weights(module), expected, strict=True):
        assert found.dtype is DTYPE[dtype]
        # torch's clipping takes the norm in 16 bits, ours in float32: half a unit of the factor's last place
        torch.testing.assert_close(found, of_loop, rtol=4 * torch.finfo(DTYPE[dtype]).eps, atol=1e-3)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
@pytest.mark.parametrize("scale", ["dynamic", 512.0])
def test_an_overflow_skips_the_step_and_the_schedule(level: Any, scale: Any) -> None:
    """At step 3 of 6. Everything after it is as if that batch had not been; a dynamic scale is halved."""
    kept: list[list[Tensor]] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            kept.append([weight.clone() for weight in weights(pl_module)])

    precision = AMP(
        "fp16", opt_level=level, loss_scale=scale, **({"initial_scale": 512.0} if scale == "dynamic" else {})
    )
    trainer = fit(Net(bad=2), precision, Keep())
    changed = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(kept)]
    assert changed == [True, False, True, True, True]
    assert precision.loss_scale == (256.0 if scale == "dynamic" else 512.0)
    assert precision.skipped_steps == 1
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == STEPS - 1  # type: ignore[union-attr]
    assert all(weight.isfinite().all() for weight in kept[-1])


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_penalties_and_clipping_see_unscaled_gradients(level: Any) -> None:
    """Expected: the gradients of the same level in bf16's range, that is without any loss scale."""
    seen: dict[str, list[Tensor]] = {"none": [], "scaled": []}
    norms: dict[str, list[float]] = {"none": [], "scaled": []}
    for name, scale in (("none", "none"), ("scaled", 2.0**12)):

        def penalty(step: Any, name: str = name) -> None:
            seen[name] += [gradient.clone() for gradient in step.gradients]

        def clipped(step: Any, name: str = name) -> None:
            norms[name].append(float(nn.utils.get_total_norm(step.gradients)))

        rules = {"penalties": [penalty], "clip": [clipped]}
        fit(Net(), AMP("fp16", opt_level=level, loss_scale=scale, rules=rules), max_steps=1)  # type: ignore[arg-type]
    for scaled, plain in zip(seen["scaled"], seen["none"], strict=True):
        torch.testing.assert_close(scaled, plain, rtol=2e-3, atol=1e-6)
    assert norms["scaled"] == pytest.approx(norms["none"], rel=2e-3)
    assert norms["none"][0] <= CLIP * 1.001


def test_loss_scaling_saves_what_float16_would_lose() -> None:
    """A loss of about 1e-9: its float16 gradients are zero without a scale, and right to 1e-2 with one."""

    class Faint(Net):
        def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            total, count = super().loss(outputs, batch)
            return total * 1e-8, count

    found = {}
    for name, precision in (
        ("fp32", AMP("fp32")),
        ("lost", AMP("fp16", opt_level="O2", loss_scale="none")),
        ("saved", AMP("fp16", opt_level="O2", loss_scale=2.0**16)),
    ):
        grads: list[Tensor] = []
        precision.order.add("penalties", lambda step, grads=grads: grads.extend(g.clone() for g in step.gradients))
        fit(Faint(), precision, max_steps=1)
        found[name] = torch.cat([gradient.flatten() for gradient in grads])
    assert (found["lost"] == 0).float().mean() > 0.5
    torch.testing.assert_close(found["saved"], found["fp32"], rtol=2e-2, atol=1e-12)


def test_float16_gradients_have_a_norm_beyond_float16() -> None:
    """Elements of up to 65,504 make norms above it: the norm of a 16-bit model's gradients is taken in float32."""
    norms: list[float] = []

    class Steep(Net):
        def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            total, count = super().loss(outputs, batch)
            return total * 6.5e4, count

    precision = AMP("fp16", opt_level="O3")
    precision.order.add("finite", lambda step: norms.append(float(step.norm)))
    module = Steep()
    fit(module, precision, max_steps=1)
    assert norms[0] > 65504


def test_a_scale_that_never_helps_ends_the_run_in_one_line() -> None:
    class Broken(Net):
        def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            total, count = super().loss(outputs, batch)
            return total * float("nan"), count

    module = Broken()
    before = [weight.clone() for weight in weights(module)]
    with pytest.raises(
        NonFiniteError, match=r"optimizer step 3: the gradients of 3 steps in a row were not finite"
    ) as e:
        fit(module, AMP("fp16", loss_scale=128.0, max_skips=2))
    assert "\n" not in str(e.value)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(module), strict=True))


def test_a_dynamic_scale_stops_at_its_floor() -> None:
    class Broken(Net):
        def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            total, count = super().loss(outputs, batch)
            return total * float("inf"), count

    precision = AMP("fp16", initial_scale=8.0, min_scale=2.0)
    fit(Broken(), precision)
    assert precision.loss_scale == 2.0


def test_batch_normalization_keeps_float32_weights_and_statistics() -> None:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.register_buffer("shift", torch.zeros(4))

        def _hidden(self, x: Tensor) -> Tensor:
            assert self.norm.weight.dtype is torch.float32
            assert self.shift.dtype is torch.bfloat16
            with torch.no_grad():
                self.shift += 1
            return self.inner(self.norm(x) + self.shift.detach() * 0).tanh()

    module = Normed()
    fit(module, AMP("bf16", opt_level="O2"))
    assert module.norm.num_batches_tracked == STEPS
    assert module.norm.running_mean is not None
    assert module.norm.running_mean.abs().sum() > 0
    assert torch.equal(module.shift, torch.full((4,), float(STEPS)))


def test_a_module_with_its_own_training_step_gets_16_bit_batches() -> None:
    class Own(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[0].dtype is torch.bfloat16
            return (self.layer(batch[0]) - batch[1]).square().mean()

        configure_optimizers = Net.configure_optimizers

    module = Own()
    before = module.layer.weight.detach().clone()
    fit(module, AMP("bf16", opt_level="O2"))
    assert not torch.equal(before, module.layer.weight)
    assert "forward" not in vars(module)  # nothing is left behind


def test_validation_computes_in_16_bits_too() -> None:
    module = Net()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    plugins: list[Any] = [LightningEnvironment(), AMP("bf16", opt_level="O2")]
    Trainer(accelerator="cpu", plugins=plugins, **quiet).validate(
        module, DataLoader(batches(), batch_size=None), verbose=False
    )  # type: ignore[arg-type]
    assert set(module.seen) == {torch.bfloat16}
    assert module.layer.weight.dtype is torch.float32


def test_scale_skips_and_underflow_are_logged(tmp_path: Any) -> None:
    precision = AMP("fp16", initial_scale=64.0, growth_interval=2)
    logger = CSVLogger(tmp_path)
    fit(Net(bad=2), precision, LossScaleMonitor(), logger=logger, log_every_n_steps=1)
    with logger.path.open() as file:
        rows = list(csv.DictReader(file))
    # Two steps without overflow double it; the third, which overflows, halves it again.
    assert [float(row["loss_scale"]) for row in rows] == [64, 64, 128, 64, 64, 128]
    assert [float(row["skipped_steps"]) for row in rows] == [0, 0, 1, 1, 1, 1]
    assert all(0 <= float(row["underflow"]) <= 1 for row in rows)


def test_underflow_counts_zeros_in_rows_that_are_not_zero() -> None:
    """Counted by hand: of the rows with something in them, 2 of 6 elements; the vector has 1 of 2, the scalar none."""
    matrix = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [0.0, 3.0, 4.0]])
    assert underflow([matrix]) == pytest.approx(2 / 6)
    assert underflow([matrix, torch.tensor([5.0, 0.0]), torch.tensor(6.0)]) == pytest.approx(3 / 9)
    assert underflow([torch.zeros(3, 3)]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "fp8"}, "dtype = 'fp8': choose one of fp64, fp32, bf16, fp16"),
        ({"dtype": "fp32", "opt_level": "O2"}, "opt_level O2 is not one of fp32; use O0"),
        ({"dtype": "bf16", "opt_level": "O0"}, "opt_level O0 is not one of bf16; use O1, O2, O3"),
        ({"dtype": "bf16", "loss_scale": 128.0}, "loss_scale is for fp16"),
        ({"dtype": "fp16", "loss_scale": "static"}, "expected dynamic, none or a number"),
        ({"dtype": "fp16", "loss_scale": -1.0}, "must be above 0"),
        ({"dtype": "fp16", "loss_scale": float("nan")}, "must be above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        AMP(**arguments)


@pytest.mark.parametrize(("dtype", "level"), LEVELS_16)
@pytest.mark.parametrize("micro", [1, 3])
def test_every_level_follows_float32_with_accumulation(dtype: str, level: Any, micro: int) -> None:
    """One epoch of SGD-like small steps: no level strays from float32 by more than 16 bits allow."""

    class Slow(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    expected, module = Slow(), Slow()
    fit(expected, AMP("fp32"), accumulate_grad_batches=micro, max_epochs=1, max_steps=-1)
    fit(module, AMP(dtype, opt_level=level), accumulate_grad_batches=micro, max_epochs=1, max_steps=-1)
    for found, of_float32 in zip(weights(module), weights(expected), strict=True):
        torch.testing.assert_close(found.float(), of_float32, rtol=0, atol=8 * torch.finfo(DTYPE[dtype]).eps)
