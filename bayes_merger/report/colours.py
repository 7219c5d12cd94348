"""The colours of a number between two models, and of what is written on them."""

from __future__ import annotations

A, MIDDLE, B = (33, 102, 172), (244, 244, 240), (224, 130, 20)
"""Blue, all but white, orange: told apart by whoever cannot tell red from green."""


def colour(share: float) -> str:
    """The colour of a number between its least (0, blue) and its greatest (1, orange)."""
    red, green, blue = _mixed(share)
    return f"#{red:02x}{green:02x}{blue:02x}"


def ink(share: float) -> str:
    """Black or white, whichever is easier to read on that colour (WCAG 2.2, contrast of relative luminance)."""
    luminance = sum(
        part * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
        for part, value in zip((0.2126, 0.7152, 0.0722), (number / 255 for number in _mixed(share)), strict=True)
    )
    return "#000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#fff"


def _mixed(share: float) -> tuple[int, int, int]:
    share = min(max(share, 0.0), 1.0)
    start, end, place = (A, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, B, 2 * share - 1)
    red, green, blue = (round(s + (e - s) * place) for s, e in zip(start, end, strict=True))
    return red, green, blue
