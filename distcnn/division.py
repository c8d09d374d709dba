"""How things are shared out evenly: a batch's images among shards, shards among workers."""

from __future__ import annotations

from itertools import accumulate


def share(total: int, index: int, parts: int) -> int:
    """The size of part `index` when `total` is cut into parts that differ by one at most."""
    return total // parts + (index < total % parts)


def even_slices(total: int, parts: int) -> list[slice]:
    """Cut `range(total)` into consecutive parts whose sizes differ by one at most."""
    sizes = [share(total, index, parts) for index in range(parts)]
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
