"""What optimizers, averages of the weights and 16-bit training cost, beside the same of other libraries.

`python benchmarks/everyday_cost.py [--rounds 15]`

Each group's contestants take turns in random order, a block of steps each; CPU time of the thread. Shown are the median
ratios to the group's first contestant, and bytes of state a weight. Peers that are not installed are left out
(`pip install pytorch-optimizer timm transformers` brings them).
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trustformers_pl.models import GPT
from trustformers_pl.optim import EMA, LAMB, Adafactor
from trustformers_pl.precision.masters import MasterWeights

STEPS = 4  # in a block
Step = Callable[[], Any]
Contestant = tuple[Step, Callable[[], int]]


def weights() -> list[nn.Parameter]:
    """10 million weights in the shapes of a transformer of width 256, with gradients."""
    torch.manual_seed(0)
    shapes = [(8192, 256)] + [(768, 256), (256, 256), (1024, 256), (256, 1024), (256,), (256,)] * 10
    parameters = [nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 0.01
    return parameters


def of_optimizer(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Contestant:
    """An optimizer's step, and its state in bytes."""
    optimizer = make(weights())

    def state() -> int:
        tensors = [v for one in optimizer.state.values() for v in one.values() if isinstance(v, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    return optimizer.step, state


def peer(module: str, name: str, **arguments: Any) -> Contestant | None:
    """Another library's optimizer, if it is installed."""
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return of_optimizer(lambda parameters: cls(parameters, **arguments))


def optimizers() -> dict[str, Contestant | None]:
    """LAMB and Adafactor beside torch's fused AdamW."""
    return {
        "AdamW, torch fused": of_optimizer(lambda p: torch.optim.AdamW(p, fused=True)),
        "LAMB, ours": of_optimizer(lambda p: LAMB(p, lr=1e-3, weight_decay=0.01)),
        "LAMB, pytorch_optimizer": peer("pytorch_optimizer", "Lamb", lr=1e-3, weight_decay=0.01),
        "LAMB, timm": peer("timm.optim", "Lamb", lr=1e-3, weight_decay=0.01, max_grad_norm=None),
        "Adafactor, ours": of_optimizer(lambda p: Adafactor(p, lr=1e-3)),
        "Adafactor, torch": peer("torch.optim", "Adafactor", lr=1e-3),
        "Adafactor, transformers": peer(
            "transformers.optimization", "Adafactor", lr=1e-3, relative_step=False, scale_parameter=False
        ),
    }


def averages() -> dict[str, Contestant | None]:
    """Our EMA beside torch's `AveragedModel`."""
    model = nn.ParameterList(weights())
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    theirs.update_parameters(model)
    ours = EMA(0.999)
    ours.averages = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ours._weights = list(model)
    step: Any = type("Step", (), {"module": type("M", (), {"trainer": type("T", (), {"global_step": 0})})})
    size = sum(parameter.numel() * 4 for parameter in model)
    return {
        "AveragedModel, torch": (lambda: theirs.update_parameters(model), lambda: size),
        "EMA, ours": (lambda: ours.update(step), lambda: size),
    }


def precisions() -> dict[str, Contestant | None]:
    """A training step in float32, under torch's autocast, and with our masters, in bfloat16."""

    def contestant(kind: str) -> Contestant:
        torch.manual_seed(0)
        model = GPT(d_model=128, n_layers=2, n_heads=4, context_length=64)
        ids = torch.randint(256, (8, 64))
        batch = {"input_ids": ids, "labels": ids}
        masters = MasterWeights(model, torch.bfloat16)

        def step() -> None:
            model.zero_grad()
            if kind == "masters":
                with masters.forward():
                    total, count = model.loss(model(batch), batch)
                with masters.backward():
                    (total / count).backward()
                return
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
                total, count = model.loss(model(batch), batch)
            (total / count).backward()

        return step, lambda: 0

    return {
        "float32": contestant("float32"),
        "bf16, torch autocast (O1)": contestant("autocast"),
        "bf16, masters (O2)": contestant("masters"),
    }


def block(step: Step) -> float:
    """CPU seconds of a block of steps."""
    start = time.thread_time()
    for _ in range(STEPS):
        step()
    return time.thread_time() - start


def compare(title: str, group: dict[str, Contestant | None], rounds: int) -> None:
    """Let a group take turns, and print its table."""
    present = {name: contestant for name, contestant in group.items() if contestant is not None}
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for number in range(rounds + 1):
        for name in random.sample(list(present), len(present)):
            spent = block(present[name][0])
            if number:  # the first round warms up
                seconds[name].append(spent)
    first = next(iter(seconds.values()))
    count = sum(parameter.numel() for parameter in weights())
    print(f"\n{title:28} {'ratio':>6} {'state, bytes a weight':>22}")
    for name, (_, state) in present.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], first, strict=True))
        print(f"{name:28} {ratio:6.2f} {state() / count:22.2f}")


def main() -> None:
    """Read the arguments, compare."""
    parser = argparse.ArgumentParser(description="The cost of the everyday sections, beside other libraries.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    random.seed(0)
    compare("optimizer step, 10 M weights", optimizers(), rounds)
    compare("average of the weights", averages(), rounds)
    compare("forward and backward", precisions(), rounds)


if __name__ == "__main__":
    main()
