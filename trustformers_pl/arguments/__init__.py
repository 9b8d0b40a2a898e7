"""Training arguments as one flat list, and importers of other trainers' configurations."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.arguments.deepspeed import from_deepspeed
    from trustformers_pl.arguments.draft import Draft, Left
    from trustformers_pl.arguments.hf import from_hf

__all__ = ["Draft", "Left", "from_deepspeed", "from_hf"]
__getattr__, __dir__ = exports(
    __name__, {"Draft": "draft", "Left": "draft", "from_deepspeed": "deepspeed", "from_hf": "hf"}
)
