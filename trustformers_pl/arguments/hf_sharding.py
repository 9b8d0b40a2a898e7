"""transformers' `fsdp` and `fsdp_config`, of transformers 4 and 5, as the section `zero`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.given import Given
from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft

# A strategy of FSDP -> whether weights are freed between the two passes; all of them share weights out.
STRATEGIES = {"full_shard": True, "shard_grad_op": False, "hybrid_shard": True, "hybrid_shard_zero2": False}
HYBRID = "shards within a node: write `ddp: {replicas: nodes}` beside `zero`; without it all ranks share one copy"
SIZE = "units are classes: name them in `zero.units`, or leave the items of `ModuleList`s"
# What changes the speed alone, or how transformers starts and saves.
SAY_NOTHING = (
    "auto_wrap_policy", "backward_prefetch", "cpu_ram_efficient_loading", "forward_prefetch", "limit_all_gathers",
    "state_dict_type", "sync_module_states", "use_orig_params", "version", "xla_fsdp_grad_ckpt", "xla_fsdp_settings",
    "xla_fsdp_v2",
)  # fmt: skip
WHY = {
    "activation_checkpointing": "not yet; recompute activations in your module (torch.utils.checkpoint)",
    "xla": "torch's own FSDP2 shards here, on GPUs and CPUs",
}


def put_sharding(draft: Draft, given: Given) -> bool:
    """The section `zero`, if `fsdp` is on.

    Returns:
        Whether it is; `fsdp_config` says nothing otherwise.

    Raises:
        RecipeError: A value has another type than its key.
    """
    options = _options(given)
    known = {"full_shard", "offload", "auto_wrap", "no_shard", *STRATEGIES}
    for unknown in sorted(options - known):
        draft.leave("fsdp", unknown, "is no strategy of FSDP; write the section `zero`")
    config = _config(draft, given) if options & known else Given({}, draft)
    strategy = _strategy(config, options)
    if not options & known or strategy == "no_shard":
        return False
    draft.put("zero.stage", 3, "fsdp")
    if not STRATEGIES[strategy]:
        draft.put("zero.reshard_after_forward", False, "fsdp_config.reshard_after_forward")
    if strategy.startswith("hybrid"):
        draft.leave("fsdp", strategy, HYBRID)
    if _flag(config, "cpu_offload", "offload" in options):
        draft.put("zero.offload_params", True, "fsdp" if "offload" in options else "fsdp_config.cpu_offload")
    _put_units(draft, given, config)
    _leave_rest(draft, config)
    return True


def _options(given: Given) -> set[str]:
    """Of `fsdp`, which was a list of words, or the words in one text, before it became a switch."""
    value = given.take("fsdp")
    if isinstance(value, bool) or value is None:
        return {"full_shard"} if value else set()
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RecipeError(f"fsdp = {value!r}: expected true, false or names of options")
    return {"full_shard" if word in ("true", "True") else word.lower() for word in words}


def _config(draft: Draft, given: Given) -> Given:
    """Keys may begin with `fsdp_`."""
    values = given.take("fsdp_config", {})
    if isinstance(values, str):
        draft.leave("fsdp_config", values, "is another file, whose keys belong here as a mapping")
        values = {}
    if not isinstance(values, dict):
        raise RecipeError(f"fsdp_config = {values!r}: expected a mapping")
    return Given({name.removeprefix("fsdp_"): value for name, value in values.items()}, draft, "fsdp_config.")


def _strategy(config: Given, options: set[str]) -> str:
    """FSDP1's strategies and FSDP2's switch are at one key in transformers 5."""
    reshard = config.take("reshard_after_forward")
    if str(reshard).lower() in {*STRATEGIES, "no_shard"}:
        return str(reshard).lower()
    strategies = [word for word in ("no_shard", *STRATEGIES) if word in options]
    freed = _flag(config, "reshard_after_forward", True)
    return (strategies or ["full_shard"])[0] if reshard is None else "full_shard" if freed else "shard_grad_op"


def _put_units(draft: Draft, given: Given, config: Given) -> None:
    by_size = config.word("auto_wrap_policy", "").upper() == "SIZE_BASED_WRAP"
    classes = config.take("transformer_layer_cls_to_wrap") or given.take("fsdp_transformer_layer_cls_to_wrap")
    classes = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    if classes and not by_size:
        draft.put("zero.units", list(classes), "fsdp_config.transformer_layer_cls_to_wrap")
    least = config.whole("min_num_params", given.whole("fsdp_min_num_params", 0))
    if least and (by_size or not classes):
        draft.leave("fsdp_config.min_num_params", least, SIZE)


def _leave_rest(draft: Draft, config: Given) -> None:
    config.ignore(*SAY_NOTHING)
    for name, value in config.rest.items():
        if value not in (None, False, "false", "", [], {}):
            draft.leave(f"{config.prefix}{name}", value, WHY.get(name, "has no counterpart here"))


def _flag(config: Given, name: str, default: bool) -> bool:
    """Which may be written as text, as transformers reads it."""
    value: Any = config.take(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return config.flag(name, default)
