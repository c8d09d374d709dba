"""Somebody's own work, `workload: package.module:factory`: their LightningModule and their data."""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.user_code import shown_as_theirs

if TYPE_CHECKING:
    import pytorch_lightning as pl


@dataclass(frozen=True)
class Work:
    """What a factory has made.

    Attributes:
        module: trains by Lightning's own loop, with one optimizer or several; its validation logs
            `val/loss` and `val/accuracy`, by which checkpoints are chosen.
        data: its loaders.
    """

    module: pl.LightningModule
    data: pl.LightningDataModule


# Where the user's own files are; passed on to workers on other nodes.
FOLDER = "DISTCNN_WORKLOAD_DIR"


def make(config: RunConfig) -> Work:
    """Call the factory that a config names, with the config and with its `parameters`.

    Raises:
        UserError: there is no such factory, or it gives something else. What the factory itself
            raises goes through as it is.
    """
    import pytorch_lightning as pl

    assert config.workload is not None
    factory = find(config.workload)
    try:
        inspect.signature(factory).bind(config, **config.parameters)
    except TypeError as error:
        given = ", ".join(config.parameters) or "none"
        raise UserError(
            f"workload {config.workload} does not take the config and these parameters ({given}):"
            f" {error}"
        ) from None
    made: Any = factory(config, **config.parameters)
    kinds = (pl.LightningModule, pl.LightningDataModule)
    if not (isinstance(made, tuple) and len(made) == 2 and all(map(isinstance, made, kinds))):
        raise UserError(
            f"workload {config.workload} has to return a LightningModule and a"
            f" LightningDataModule, and returned {_described(made)}"
        )
    return Work(*made)


def find(name: str) -> Any:
    """The factory of that name: in the folder in which the command was typed, or installed.

    Raises:
        UserError: there is none.
    """
    module_name, _, factory_name = name.partition(":")
    here = os.environ.setdefault(FOLDER, str(Path.cwd()))
    if here not in sys.path:
        sys.path.insert(0, here)
    with shown_as_theirs(name):
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # Of something that the user's own module imports.
            raise UserError(
                f"workload {name}: there is no module {error.name}, neither in {here} nor installed"
            ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        where = module.__file__ or f"the folder {module_name}"
        raise UserError(f"workload {name}: {where} has no function {factory_name!r}")
    return factory


def _described(made: Any) -> str:
    if isinstance(made, tuple):
        return f"({', '.join(type(each).__name__ for each in made)})"
    return type(made).__name__
