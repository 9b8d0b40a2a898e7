"""transformers' arguments without a counterpart: what their defaults are, and what to do instead of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.arguments.given import Given

NO_COUNTERPART = "has no counterpart here"
HUB = "nothing is sent to a hub; upload the run folder yourself"
COMPILE = "not yet; call torch.compile in your module's __init__"
RECOMPUTE = "not yet; recompute activations in your module (torch.utils.checkpoint)"
ORDER = "the order of samples is the data module's"

WHY = {
    "activation_checkpointing": RECOMPUTE,
    "auto_find_batch_size": "give a batch_size that fits",
    "average_tokens_across_devices": "losses are always divided by the count over all ranks",
    "data_seed": "one `seed` is for everything",
    "ddp_backend": "follows from the device: gloo on CPUs, nccl on GPUs",
    "deepspeed": "import the configuration by itself: `trustformers-pl import deepspeed FILE`",
    "do_predict": "a command of its own: `trustformers-pl predict`",
    "gradient_checkpointing": RECOMPUTE,
    "group_by_length": ORDER,
    "label_smoothing_factor": "your module's loss takes it (`cross_entropy(..., label_smoothing=...)`)",
    "logging_dir": "the table is in the run folder",
    "metric_for_best_model": "write `checkpoint.best.monitor`, or a section `early_stopping`",
    "neftune_noise_alpha": "add the noise in your module's forward",
    "push_to_hub": HUB,
    "resume_from_checkpoint": "`fit` goes on from the newest checkpoint of the run folder by itself",
    "run_name": "a run is named by its folder",
    "save_only_model": "checkpoints hold what an exact resume needs",
    "tf32": "call torch.set_float32_matmul_precision in your module",
    "torch_compile": COMPILE,
    "torch_compile_backend": COMPILE,
    "torch_compile_mode": COMPILE,
    "train_sampling_strategy": ORDER,
}
# Defaults that are not empty, of transformers 4 and 5.
DEFAULTS: dict[str, tuple[Any, ...]] = {
    "average_tokens_across_devices": (True,),
    "dataloader_in_order": (True,),
    "ddp_timeout": (1800,),
    "eval_do_concat_batches": (True,),
    "include_num_input_tokens_seen": ("no",),
    "length_column_name": ("length",),
    "log_level": ("passive",),
    "log_level_replica": ("warning",),
    "log_on_each_node": (True,),
    "logging_nan_inf_filter": (True,),
    "past_index": (-1,),
    "ray_scope": ("last",),
    "save_safetensors": (True,),
    "skip_memory_metrics": (True,),
    "train_sampling_strategy": ("random",),
    "tpu_metrics_debug": (False,),
}
# The launcher's, derived from others, a switch of scripts or of speed alone: nothing is lost with them.
SAY_NOTHING = (
    "_n_gpu", "activation_checkpointing_kwargs", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "do_eval", "do_train", "fsdp_config",
    "fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "gradient_checkpointing_kwargs", "greater_is_better",
    "hub_strategy", "hub_token", "local_rank", "overwrite_output_dir", "project", "push_to_hub_token",
    "remove_unused_columns",
)  # fmt: skip


def leave_rest(draft: Draft, given: Given) -> None:
    """Note every argument that was not asked for, is not at its default and not empty."""
    given.ignore(*SAY_NOTHING)
    if "activation_checkpointing" in given:
        given.ignore("gradient_checkpointing")  # its older name, which transformers 5 writes as well
    folder = str(given.values.get("output_dir") or "")
    for name, value in given.rest.items():
        if name in DEFAULTS:
            says_something = value is not None and value not in DEFAULTS[name]
        else:
            says_something = value not in (None, False, 0, "", [], {})
        if says_something and not _derived(name, str(value), folder):
            draft.leave(name, value, WHY.get(name, NO_COUNTERPART))


def _derived(name: str, value: str, folder: str) -> bool:
    """Whether transformers 4 made this value from `output_dir`."""
    return (name == "run_name" and value == folder) or (name == "logging_dir" and value.startswith(f"{folder}/runs/"))
