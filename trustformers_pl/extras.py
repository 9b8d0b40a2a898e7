"""Libraries that only one feature needs: whether they are installed, from metadata alone."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.plan import Plan


def lacking(plan: Plan, section: str, libraries: Sequence[str], package: str = "trustformers-pl") -> list[str]:
    """Reasons for a plugin's hook `check` to refuse the run: libraries that are not installed.

    Args:
        plan: The run's.
        section: Of the feature; the extra that brings the libraries has the same name.
        libraries: Names of distributions.
        package: Whose extra it is.
    """
    missing = [library for library in libraries if not _is_installed(library)]
    if not missing:
        return []
    what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    return [f"{plan.place(section)}: {section}: {what}; pip install '{package}[{section}]'"]


def _is_installed(library: str) -> bool:
    try:
        distribution(library)
    except PackageNotFoundError:
        return False
    return True
