"""`TrainingArguments`: what most people set of a training, in one flat list; the section `args`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """The `args` section: names as in transformers' `TrainingArguments`, each of which stands for a key of a section.

    What is not given says nothing: there is no optimizer, no clipping and no checkpoint unless an argument or a section
    asks for it. Sections that are written win over what an argument stands for.
    """

    num_epochs: int | None = None
    """Passes over the training data; 3 if neither `args` nor `trainer` says how long to train."""
    max_steps: int | None = None
    """Optimizer steps to train; wins over `num_epochs`, as in transformers."""
    train_batch_size: int | None = None
    """Samples of a training batch over all ranks: the data module's `batch_size`."""
    eval_batch_size: int | None = None
    """Samples of a validation batch over all ranks: the data module's `val_batch_size`."""
    gradient_accumulation_steps: int | None = None
    """Batches whose gradients are added up for one optimizer step."""
    dataloader_num_workers: int | None = None
    """Processes that load samples: the data module's `num_workers`."""
    dataloader_drop_last: bool | None = None
    """Leave out an epoch's last batch if it is not full: the data module's `drop_last`."""
    optim: str | None = None
    """The optimizer's name, ours or transformers' (`adamw_torch`); `adamw` if only its settings are given."""
    learning_rate: float | None = None
    """Peak learning rate."""
    weight_decay: float | None = None
    """Weight decay of matrices; biases, norms and other vectors have none."""
    adam_beta1: float | None = None
    """Decay rate of the first moment, with `adam_beta2`; 0.9 if only that is given."""
    adam_beta2: float | None = None
    """Decay rate of the second moment, with `adam_beta1`; 0.999 if only that is given."""
    adam_epsilon: float | None = None
    """Added to the root of the second moment."""
    max_grad_norm: float | None = None
    """Largest norm of all gradients, to which they are scaled down; 0 for no clipping."""
    lr_scheduler_type: str | None = None
    """The schedule's name, ours or transformers' (`constant_with_warmup`); `linear` if only a warm-up is given."""
    warmup_steps: int | None = None
    """Optimizer steps in which the learning rate rises from 0 to its peak."""
    warmup_ratio: float | None = None
    """The same as a fraction of all steps; `warmup_steps` above 0 wins, as in transformers."""
    fp16: bool = False
    """Train in 16-bit floating point with a scaled loss."""
    fp16_opt_level: Literal["O0", "O1", "O2", "O3"] | None = None
    """With `fp16`: O1 casts by operation (default), O2 keeps float32 master weights only, O3 nothing, O0 is float32."""
    fp16_loss_scale: float | Literal["dynamic"] | None = None
    """With `fp16`: the factor of the loss, or `dynamic` (default)."""
    bf16: bool = False
    """Train in bfloat16, which needs no scaled loss."""
    logging_steps: int | None = None
    """Optimizer steps between logged values."""
    eval_steps: int | None = None
    """Optimizer steps between validations; by default one at the end of each epoch."""
    save_steps: int | None = None
    """Optimizer steps between checkpoints; none are written without it, `save_total_limit` or a section."""
    save_total_limit: int | None = None
    """Newest checkpoints that are kept; with `load_best_model_at_end` the best one is among so many, of at least 2."""
    load_best_model_at_end: bool = False
    """Keep the best checkpoint by `metric_for_best_model`, and end with its weights in the module."""
    metric_for_best_model: str | None = None
    """The logged metric that early stopping and `load_best_model_at_end` look at; `val_loss` by default."""
    greater_is_better: bool | None = None
    """Whether that metric should rise; by default unless its name ends in `loss`."""
    early_stopping_patience: int | None = None
    """Validations without improvement after which training stops."""
    early_stopping_threshold: float | None = None
    """The least change of the metric that counts as improvement."""
    output_dir: str | None = None
    """The run folder."""
    report_to: str | tuple[str, ...] | None = None
    """Where metrics are logged: names of sections (`csv`), or `none`; the section `metrics` comes with them."""
    seed: int | None = None
    """Of everything random."""
    use_cpu: bool = False
    """Train on the CPU even where there is a GPU."""
    world_size: int | None = None
    """Ranks over all nodes; with more than one, `ddp` unless another section says what the ranks do."""
    local_rank: int | None = None
    """Of no use: the launcher tells each process its rank. -1, and in Python the launcher's own, are let pass."""
    backend: Literal["nccl", "gloo", "mpi"] | None = None
    """What ranks talk through: it follows from the device, gloo on CPUs and nccl on GPUs, and is checked here."""
    gradient_sync_frequency: int | None = None
    """Batches of an accumulation window between two averagings over the ranks of `ddp`; once a window by default."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and what is not there yet."""
        for name in _POSITIVE:
            if isinstance(value := getattr(self, name), int) and value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}")
        self._check_precision()
        self._check_watching()
        self._check_ranks()

    def given(self) -> dict[str, Any]:
        """The arguments that say something, by name."""
        fields = dataclasses.fields(self)
        return {field.name: value for field in fields if (value := getattr(self, field.name)) != field.default}

    def _check_precision(self) -> None:
        if self.fp16 and self.bf16:
            raise ValueError("fp16 and bf16 are both true; choose one")
        for name in ("fp16_opt_level", "fp16_loss_scale"):
            if getattr(self, name) is not None and not self.fp16:
                raise ValueError(f"{name} is given without fp16; add `fp16: true`, or remove it")

    def _check_watching(self) -> None:
        if self.eval_steps and self.max_steps and self.eval_steps > self.max_steps:
            raise ValueError(
                f"eval_steps = {self.eval_steps} is never reached in max_steps = {self.max_steps}; lower or remove it"
            )
        if self.early_stopping_threshold is not None and self.early_stopping_patience is None:
            raise ValueError(
                "early_stopping_threshold is for early stopping; add early_stopping_patience, or remove it"
            )
        for name in ("metric_for_best_model", "greater_is_better"):
            unused = self.early_stopping_patience is None and not self.load_best_model_at_end
            if getattr(self, name) is not None and unused:
                raise ValueError(
                    f"{name} is for early stopping and load_best_model_at_end; add one of them, or remove it"
                )

    def _check_ranks(self) -> None:
        if self.backend == "mpi":
            raise ValueError("backend = mpi: not yet; remove it: ranks talk through gloo on CPUs and nccl on GPUs")
        if self.backend == "nccl" and self.use_cpu:
            raise ValueError("backend = nccl is for GPUs, and use_cpu is true; remove one of the two")


_POSITIVE = (
    "num_epochs",
    "max_steps",
    "train_batch_size",
    "eval_batch_size",
    "gradient_accumulation_steps",
    "eval_steps",
    "logging_steps",
    "early_stopping_patience",
    "world_size",
    "gradient_sync_frequency",
)
