"""A run that is assembled: its Trainer, module and data, and what one can do with them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from trustformers_pl.compose import user_class
from trustformers_pl.errors import CheckpointError, RecipeError, RefusedError
from trustformers_pl.evaluation import chosen_path, evaluating, refuse_unable, standing_at, state_for_evaluation
from trustformers_pl.foreign_errors import as_our_own
from trustformers_pl.outcome import forget_outcome, record_fit
from trustformers_pl.quiet import quiet_lightning
from trustformers_pl.report import FILE as REPORT
from trustformers_pl.report import report_sections, report_text
from trustformers_pl.reporting.record import Record
from trustformers_pl.run_folder import another_recipe, changes, record, set_aside, write_text

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

    from trustformers_pl.assembly import Assembly
    from trustformers_pl.loop import EpochLoop

PREDICTIONS = "predictions.jsonl"
Resume = Literal["auto", "never", "force"]


@dataclass
class Run:
    """What `assemble` gives: nothing of it is started.

    Attributes:
        assembly: The declarations that it was built from.
        trainer: A `lightning.Trainer`.
        module: The LightningModule, with the features' mixins.
        datamodule: The data, or None where the module brings its own.
    """

    assembly: Assembly
    trainer: Trainer
    module: LightningModule
    datamodule: LightningDataModule | None
    _given: str | None = field(default=None, init=False, repr=False)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.assembly.plan.folder

    @property
    def leads(self) -> bool:
        """Whether this process is the run's rank 0, the one that talks to people."""
        return self.trainer.is_global_zero

    def fit(self, resume: Resume = "auto", ckpt: str | Path | None = None) -> None:
        """Train, from the newest whole checkpoint of the run folder if there is one; `outcome.json` tells the end.

        Args:
            resume: `auto` goes on if the recipe is the same; `force` also if it has changed; `never` starts anew, and
                an earlier run's folder is kept under another name.
            ckpt: Where a run that has no checkpoint of its own yet begins: another run's checkpoint folder, or a stock
                Lightning file. One that was killed goes on from its own, so the same call does for both.

        Raises:
            RecipeError: The folder's checkpoints are of a run with another recipe.
            CheckpointError: The folder has checkpoints, and none of them is whole; or `ckpt` cannot be gone on from.
        """
        from lightning.fabric.utilities.rank_zero import rank_zero_only  # here: a program's process needs no torch

        resolved = self.assembly.plan.resolved
        leads = getattr(rank_zero_only, "rank", 0) == 0
        if leads and resume == "never" and self.folder.exists():
            set_aside(self.folder)
        ckpt_path = self.ckpt_path()
        own = ckpt_path is not None and self._given is None
        differences = changes(self.folder, resolved) if own else []
        if differences and resume == "auto":
            raise RecipeError(another_recipe(self.folder, differences))
        if ckpt_path is None and ckpt is not None:
            from trustformers_pl.stored import readable

            readable(self.trainer, ckpt)
            ckpt_path = str(ckpt)
        self._given = None  # from here on the run has checkpoints of its own
        self._announce(ckpt_path)
        if leads:
            record(self.folder, resolved)
            if differences or not own:
                forget_outcome(self.folder)
        with Record(self, ckpt_path) if leads else nullcontext() as told:
            with quiet_lightning(), as_our_own(self.assembly.plan.place("trainer"), ckpt_path):
                self.trainer.fit(self.module, datamodule=self.datamodule, ckpt_path=ckpt_path)
            cast("EpochLoop", self.trainer.fit_loop.epoch_loop).take_up()
            if told is not None:
                record_fit(self.folder, self.trainer.global_step, self.trainer.callback_metrics)
                told.sections = report_sections(self)
                write_text(self.folder / REPORT, report_text(self, told.sections))

    def validate(self) -> dict[str, float]:
        """Metrics of the newest checkpoint over the validation data.

        Raises:
            CheckpointError: There is no whole checkpoint.
        """
        path = self._evaluated_path()
        place = self.assembly.plan.place("trainer")
        with quiet_lightning(), as_our_own(place, path), standing_at(self.trainer, path):
            results = self.trainer.validate(self.module, datamodule=self.datamodule, ckpt_path=path, verbose=False)
        return {name: float(value) for result in results for name, value in result.items()}

    def test(self) -> dict[str, float]:
        """Metrics of the newest checkpoint over the test data.

        Raises:
            RefusedError: There is no test data, or the module has no `test_step`.
            CheckpointError: There is no whole checkpoint.
        """
        refuse_unable(self, "test_step", "test_dataloader")
        path = self._evaluated_path()
        place = self.assembly.plan.place("trainer")
        with quiet_lightning(), as_our_own(place, path), standing_at(self.trainer, path):
            results = self.trainer.test(self.module, datamodule=self.datamodule, ckpt_path=path, verbose=False)
        return {name: float(value) for result in results for name, value in result.items()}

    def predict(self, out: str | Path | None = None) -> tuple[Path, int]:
        """Write the newest checkpoint's predictions, one JSON object a sample in the order of the data.

        Args:
            out: The file, replaced if it is there; `predictions.jsonl` in the run folder if not given.

        Returns:
            The file, and how many samples are in it (0 on other ranks than the first).

        Raises:
            RefusedError: There is no data to predict, the module has no `predict_step`, or one that answers with
                something else than predictions of samples.
            CheckpointError: There is no whole checkpoint.
        """
        from trustformers_pl.predictions import PredictionWriter

        refuse_unable(self, "predict_step", "predict_dataloader")
        path = self._evaluated_path()
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        writer = PredictionWriter(Path(out) if out is not None else self.folder / PREDICTIONS)
        callbacks.append(writer)
        try:
            with quiet_lightning(), as_our_own(self.assembly.plan.place("trainer"), path):
                self.trainer.predict(self.module, datamodule=self.datamodule, ckpt_path=path, return_predictions=False)
        finally:
            callbacks.remove(writer)
        return writer.out, writer.count or 0

    def probe(self) -> dict[str, str | None]:
        """For each feature that can say so, the evidence that it took part in the fit that has ended."""
        relay = self.assembly.plan.hook
        calls: dict[str, Any] = {i.plugin_name: i for i in relay.probe.get_hookimpls()}
        names = [plugin.name for plugin in self.assembly.plan.plugins if plugin.name in calls]
        return {name: calls[name].function(*(self for _ in calls[name].argnames)) for name in names}

    def callbacks(self, name: str) -> list[Any]:
        """The Trainer's callbacks whose class has this name: a feature's own, for its `probe` and `report`."""
        found: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in found if user_class(type(callback)).__name__ == name]

    def save_checkpoint(self, path: str | Path) -> Path:
        """Save the training as it stands, besides what the section `checkpoint` saves. Every rank calls it.

        While the run trains, call it from a callback's `on_step_boundary`: a run that goes on from there ends with the
        same bits. In other hooks a batch is half counted.

        Args:
            path: A name that ends in `.ckpt` or `.pt` gives a stock Lightning file: weights, optimizers, schedules,
                counters and hyperparameters, without what only our loop reads, so that a run that goes on from it is
                not the same bit for bit. Any other name gives a folder with everything (needs the section).

        Returns:
            The path.

        Raises:
            CheckpointError: Nothing was trained yet, or it cannot be written there.
        """
        from trustformers_pl.stored import save

        return save(self.trainer, path, self.ckpt_path())

    def load_checkpoint(self, path: str | Path) -> None:
        """Let the next `fit`, and evaluations until then, go on from this checkpoint and not from the run folder's.

        On one rank its weights are in the module at once; on several they come with that next call.

        Args:
            path: A checkpoint folder, or a stock Lightning file (read as tensors and plain values only).

        Raises:
            CheckpointError: It is missing, damaged, foreign, of another model, or holds weights only; or the run is
                training.
        """
        from trustformers_pl.stored import readable

        if self.trainer.training:
            raise CheckpointError(f"{path}: not loaded: the run is training; load it before, or after it has ended")
        checkpoint = readable(self.trainer, path)
        if self.trainer.world_size == 1:
            self._announce(path)
            self._put(checkpoint, str(path))
        self._given = str(path)

    def load_weights(self) -> str:
        """Put the newest checkpoint's weights into the module; returns which one.

        Raises:
            CheckpointError: There is no whole checkpoint.
        """
        path: str = self._announce(self._path_for_evaluation())
        checkpoint: dict[str, Any] = self.trainer.strategy.checkpoint_io.load_checkpoint(path)
        self._put(checkpoint, path)
        for callback in state_for_evaluation(self.trainer, checkpoint):
            callback.put_into(self.module)
        return path

    def _put(self, checkpoint: dict[str, Any], path: str) -> None:
        self.module.configure_model()  # only then the module has all its parameters
        with as_our_own(self.assembly.plan.place("model"), path):
            self.module.load_state_dict(checkpoint["state_dict"])

    def _evaluated_path(self) -> Any:
        """The newest whole checkpoint, after the callbacks that evaluations need have their state from it."""
        path = self._announce(self._path_for_evaluation())
        if evaluating(self.trainer):
            state_for_evaluation(self.trainer, self.trainer.strategy.checkpoint_io.load_checkpoint(path))
        return path

    def _path_for_evaluation(self) -> Any:
        """What was loaded by name, what a callback chooses, or the newest."""
        return (chosen_path(self.trainer) if self._given is None else None) or self.required_ckpt_path()

    def export(self, folder: str | Path) -> Path:
        """Write the newest checkpoint's model for other programs, in the module's own way: `save_pretrained`.

        Args:
            folder: Made here.

        Returns:
            It.

        Raises:
            RefusedError: The module has no such method, or the folder is there already.
            CheckpointError: There is no whole checkpoint.
        """
        if not callable(getattr(self.module, "save_pretrained", None)):
            name = user_class(type(self.module)).__name__
            raise RefusedError(
                f"{self.assembly.plan.place('model')}: {name} has no save_pretrained(); its checkpoints are folders of "
                "safetensors that any program can read"
            )
        self.load_weights()
        if self.datamodule is not None:
            self.datamodule.prepare_data()
            self.datamodule.setup("predict")  # what the data know of the model's classes
        self.module.save_pretrained(folder, self.datamodule)  # type: ignore[operator]
        return Path(folder)

    def _announce(self, path: Any) -> Any:
        """Tell the module, and what reads pretrained weights into it, whether a checkpoint is about to bring them."""
        self.module.checkpoint_follows = path is not None  # type: ignore[assignment]
        return path

    def ckpt_path(self) -> Any:
        """The checkpoint that was loaded by name; else the newest whole one of the run folder, or None."""
        if self._given is not None:
            return self._given
        declared = self.assembly.ckpt_path
        return None if declared is None else declared.build()

    def required_ckpt_path(self) -> Any:
        """The newest whole checkpoint of the run folder.

        Raises:
            CheckpointError: There is none.
        """
        path = self.ckpt_path()
        if path is None:
            raise CheckpointError(f"{self.folder}: no checkpoint to load; run `trustformers-pl fit` first")
        return path
