"""DeepSpeed's `zero_optimization` as the section `zero`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.arguments.given import Given

MEBIBYTE = 2**20
# What computes the same with or without: here weights are gathered unit by unit, and checkpoints hold whole weights.
SAME_RESULT = (
    "allgather_partitions", "cpu_offload_use_pin_memory", "elastic_checkpoint", "legacy_stage1",
    "load_from_fp32_weights", "log_trace_cache_warnings", "memory_efficient_linear",
    "mics_hierarchical_params_gather", "override_module_apply", "pipeline_loading_checkpoint",
    "round_robin_gradients", "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "stage3_model_persistence_threshold", "stage3_module_granularity_threshold",
    "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_multi_rank_bucket_allreduce",
)  # fmt: skip
OF_OFFLOADING = (
    "buffer_count", "buffer_size", "fast_init", "max_in_cpu", "nvme_path", "pin_memory", "pipeline_read",
    "pipeline_write",
)  # fmt: skip
OFFLOADED = {
    "offload_optimizer": ("offload_optimizer", "cpu_offload"),
    "offload_param": ("offload_params", "cpu_offload_param"),
}
"""DeepSpeed's key -> ours, and the switch that DeepSpeed had before it."""
QUANTIZED = "nothing is quantized on its way between ranks; `zero.reduce_dtype` sends gradients in 16 bits"
# Key -> the value that switches it off, and what to do instead.
LEFT: dict[str, tuple[Any, str]] = {
    "contiguous_gradients": (True, "a collective takes one buffer here, as with true"),
    "ignore_unused_parameters": (True, "parameters without a gradient are passed over, as with true"),
    "mics_shard_size": (-1, "write `zero.ranks` with this number, and beside it `ddp: {replicas: all ranks / this}`"),
    "zero_hpz_partition_size": (1, "no second copy of the weights is kept within a node; `ddp: {replicas: nodes}` "
                                   "beside `zero` keeps a whole one on each"),
    "zero_quantized_gradients": (False, QUANTIZED),
    "zero_quantized_nontrainable_weights": (False, QUANTIZED),
    "zero_quantized_weights": (False, QUANTIZED),
    "zeropp_loco_param": (None, QUANTIZED),
}  # fmt: skip


def zero_of(given: Given) -> Given:
    """The mapping `zero_optimization`, which was once true or false.

    Raises:
        RecipeError: It is neither.
    """
    if (switch := given.values.get("zero_optimization")) in (True, False):
        given.ignore("zero_optimization")
        return type(given)({"stage": int(switch)}, given.draft, "zero_optimization.", auto=True)
    return given.inner("zero_optimization")


def put_zero(draft: Draft, given: Given, *, bytes_of_gradient: int) -> int:
    """The section `zero`, if there is a stage.

    Args:
        draft: To put it in.
        given: The mapping `zero_optimization`.
        bytes_of_gradient: Of one element, which bucket sizes count.

    Returns:
        The stage; 0 without ZeRO, and then the mapping says nothing.

    Raises:
        RecipeError: There is no such stage, or a value has another type than its key.
    """
    stage = given.whole("stage", 0)
    if not 0 <= stage <= 3:
        raise RecipeError(f"{given.prefix}stage = {stage}: expected 0, 1, 2 or 3")
    if stage:
        draft.put("zero.stage", stage, f"{given.prefix}stage")
        _put_offloading(draft, given, stage)
        _put_communication(draft, given, stage)
        _put_buckets(draft, given, stage, bytes_of_gradient)
        _leave(draft, given)
    given.ignore(*given.values)
    return stage


def _put_offloading(draft: Draft, given: Given, stage: int) -> None:
    for name, (key, old) in OFFLOADED.items():
        device = given.inner(name)
        where = device.word("device", "cpu" if given.flag(old) else "none")
        if where == "none":
            continue
        if where != "cpu":
            draft.leave(f"{given.prefix}{name}.device", where, "host memory is where things go: write `cpu`")
        elif name == "offload_param" and stage < 3:
            draft.leave(f"{given.prefix}{name}", dict(device.values), "is of stage 3, in DeepSpeed too")
        else:
            draft.put(f"zero.{key}", True, f"{given.prefix}{name}" if name in given else f"{given.prefix}{old}")
        if device.number("ratio", 1.0) != 1:
            draft.leave(f"{device.prefix}ratio", device.values["ratio"], "all of it is offloaded")
        device.ignore(*OF_OFFLOADING)
        for unknown, value in device.rest.items():
            draft.leave(f"{device.prefix}{unknown}", value, "has no counterpart here")


def _put_communication(draft: Draft, given: Given, stage: int) -> None:
    """Written values alone: DeepSpeed's stages 1 and 2 wait by default, which changes no result."""
    for key in ("overlap_comm", "reduce_scatter"):
        if given.values.get(key) is None or (switch := given.flag(key, True)) is True:
            continue
        if stage < 3:
            draft.put(f"zero.{key}", switch, f"{given.prefix}{key}")
        else:
            draft.leave(f"{given.prefix}{key}", switch, "stage 3 is torch's FSDP2, which always does")


def _put_buckets(draft: Draft, given: Given, stage: int, bytes_of_gradient: int) -> None:
    """DeepSpeed counts elements. At stage 3 a unit is a bucket."""
    names = ("reduce_bucket_size", "allgather_bucket_size")
    if stage == 3:
        given.ignore(*names)
        return
    reduced, gathered = (given.whole(name, 0) if given.take(name) is not None else None for name in names)
    if reduced is not None:
        megabytes = max(1, -(-reduced * bytes_of_gradient // MEBIBYTE))
        draft.put("zero.bucket_size_mb", megabytes, f"{given.prefix}{names[0]} x {bytes_of_gradient} bytes")
    if gathered not in (None, reduced):
        why = "one size is for gradients and weights: `zero.bucket_size_mb`"
        draft.leave(f"{given.prefix}{names[1]}", given.values[names[1]], why)


def _leave(draft: Draft, given: Given) -> None:
    given.ignore(*SAME_RESULT)
    for name, value in given.rest.items():
        off, why = LEFT.get(name, (None, "has no counterpart here"))
        if value != off and value not in (None, "auto"):
            draft.leave(f"{given.prefix}{name}", value, why)
