"""The one rounding of percentages, for tables, figures and pages.

A number that ends in 5 is rounded away from zero in its decimal form, as a reader would: 38.15 to
38.2, although the nearest binary number lies below 38.15. `percentText` in charts.js has the same
rule, so that a number is the same wherever it is shown.
"""

from decimal import ROUND_HALF_UP, Decimal

DECIMALS = 6  # of a percentage before it is rounded for display; drops the noise of binary numbers


def in_percent(fraction: float) -> float:
    """A fraction 0..1 in percent, with at most 6 decimals."""
    return round(100 * float(fraction), DECIMALS)


def round_percentage(percentage: float, decimals: int = 1) -> Decimal:
    """Rounds a percentage for display; a final 5 is rounded away from zero."""
    exact = Decimal(str(round(float(percentage), DECIMALS)))
    return exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)


def percentage(fraction: float | None, decimals: int = 1) -> str:
    """A fraction 0..1 in percent without the sign, such as '38.2'; '-' for None."""
    return "-" if fraction is None else str(round_percentage(100 * float(fraction), decimals))


def percent(fraction: float | None) -> str:
    """A fraction 0..1 in percent, such as '38.2%'; '-' for None."""
    return "-" if fraction is None else f"{percentage(fraction)}%"
