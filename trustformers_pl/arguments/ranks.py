"""What `args` says of ranks, held against the section `trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.recipe.places import Section
    from trustformers_pl.training_arguments import TrainingArguments

# Sections that say what ranks do; where one is written, `ddp` is not meant.
OTHERS = ("zero", "tensor_parallel", "pipeline")
GPUS = ("gpu", "cuda")


def put_ranks(draft: Draft, args: TrainingArguments, written: Section, window: int) -> None:
    """Devices, `ddp` and the accelerator.

    Args:
        draft: To put them in.
        args: The arguments.
        written: The recipe's sections.
        window: Batches of an optimizer step.

    Raises:
        ValueError: They contradict what `trainer` says, or what its ranks do.
    """
    if args.local_rank not in (None, -1):
        raise ValueError(
            f"local_rank = {args.local_rank}: the launcher tells each process its rank, and a recipe is the same on "
            "all; remove it"
        )
    trainer = written.section("trainer")
    if args.use_cpu:
        draft.put("trainer.accelerator", "cpu", "use_cpu")
    _put_backend(draft, args, trainer.leaf("accelerator", "cpu" if args.use_cpu else None))
    if args.world_size is not None:
        _put_devices(draft, args.world_size, trainer)
        chosen = any(_is_on(written, section) for section in OTHERS) or trainer.leaf("strategy") is not None
        if args.world_size > 1 and not chosen:
            draft.put("ddp", {}, "world_size")
    if args.gradient_sync_frequency not in (None, window):
        _put_sync(draft, args.gradient_sync_frequency, written, window)


def _is_on(written: Section, section: str) -> bool:
    found = written.entries.get(section)
    return found is not None and getattr(found, "value", found) is not None


def _put_sync(draft: Draft, batches: int, written: Section, window: int) -> None:
    """Of `ddp` alone; the last batch of a window averages whatever is said."""
    asked = f"gradient_sync_frequency = {batches}"
    if batches > window:
        raise ValueError(
            f"{asked} is never reached: gradients are averaged at each optimizer step, which is every {window} batches "
            "here (gradient_accumulation_steps); lower it, or raise those"
        )
    if _is_on(written, "zero"):
        raise ValueError(
            f"{asked} is for `ddp`: zero.stage 1 reduces gradients once a step, 2 and 3 each batch; remove it"
        )
    if not (draft.has("ddp") or _is_on(written, "ddp")):
        raise ValueError(f"{asked} is for several ranks; add world_size, or the section `ddp`")
    draft.values.pop("ddp", None)
    draft.put("ddp.gradient_sync_every", batches, "gradient_sync_frequency")


def _put_backend(draft: Draft, args: TrainingArguments, accelerator: Any) -> None:
    if args.backend == "gloo" and accelerator != "cpu":
        raise ValueError("backend = gloo is what ranks on CPUs use, on GPUs not yet; add `use_cpu: true`, or remove it")
    if args.backend == "nccl" and accelerator is None:
        draft.put("trainer.accelerator", "gpu", "backend")
    elif args.backend == "nccl" and accelerator not in GPUS:
        raise ValueError(
            f"backend = nccl is for GPUs, and trainer.accelerator is {accelerator!r}; remove one of the two"
        )


def _put_devices(draft: Draft, ranks: int, trainer: Section) -> None:
    nodes, devices = trainer.leaf("num_nodes", 1), trainer.leaf("devices")
    if type(nodes) is not int or nodes < 1 or ranks % nodes:
        raise ValueError(f"world_size = {ranks} is not a multiple of trainer.num_nodes = {nodes!r}; change one of them")
    if devices is None:
        draft.put("trainer.devices", ranks // nodes, "world_size")
        return
    count = len(devices) if isinstance(devices, list) else devices
    if count != ranks // nodes:
        raise ValueError(
            f"world_size = {ranks}, but trainer.devices = {devices!r} on {nodes} node(s); remove one of the two"
        )
