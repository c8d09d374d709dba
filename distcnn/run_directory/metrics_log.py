"""`metrics.csv`: one row per report of a run, nothing told twice."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TextIO

from distcnn.files import DamagedFileError, write_atomically

COLUMNS: tuple[str, ...] = (
    "step",
    "epoch",
    "train/loss",
    "val/loss",
    "val/accuracy",
    "lr",
    "images_per_second",
    "train_seconds",
)
Row = dict[str, float | int | None]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a `metrics.csv`; a last line that a kill has torn is left out.

    Raises:
        DamagedFileError: a cell is no number.
    """
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole_lines = text[: text.rfind("\n") + 1]
    for fields in csv.DictReader(StringIO(whole_lines)):
        try:
            yield {name: _number(text) for name, text in fields.items()}
        except (ValueError, AttributeError) as error:
            raise DamagedFileError(path) from error


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


class MetricsLog:
    """The writer of `metrics.csv` during an attempt."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Drop what an earlier attempt told past step `last_step`; go on from there."""
        rows = [row for row in read_rows(path) if (row["step"] or 0) <= last_step]
        content = StringIO()
        writer = csv.DictWriter(content, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, content.getvalue().encode())
        # Held open: an attempt that was taken over writes into its own old file, not into ours.
        self._file: TextIO = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self.rows = rows

    def append(self, row: Row) -> None:
        """Add a row; it is durable after the next `sync`."""
        self._writer.writerow(row)
        self._file.flush()
        self.rows.append(row)

    def sync(self) -> None:
        """Put every row on the disk: called before a checkpoint that stands on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the attempt's writing."""
        self._file.close()
