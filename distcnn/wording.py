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


def counted(number: int, thing: str) -> str:
    """Of something whose plural ends in s: `1 trial`, `12 trials`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
