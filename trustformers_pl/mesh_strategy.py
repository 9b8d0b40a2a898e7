"""One Strategy for every parallel run: a device mesh whose dimensions plugins contribute."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.mesh import DATA, Dimension, Placement, Wrap, mesh_sizes
from trustformers_pl.placed_state import placed_module_state, placed_optimizer_state
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.sharded_saving import save_from_all_ranks, weights_as_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning import Trainer
    from torch.optim import Optimizer

__all__ = ["DATA", "Dimension", "MeshStrategy", "mesh_sizes"]
THREADS = "OMP_NUM_THREADS"
STOCK = (Precision, MixedPrecision, HalfPrecision, DoublePrecision)


class MeshStrategy(DDPStrategy):
    """Runs on a `torch.distributed` device mesh; gloo on the CPU and NCCL on GPUs, by the same code.

    Process groups, launching and reductions are Lightning's; what the ranks do with the module is the dimensions'.
    Works in a stock Trainer: `Trainer(strategy=MeshStrategy([Dimension("data_parallel", wrap=Replicate())]))`; where
    that has one of Lightning's own Precisions, an `OrderedPrecision` of the same type takes its place, because
    Lightning's cannot clip or scale gradients of which each rank has a part.

    Args:
        dimensions: Outer ones first.
        process_group_backend: As torch knows it; found from the device if not given.
    """

    saves_on_every_rank = True  # parts leave state that lies on several ranks where it is

    def __init__(self, dimensions: Sequence[Dimension], process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend)
        self.dimensions = tuple(dimensions)
        self._mesh: DeviceMesh | None = None
        self._data_group: Any = None

    @property
    def mesh(self) -> DeviceMesh:
        """The mesh, from `setup_environment` on.

        Raises:
            RuntimeError: Asked for before.
        """
        if self._mesh is None:
            raise RuntimeError("the device mesh is there from Strategy.setup_environment on")
        return self._mesh

    @property
    def wraps(self) -> tuple[Wrap, ...]:
        """What the dimensions do to the module, outer ones first."""
        return tuple(dimension.wrap for dimension in self.dimensions if dimension.wrap is not None)

    @property
    def shards(self) -> Mapping[int, Tensor]:
        """By the `id` of each parameter of which the optimizer trains but a shard, that shard."""
        return {key: shard for wrap in self.wraps for key, shard in wrap.shards.items()}

    @property
    def shards_weights(self) -> bool:
        """Whether the module's own parameters are shards."""
        return any(wrap.shards_weights for wrap in self.wraps)

    @property
    def fills_values(self) -> bool:
        """Whether values of a module that was built without them are drawn when it is sharded, and not before."""
        return self.shards_weights

    @property
    @override
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, precision: Precision | None) -> None:
        if precision is not None and type(precision) in STOCK:
            precision = OrderedPrecision(precision.precision, scaler=getattr(precision, "scaler", None))
        self._precision_plugin = precision

    @override
    def setup_environment(self) -> None:
        """Join the process group, and lay the mesh over it.

        Raises:
            RefusedError: The dimensions' sizes do not multiply to the number of ranks, or the module cannot be placed.
                No process group is left open.
        """
        sizes = mesh_sizes(self.dimensions, self.num_nodes * self.num_processes)  # refused before any group is made
        assert self._lightning_module is not None
        for wrap in self.wraps:
            wrap.refuse(self._lightning_module)
        super().setup_environment()
        self._mesh = init_device_mesh(self.root_device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

    @override
    def _get_process_group_backend(self) -> str:
        if (
            self._process_group_backend is None
            and self.root_device.type == "cuda"
            and any(w.on_host for w in self.wraps)
        ):
            return "cpu:gloo,cuda:nccl"
        return super()._get_process_group_backend()

    @override
    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        self._threads_before = torch.get_num_threads(), os.environ.get(THREADS)

    @override
    def teardown(self) -> None:
        super().teardown()
        self._restore_threads()

    def _restore_threads(self) -> None:
        """Take back what Lightning's launcher sets: a later run in this process would add up in another order."""
        number, variable = self._threads_before
        torch.set_num_threads(number)
        if variable is None:
            os.environ.pop(THREADS, None)

    @property
    def data_dimensions(self) -> tuple[str, ...]:
        """The mesh's dimensions along which ranks see different data."""
        by_name = {dimension.name: dimension.has_data for dimension in self.dimensions}
        return tuple(name for name in self.mesh.mesh_dim_names or () if by_name.get(name, name == DATA))

    @property
    def data_ranks(self) -> int:
        """How many ranks see different data."""
        return self.data_mesh.size() if self.data_dimensions else 1

    @property
    def data_rank(self) -> int:
        """Which of them this one is."""
        rank = 0
        for name in self.data_dimensions:
            rank = rank * self.mesh[name].size() + self.mesh[name].get_local_rank()
        return rank

    @property
    def data_mesh(self) -> DeviceMesh:
        """The submesh of the ranks that see different data."""
        return self.mesh[self.data_dimensions]

    def sum_over_data_ranks(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the ranks that see different data."""
        if self.data_ranks == 1:
            return values
        if self._data_group is None:
            several = len(self.data_dimensions) > 1
            self._data_group = (
                self.data_mesh._flatten("data_ranks").get_group() if several else self.data_mesh.get_group()
            )
        summed = values.clone()
        torch.distributed.all_reduce(summed, group=self._data_group)
        return summed

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        return {"num_replicas": self.data_ranks, "rank": self.data_rank}

    @override
    def setup(self, trainer: Trainer) -> None:
        """Put the module on its ranks, inner dimensions first, then build the optimizers from what each rank has."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if self.shards_weights:
            _without_inference_mode(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        if not self.shards_weights:  # which goes to its device part by part
            self.model_to_device()
        self._place(fitting=fitting)
        if fitting:
            self.setup_optimizers(trainer)
            for wrap in self.wraps:
                wrap.take_over(self.optimizers)
            self.optimizers = self.optimizers  # Lightning's wrappers inherit from an optimizer's class
        self.setup_precision_plugin()
        if fitting:
            _optimizers_to_device(self.optimizers, self.root_device)

    def _place(self, *, fitting: bool) -> None:
        assert self.model is not None
        for wrap, placement in self._placements():
            if fitting:
                self.model = wrap.place(self.model, placement)
            else:
                wrap.place_for_evaluation(self.model, placement)

    def _placements(self) -> Iterator[tuple[Wrap, Placement]]:
        """What the dimensions do, and where; inner ones first."""
        dtype = getattr(self.precision_plugin, "compute_dtype", None)
        for dimension in reversed(self.dimensions):
            if dimension.wrap is not None:
                mesh = self.data_mesh if dimension.has_data else self.mesh[dimension.name]
                yield dimension.wrap, Placement(mesh, self.root_device, dtype)

    def refuse_growth(self) -> None:
        """Look whether the module may grow while it is fitted.

        Raises:
            RefusedError: A dimension could not follow.
        """
        for wrap in self.wraps:
            if not wrap.takes_growth:
                raise RefusedError(f"grow: {type(wrap).__name__} does not take up a part that grows; use ddp")

    def place_again(self) -> None:
        """Put a module that has grown on its ranks anew. Collective, at a step boundary."""
        self.model = self.lightning_module
        for wrap, placement in self._placements():
            assert self.model is not None
            self.model = wrap.place_again(self.model, placement)

    @override
    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        for wrap in self.wraps:
            wrap.after_backward()

    @contextmanager
    @override
    def block_backward_sync(self) -> Iterator[None]:
        """Inside, backward passes leave gradients unsynchronised: another micro-batch of the window follows."""
        with ExitStack() as stack:
            for wrap in self.wraps:
                stack.enter_context(wrap.without_sync())
            yield

    @override
    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Lightning's step, then whatever the other ranks have to learn of it."""
        result = Strategy.optimizer_step(self, optimizer, closure, model, **kwargs)
        if not getattr(self.precision_plugin, "skipped", False):
            for wrap in self.wraps:
                wrap.after_step()
        return result

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        return self.shards_weights

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's state, where weights that all ranks have are given as shards: each rank writes its part."""
        assert self.lightning_module is not None
        return weights_as_shards(self.lightning_module, self.shards)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        save_from_all_ranks(self, checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; of one that lies in pieces each rank reads its own, where it is used."""
        load_pieces = getattr(self.checkpoint_io, "load_pieces", None)
        if load_pieces is None or not (self.shards_weights or self.shards):
            return super().load_checkpoint(checkpoint_path, weights_only)
        checkpoint: dict[str, Any] = load_pieces(checkpoint_path)
        return checkpoint

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        placed = placed_module_state(self.lightning_module, checkpoint["state_dict"])
        self.lightning_module.load_state_dict(placed, strict=strict)
        for wrap in self.wraps:
            wrap.after_load()

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            optimizer.load_state_dict(placed_optimizer_state(optimizer, state))
            if not self.shards_weights and not self.shards:
                _optimizers_to_device([optimizer], self.root_device)


def _without_inference_mode(trainer: Trainer) -> None:
    """Evaluate under `no_grad`: what is gathered in inference mode cannot be trained on afterwards."""
    for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        loop.inference_mode = False
