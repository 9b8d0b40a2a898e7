"""ZeRO by the names that users know: `with_zero`, `with_data_parallel`, and `strategy="zero_3"`, from fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import trustformers_pl as tfpl
from trustformers_pl.parallel import ZeROConfig

TESTS = Path(__file__).parent.parent
ARGS = {"trainer": {"max_steps": 5, "accelerator": "cpu", "devices": 1}, "data": {"batch_size": 4}}


def model() -> tiny.Composable:
    torch.manual_seed(3)
    return tiny.Composable()


def plainly_trained(data: Any) -> torch.Tensor:
    """torch's own AdamW over the same batches, written out."""
    expected = model()
    plain = torch.optim.AdamW(expected.parameters(), lr=0.1)
    for x, y in data:
        plain.zero_grad()
        (((expected.layer(x) - y) ** 2).sum() / len(y)).backward()
        plain.step()
    return expected.layer.weight.detach()


@pytest.mark.parametrize(
    ("method", "arguments", "values", "evidence"),
    [
        ("with_zero", [ZeROConfig(stage=3)], {}, "stage 3 on 1 data ranks"),
        ("with_zero", [], {"stage": 3, "cpu_offload": True}, "stage 3 on 1 data ranks"),
        ("with_zero", [], {"stage": 2, "partition_gradients": True, "contiguous_gradients": True}, "stage 2 on 1 data ranks"),
        ("with_zero", [ZeROConfig(stage=1, overlap_comm=False, reduce_scatter=False)], {}, "stage 1 on 1 data ranks"),
        ("with_data_parallel", [], {}, "1 data ranks"),
    ],
)  # fmt: skip
def test_a_trainer_with_it_trains_what_torch_trains(
    method: str, arguments: list[Any], values: dict[str, Any], evidence: str
) -> None:
    module, data = model(), torch.utils.data.DataLoader(tiny.samples(20), batch_size=4)
    trainer = tfpl.Trainer(module, data, None, None, ARGS)
    optimizer = {"lr": 0.1, "weight_decay": 0.01, "groups": [{"match": "*", "weight_decay": 0.01}]}
    run = getattr(trainer.with_optimizer("adamw", **optimizer), method)(*arguments, **values)
    run.train()
    weight = module.layer.weight
    whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    assert torch.allclose(whole, plainly_trained(data), rtol=1e-6, atol=1e-7)
    assert evidence in run.run.probe().values()


NAMED = """
    {imports}
    import torch, tiny, lightning as L
    torch.manual_seed(0)
    module = tiny.Composable()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)
    trainer = L.Trainer(
        strategy="{name}", accelerator="cpu", devices=1, max_steps=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, tiny.Data())
    print(type(trainer.strategy).__name__, trainer.global_step)
"""


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("import lightning; import trustformers_pl.parallel", "zero_3"),
        ("import lightning.pytorch; import trustformers_pl.parallel", "zero_2"),
        ("from trustformers_pl.parallel import MeshStrategy", "zero_3"),
        ("from trustformers_pl.parallel import MeshStrategy", "zero_1"),
        ("from trustformers_pl.parallel import MeshStrategy", "ddp_mesh"),
    ],
)
def test_a_stock_trainer_takes_a_strategy_by_its_name(imports: str, name: str) -> None:
    done = fresh(NAMED.format(imports=imports, name=name))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "MeshStrategy 3"


def test_the_package_alone_imports_neither_torch_nor_lightning() -> None:
    """`ZeROConfig` neither: it is read for `--help` and `explain`."""
    code = """
    import sys
    import trustformers_pl.parallel
    trustformers_pl.parallel.ZeROConfig(stage=3)
    print({"torch", "lightning"} & sys.modules.keys())
    """
    assert fresh(code).stdout == "set()\n"


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    lines = [line[4:] for line in code.splitlines()]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
