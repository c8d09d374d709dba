"""TensorBoard's event files: a copy of `metrics.csv` that TensorBoard can read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from distcnn.location import Location
from distcnn.object_store import ObjectPath
from distcnn.run_directory.metrics_log import Row


class TensorBoardLog:
    """Written anew by each attempt, from the rows that hold, so that it tells nothing twice."""

    def __init__(self, directory: Location, rows: Iterable[Row]) -> None:
        self._upload: _Upload | None = None
        if isinstance(directory, Path):
            shutil.rmtree(directory, ignore_errors=True)
            folder = directory
        else:
            self._upload = _Upload(directory)
            folder = self._upload.folder
        self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add the measures of one row."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Let readers see all of it; the caller has made sure that the run is still its own."""
        self._writer.flush()
        if self._upload is not None:
            self._upload.sync()

    def close(self) -> None:
        """Flush and end the file, whoever owns the run now."""
        self._writer.close()
        if self._upload is not None:
            self._upload.close()


class _Upload:
    """The event file on its way into an object store: written in a folder here, put whole."""

    def __init__(self, directory: ObjectPath) -> None:
        for old in directory.iterdir():
            old.unlink(missing_ok=True)
        self._directory = directory
        self._temporary = tempfile.TemporaryDirectory(prefix="distcnn-tensorboard-")
        self.folder = Path(self._temporary.name)
        self._version: str | None = None

    def sync(self) -> None:
        [file] = self.folder.iterdir()
        self._version = (self._directory / file.name).put(file.read_bytes())

    def close(self) -> None:
        """Put the rest, unless a later attempt has removed what was put before."""
        with self._temporary:
            [file] = self.folder.iterdir()
            (self._directory / file.name).put_if(file.read_bytes(), self._version)
