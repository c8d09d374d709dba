"""Figures as people say them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Of a time: `42 s`, `3 min 07 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float, digits: int = 2) -> str:
    """Of a share: `93.11 %`."""
    return f"{100 * share:.{digits}f} %"


def accuracy_text(value: float, digits: int = 2) -> str:
    """In percent; a workload may call accuracy whatever more of is better."""
    return percent(value, digits) if 0 <= value <= 1 else f"{value:,.4g}"


def counted(number: int, thing: str) -> str:
    """Of something whose plural ends in s: `1 trial`, `12 trials`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
