"""The matrix of features: which two can live in one run, from their declarations, which the pair test holds them to."""

from __future__ import annotations

from functools import cache
from html import escape

from docs_site.features import Feature, features
from docs_site.markdown import table
from trustformers_pl.compatibility import Verdict, verdict

TOGETHER, REFUSED, ONE_OF = ("●", "together"), ("✕", "refused"), ("○", "one of the two")


@cache
def _verdict(one: str, other: str) -> Verdict:
    return verdict(sorted([one, other]))


def matrix() -> str:
    """A row and a column for each feature; a cell says what comes of the two, and its title names them."""
    names = [feature.offer.name for feature in features()]
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names[:-1])
    rows = [_row(feature, names[:number]) for number, feature in enumerate(features()) if number]
    return (
        '<div class="pairs" markdown="0"><table class="matrix">'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n\n"
        f"{' · '.join(f'{sign} {meaning}' for sign, meaning in (TOGETHER, ONE_OF, REFUSED))}"
    )


def _row(feature: Feature, before: list[str]) -> str:
    name = feature.offer.name
    cells = "".join(_cell(name, other) for other in before)
    return f'<tr><th scope="row"><a href="../reference/{_page(feature)}">{escape(name)}</a></th>{cells}</tr>'


def _page(feature: Feature) -> str:
    return feature.link.replace(".md#", "/#")


def _cell(one: str, other: str) -> str:
    sign, meaning = _kind(one, other)
    return f'<td title="{escape(other)} and {escape(one)}: {meaning}" class="{meaning.split()[0]}">{sign}</td>'


def _kind(one: str, other: str) -> tuple[str, str]:
    if _verdict(one, other).together:
        return TOGETHER
    return ONE_OF if one.partition(".")[0] == other.partition(".")[0] else REFUSED


def exceptions() -> str:
    """A row for each two features that are refused, with the reasons; a sentence where there are none."""
    names = [feature.offer.name for feature in features()]
    pairs = [(one, other) for number, one in enumerate(names) for other in names[:number]]
    rows = [
        [f"`{other}`, `{one}`", "<br>".join(_verdict(one, other).reasons)]
        for one, other in pairs
        if _kind(one, other) == REFUSED
    ]
    return table(["Features", "Refused, because"], rows) if rows else "No two of these features are refused."
