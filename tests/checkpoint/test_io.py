"""`FolderCheckpointIO` in a stock Trainer, and stock files that are read without running anything."""

import os
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl.checkpoint import FolderCheckpointIO, load, verify
from trustformers_pl.checkpoint.folder import read_folder, write_state
from trustformers_pl.errors import CheckpointError

torch.set_num_threads(1)


class Regression(L.LightningModule):
    def __init__(self, lr=0.05, note=("a", 1)):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.layer(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder, epochs, ckpt_path=None, io=True):
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    module = Regression()
    saver = ModelCheckpoint(folder, filename="{epoch}", monitor="loss", save_top_k=2, save_last=True)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[saver],
        plugins=[*([FolderCheckpointIO()] if io else []), LightningEnvironment()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 4), ckpt_path=ckpt_path)
    return trainer


def state(trainer):
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step")}


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.filterwarnings("ignore")
def test_a_stock_trainer_resumes_from_a_folder_with_equal_weights_and_optimizer(tmp_path):
    straight = fit(tmp_path / "straight", 4)
    fit(tmp_path / "parts", 2)
    resumed = fit(tmp_path / "parts", 4, ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert same(state(resumed), state(straight))  # the run that was not interrupted is the reference
    assert resumed.global_step == 16  # 4 epochs of 16 / 4 batches


@pytest.mark.filterwarnings("ignore")
def test_the_folders_of_a_stock_trainer_hold_what_its_files_hold(tmp_path):
    fit(tmp_path / "folders", 3)
    fit(tmp_path / "files", 3, io=False)
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert sorted(path.name for path in (tmp_path / "folders").iterdir()) == names  # removals were honoured too
    for name in names:
        verify(tmp_path / "folders" / name)
        ours, theirs = (tmp_path / kind / name for kind in ("folders", "files"))
        ours, theirs = load(ours), torch.load(theirs, weights_only=True)  # torch's own file is the reference
        # The callback's state names its folder; its hooks' timing is not part of a state.
        assert same({**ours, "callbacks": 0}, {**theirs, "callbacks": 0})
        assert ours["hyper_parameters"] == {"lr": 0.05, "note": ("a", 1)}
        assert ours["callbacks"].keys() == theirs["callbacks"].keys()


@pytest.mark.filterwarnings("ignore")
def test_metadata_says_where_the_run_was(tmp_path):
    trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "c")
    _, metadata = read_folder(tmp_path / "c")
    assert (metadata["epoch"], metadata["global_step"]) == (2, 8)  # 2 epochs of 16 / 4 batches
    assert metadata["versions"]["lightning"] == L.__version__
    assert metadata["versions"]["torch"] == torch.__version__


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_folder_stops_the_run_with_the_file_named(tmp_path):
    fit(tmp_path, 1)
    weights = tmp_path / "last.ckpt" / "tensors.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: sha256 differs"):
        fit(tmp_path, 2, ckpt_path=tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "map_location",
    [
        "meta",
        torch.device("meta"),
        {"cpu": "meta"},
        lambda storage, location: torch.empty(0, device="meta").untyped_storage(),
    ],
)
def test_map_location_is_honoured(tmp_path, map_location):
    io = FolderCheckpointIO()
    io.save_checkpoint({"w": torch.ones(2)}, tmp_path / "c")
    assert io.load_checkpoint(tmp_path / "c", map_location)["w"].is_meta


@pytest.mark.parametrize("map_location", [None, "cpu", {"cuda:0": "meta"}, lambda storage, location: storage])
def test_without_another_place_tensors_stay_on_the_cpu(tmp_path, map_location):
    io = FolderCheckpointIO()
    io.save_checkpoint({"w": torch.ones(2)}, tmp_path / "c")
    assert torch.equal(io.load_checkpoint(tmp_path / "c", map_location)["w"], torch.ones(2))


@pytest.mark.filterwarnings("ignore")
def test_a_stock_file_is_resumed_from(tmp_path):
    straight = fit(tmp_path / "straight", 4)
    fit(tmp_path / "parts", 2, io=False)
    assert (tmp_path / "parts" / "last.ckpt").is_file()
    resumed = fit(tmp_path / "parts", 4, ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert same(state(resumed), state(straight))
    verify(tmp_path / "parts" / "last.ckpt")  # by now replaced by a folder


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("weights_only", [None, False, True])
@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, write, weights_only):
    path, proof = tmp_path / "evil.ckpt", tmp_path / "executed"
    write({"state_dict": {}, "callbacks": Evil(proof)}, path)
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        FolderCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists()  # it would have done harm


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"text", bytes(1000)])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        FolderCheckpointIO().load_checkpoint(tmp_path / "x.ckpt")
    assert str(caught.value).startswith(f"{tmp_path / 'x.ckpt'}: not loaded: ")
    assert "\n" not in str(caught.value)


def test_a_file_or_folder_that_holds_no_dict(tmp_path):
    torch.save([1], tmp_path / "x.ckpt")
    write_state(tmp_path / "c", [1])
    for name in ("x.ckpt", "c"):
        with pytest.raises(CheckpointError, match="holds a list"):
            FolderCheckpointIO().load_checkpoint(tmp_path / name)


def test_what_is_not_there_is_refused_and_removing_it_is_done(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        FolderCheckpointIO().load_checkpoint(tmp_path / "c")
    FolderCheckpointIO().remove_checkpoint(tmp_path / "c")


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="storage_options"):
        FolderCheckpointIO().save_checkpoint({}, tmp_path / "c", storage_options={})
    assert list(tmp_path.iterdir()) == []
