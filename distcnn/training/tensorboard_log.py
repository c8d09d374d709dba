"""TensorBoard's event file: a copy of `metrics.csv` that TensorBoard can read."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from io import BytesIO
from typing import Any

# These two modules are made when they are imported, out of no type checker's reach.
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.summary.writer.record_writer import RecordWriter

from distcnn.growing_file import start_growing
from distcnn.location import Location
from distcnn.run_directory.metrics_log import Row


class TensorBoardLog:
    """Written anew by each attempt, from the rows that hold, so that it tells nothing twice."""

    def __init__(self, directory: Location, rows: Iterable[Row]) -> None:
        directory.mkdir(exist_ok=True)
        for old in directory.glob("events.out.tfevents.*"):
            old.unlink(missing_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{socket.gethostname()}.{os.getpid()}"
        header = _encode(Event(wall_time=now, file_version="brain.Event:2"))
        self._file = start_growing(directory / name, header + b"".join(map(_encode_row, rows)))

    def append(self, row: Row) -> None:
        """Add the measures of one row."""
        self._file.append(_encode_row(row))

    def sync(self) -> None:
        """Make it safe; the caller has made sure that the run is still its own."""
        self._file.sync()

    def close(self) -> None:
        """End the file, whoever owns the run now."""
        self._file.close()


def _encode_row(row: Row) -> bytes:
    values = [
        Summary.Value(tag=name, simple_value=value)
        for name, value in row.items()
        if name != "step" and value is not None
    ]
    step = int(row["step"] or 0)
    return _encode(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _encode(event: Any) -> bytes:
    """The event with its length and checksums, as it stands in the file."""
    record = BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()
