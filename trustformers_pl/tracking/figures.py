"""Numbers as text of a fixed width, so that a line that is redrawn does not jump."""

from __future__ import annotations

SECONDS_PER_HOUR = 3600


def clock(seconds: float | None) -> str:
    """A duration, 7 characters up to ten hours.

    Args:
        seconds: The duration, or None when it is not known.

    Returns:
        `h:mm:ss`, rounded down; `-:--:--` when not known.
    """
    if seconds is None:
        return "-:--:--"
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def loss(value: float) -> str:
    """A loss or another number whose size is not known, 7 characters (8, when negative and not of a usual size).

    Args:
        value: The number; may be infinite or no number.

    Returns:
        Four decimals, two where the number is large, or an exponent where neither would show it.
    """
    size = abs(value)
    if size == 0 or 1e-3 <= size < 100:
        return f"{value:7.4f}"
    return f"{value:7.2f}" if 100 <= size < 1e4 else f"{value:7.1e}"


def rate(per_second: float) -> str:
    """A number of elements per second, 6 characters up to 10^12.

    Args:
        per_second: The number.

    Returns:
        Three or more significant digits with the SI prefix k, M or G.
    """
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= factor:
            return f"{per_second / factor:5.1f}{prefix}"
    return f"{per_second:5.0f} "
