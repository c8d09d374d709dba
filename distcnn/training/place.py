"""Where a run trains: what `fit` needs besides the config, and all that differs by launcher."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from distcnn.data.dataset import Dataset
from distcnn.progress import Watcher
from distcnn.run_directory.lease import Fence
from distcnn.run_directory.run import RunDirectory
from distcnn.training.control import Control
from distcnn.workers import Workers


@dataclass(frozen=True)
class Place:
    """One worker's part in one attempt at a run."""

    run: RunDirectory
    fence: Fence
    dataset: Dataset
    control: Control
    watcher: Watcher
    waiting_since: float
    """When the wait for the attempt's first step began, in seconds since the epoch (Unix)."""
    workers: Workers = field(default_factory=Workers)
    hosts: tuple[str, ...] = field(default_factory=lambda: (socket.gethostname(),))
    """Of each worker, in the order of their ranks."""
