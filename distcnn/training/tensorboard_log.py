"""TensorBoard's event files: a copy of `metrics.csv` that TensorBoard can read."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from distcnn.run_directory.metrics_log import Row


class TensorBoardLog:
    """Written anew by each attempt, from the rows that hold, so that it tells nothing twice."""

    def __init__(self, directory: Path, rows: Iterable[Row]) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        self._writer = SummaryWriter(str(directory))
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add the measures of one row."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush and end the file."""
        self._writer.close()
