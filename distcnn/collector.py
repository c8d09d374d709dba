"""Python's garbage collector, kept from walking all that torch, Lightning and Ray import."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Generator
from contextlib import contextmanager

# New objects between two looks; by default 700, or 2,000.
_PATIENCE = 10_000


def spare_imports() -> None:
    """Have the collector look less often at what a program imports, and not once more at its end.

    To be called before anything large is imported. Torch and Lightning make 330,000 objects, which
    live as long as the process: on 2 cores, walking them again and again takes 0.4 s of a start,
    and doing so when the interpreter ends 1.1 s of the 6 s of a short run. A program of somebody
    else's, which has us imported and has its collector off or even more patient, keeps it so.
    """
    if 0 < gc.get_threshold()[0] < _PATIENCE:
        gc.set_threshold(_PATIENCE)
    atexit.register(gc.freeze)


@contextmanager
def long_lived_objects_spared() -> Generator[None]:
    """Keep the collector from walking all that has been imported, again and again.

    Each step makes objects enough to set it off: 4 to 6 % of the time of a step of the article's
    network on 2 cores.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
