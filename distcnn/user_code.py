"""Errors of people's own code, shown as theirs: their lines, and not those that lead to them."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import distcnn
from distcnn.errors import UserError

_OURS = str(Path(distcnn.__file__).parent) + os.sep
_LIBRARIES = (sysconfig.get_path("stdlib") + os.sep, "site-packages", "dist-packages", "<frozen")
# They say where, or what; the second is Lightning's, which is not imported for its name.
_SAYING_ENOUGH = ("SyntaxError", "IndentationError", "MisconfigurationException")


class UserCodeError(UserError):
    """Something is wrong with the module, the data or the factory of a workload."""


@contextmanager
def shown_as_theirs(workload: str) -> Generator[None]:
    """Turn what people's code raises into an error that shows their part of the way to it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = _places_of(workload.partition(":")[0].partition(".")[0])
        theirs = [f for f in frames if f.filename.startswith(own) or not _is_foreign(f.filename)]
        what = "".join(traceback.format_exception_only(error)).rstrip()
        if type(error).__name__ in _SAYING_ENOUGH:
            raise UserCodeError(f"{workload}: {what}") from error
        if not theirs:
            raise  # It is ours, or a library's.
        way = "".join(traceback.format_list(theirs)).rstrip()
        raise UserCodeError(f"{workload} raised:\n{way}\n{what}") from error


def _places_of(package: str) -> tuple[str, ...]:
    """Where the workload's own package lies: among the libraries, if it is installed."""
    module = sys.modules.get(package)
    if folders := getattr(module, "__path__", ()):
        return tuple(folder + os.sep for folder in folders)
    return tuple(filter(None, [getattr(module, "__file__", None)]))


def _is_foreign(file: str) -> bool:
    return file.startswith(_OURS) or any(part in file for part in _LIBRARIES)
