"""The conformance kit: what any plugin, ours or a stranger's, is run through."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.testing.conformance import Conformance
    from trustformers_pl.testing.pairs import pairs, try_pair
    from trustformers_pl.testing.ranks import RankError, Ranks
    from trustformers_pl.testing.tiny import TinyText
    from trustformers_pl.testing.trial import Trial, differences, train

__all__ = ["Conformance", "RankError", "Ranks", "TinyText", "Trial", "differences", "pairs", "train", "try_pair"]
__getattr__, __dir__ = exports(
    __name__,
    {
        "Conformance": "conformance",
        "RankError": "ranks",
        "Ranks": "ranks",
        "TinyText": "tiny",
        "Trial": "trial",
        "differences": "trial",
        "pairs": "pairs",
        "train": "trial",
        "try_pair": "pairs",
    },
)
