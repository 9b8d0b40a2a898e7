"""Checkpoints as stock Lightning files, out and in, beside a stock Trainer that knows nothing of us."""

from __future__ import annotations

import contextlib
import functools
import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from trustformers_pl.checkpoint import export, load, load_module
from trustformers_pl.errors import CheckpointError
from trustformers_pl.factory import assemble

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE = """
version: 1
model: {class_path: test_load_stock.Own}
data: {class_path: tiny.Data, init_args: {count: 16, shuffle: false}}
trainer: {max_steps: 8, accelerator: cpu}
checkpoint: {every_n_steps: 2, keep_last: 9}
"""


class Own(tiny.Plain):
    """With hyperparameters, a path among them, and torch's own optimizer and schedule."""

    def __init__(self, width: int = 4, lr: float = 0.05, place: Any = "here") -> None:
        super().__init__(width)
        self.save_hyperparameters()
        torch.nn.init.constant_(self.layer.weight, 0.1)
        torch.nn.init.constant_(self.layer.bias, 0.0)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def stock(steps: int, ckpt_path: str | None = None, **saver: Any) -> tuple[Own, L.Trainer]:
    """A run of plain Lightning; 4 batches an epoch."""
    keeper = ModelCheckpoint(**saver) if saver else None
    module, trainer = (
        Own(),
        L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=bool(saver),
            callbacks=[keeper] if keeper else [],
        ),
    )
    trainer.fit(module, datamodule=tiny.Data(16, shuffle=False), ckpt_path=ckpt_path)
    return module, trainer


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("step", [4, 8])
def test_a_stock_trainer_resumes_from_an_exported_file(write: Write, command: Command, step: int) -> None:
    """Expected weights: those of a stock run that was not interrupted. The steps are ends of epochs, where it is exact."""
    assert command("fit", write(RECIPE))[0] == 0
    folder = f"runs/recipe/checkpoints/step-{step:08d}"
    assert command("checkpoint", "export", folder, "--out=out/a.ckpt") == (0, "exported: out/a.ckpt\n", "")
    resumed, trainer = stock(12, "out/a.ckpt")
    whole, _ = stock(12)
    assert trainer.global_step == 12
    assert same(resumed, whole)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05 * 0.1**4)


def test_a_stock_trainer_resumes_inside_an_epoch_as_from_its_own_file(write: Write) -> None:
    """Expected: what it does from the file that it wrote itself at this step (the epoch's batches come anew)."""
    assemble(write(RECIPE)).fit()
    stock(6, dirpath="own", filename="{step}", every_n_train_steps=6)
    export("runs/recipe/checkpoints/step-00000006", "a.ckpt")
    ours, our_trainer = stock(12, "a.ckpt")
    theirs, their_trainer = stock(12, "own/step=6.ckpt")
    assert same(ours, theirs)
    assert our_trainer.current_epoch == their_trainer.current_epoch


def test_an_exported_file_has_lightnings_keys_and_none_of_ours(write: Write) -> None:
    """Expected keys: those of a file that Lightning's ModelCheckpoint wrote of the same run."""
    assemble(write(RECIPE)).fit()
    export("runs/recipe", "a.ckpt")
    stock(8, dirpath="own", filename="{step}", every_n_train_steps=8)
    ours, theirs = (torch.load(file, weights_only=True) for file in ("a.ckpt", "own/step=8.ckpt"))
    assert ours.keys() == theirs.keys()
    assert ours["loops"] == theirs["loops"]
    assert ours["hyper_parameters"] == {"width": 4, "lr": 0.05, "place": "here"}


def test_a_path_in_the_hyperparameters_becomes_text(write: Write) -> None:
    """As an object, `torch.load` with its default of `weights_only=True` refuses it."""
    run = assemble(write(RECIPE))
    run.module.hparams["place"] = Path("there")
    run.fit()
    run.save_checkpoint("a.ckpt")
    assert torch.load("a.ckpt")["hyper_parameters"]["place"] == "there"
    assert load("runs/recipe")["hyper_parameters"]["place"] == Path("there")  # the folder keeps it as it is


def test_load_from_checkpoint_reads_an_exported_file_and_load_module_a_folder(write: Write) -> None:
    run = assemble(write(RECIPE), ["model.init_args.lr=0.02"])
    run.fit()
    export("runs/recipe", "a.ckpt")
    for module in (Own.load_from_checkpoint("a.ckpt"), load_module(Own, "runs/recipe"), load_module(Own, "a.ckpt")):
        assert same(module, run.module)
        assert module.hparams["lr"] == 0.02
    assert load_module(Own, "runs/recipe", lr=0.5).hparams["lr"] == 0.5
    with pytest.raises(CheckpointError, match=r"runs/recipe: no Own from it: .*size mismatch for layer.weight"):
        load_module(Own, "runs/recipe", width=5)


@pytest.mark.parametrize("step", [4, 6])
def test_our_run_goes_on_from_a_stock_file(write: Write, command: Command, step: int) -> None:
    """Expected weights: those of the stock run that was not interrupted; also inside an epoch, as data have an order."""
    stock(step, dirpath="own", filename="{step}", every_n_train_steps=step)
    assert command("fit", write(RECIPE), f"--ckpt=own/step={step}.ckpt", "--trainer.max_steps=12")[0] == 0
    whole, _ = stock(12)
    assert torch.equal(load("runs/recipe")["state_dict"]["layer.weight"], whole.layer.weight)
    # The same command goes on from the run's own checkpoint: nothing is left to do.
    Path(f"own/step={step}.ckpt").unlink()
    assert command("fit", "recipe.yaml", f"--ckpt=own/step={step}.ckpt", "--trainer.max_steps=12")[0] == 0


def test_a_file_with_weights_alone_is_pointed_to_pretrained(write: Write, command: Command) -> None:
    torch.save({"state_dict": Own().state_dict()}, "weights.pt")
    code, _, err = command("fit", write(RECIPE), "--ckpt=weights.pt")
    assert code == 2
    assert err == (
        "error: weights.pt: no training state in it (no loops); a new run takes its weights by the section "
        "`pretrained`\n"
    )


class Attack:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed").resolve(),)


@pytest.fixture
def hostile() -> Path:
    path = Path("served/evil.ckpt")
    path.parent.mkdir()
    torch.save({"state_dict": {}, "loops": {}, "optimizer_states": [], "epoch": Attack()}, path)
    with path.open("rb") as file:
        torch.load(file, weights_only=False)
    assert Path("executed").exists()  # it is a real one
    Path("executed").unlink()
    return path


@pytest.fixture
def address(hostile: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(hostile.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{hostile.name}"
        server.shutdown()


@pytest.mark.parametrize("more", [[], ["--no-checkpoint"]])
@pytest.mark.parametrize("far", [False, True])
def test_a_hostile_file_executes_nothing(
    write: Write, command: Command, hostile: Path, address: str, more: list[str], far: bool
) -> None:
    """The same with and without our CheckpointIO: Lightning's own executes what it reads from an address."""
    place = address if far else str(hostile)
    said = "nothing is loaded from the network" if far else "not loaded: Weights only load failed"
    recipe = write(RECIPE)
    code, _, err = command("fit", recipe, f"--ckpt={place}", *more)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {place}: {said}")
    run = assemble(recipe, [override.replace("--no-checkpoint", "checkpoint=null") for override in more])
    for act in (load, run.load_checkpoint, functools.partial(load_module, Own)):
        with pytest.raises(CheckpointError, match=said):
            act(place)
    assert not Path("executed").exists()


def test_lightning_itself_would_have_executed_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why addresses are refused: the premise of the test above."""
    monkeypatch.setenv("TORCH_HOME", str(Path.cwd()))  # it keeps what it downloads
    with contextlib.suppress(Exception):
        stock(4, address)
    assert Path("executed").exists()


def test_what_a_stock_trainer_would_not_load_is_not_exported(write: Write) -> None:
    run = assemble(write(RECIPE))
    run.fit()
    run.module.hparams["place"] = frozenset({1})
    with pytest.raises(CheckpointError, match=r"b.ckpt: not written: a stock Trainer would refuse to load it"):
        run.save_checkpoint("b.ckpt")
    assert not list(Path.cwd().glob("*b.ckpt*"))


def test_a_pickle_of_before_zip_files_is_read_as_plain_values(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load("old.pt")["state_dict"]["a"], torch.ones(2))
    (tmp_path / "junk.pt").write_bytes(pickle.dumps(["no", "dict"]))
    with pytest.raises(CheckpointError, match=r"junk.pt: not loaded"):
        load("junk.pt")
