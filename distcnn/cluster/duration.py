"""How long things last, as people write it: `90s`, `30m`, `4h`, `2d`, `1h30m`."""

from __future__ import annotations

import re

from distcnn.errors import UsageError

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WRITTEN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class DurationError(UsageError, ValueError):
    """What was written is no duration."""


def seconds(text: str) -> int:
    """The seconds that a duration stands for.

    Raises:
        DurationError: it is not written like that, or lasts no time.
    """
    matched = _WRITTEN.fullmatch(text)
    parts = matched.groups(default="0") if matched else ()
    total = sum(int(part) * unit for part, unit in zip(parts, _SECONDS.values(), strict=False))
    if total == 0:
        raise DurationError(f"{text!r} is no duration; write 90s, 30m, 4h, 2d or 1h30m")
    return total


def written(whole_seconds: int) -> str:
    """Seconds as `seconds` takes them: `1h30m`."""
    parts: list[str] = []
    for letter, unit in _SECONDS.items():
        count, whole_seconds = divmod(whole_seconds, unit)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"
