"""Where a run trains: what `fit` needs besides the config, and all that differs by launcher."""

from __future__ import annotations

from dataclasses import dataclass

from distcnn.data.dataset import Dataset
from distcnn.progress import Watcher
from distcnn.run_directory.lease import Lease
from distcnn.run_directory.run import RunDirectory
from distcnn.training.control import Control


@dataclass(frozen=True)
class Place:
    """One attempt at a run, on this machine."""

    run: RunDirectory
    lease: Lease
    dataset: Dataset
    control: Control
    watcher: Watcher
