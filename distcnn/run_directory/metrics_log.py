"""`metrics.csv`: one row per report of a run, nothing told twice."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from io import StringIO

from distcnn.files import DamagedFileError
from distcnn.growing_file import start_growing
from distcnn.location import Location

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
_REMEDY = (
    "Restore it from a backup, or delete it: the run keeps its checkpoints and loses the curves so"
    " far"
)


def read_rows(path: Location) -> Iterator[Row]:
    """The rows of a `metrics.csv`; a last line that a kill has torn is left out.

    Raises:
        DamagedFileError: a cell is no number.
    """
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
        whole_lines = text[: text.rfind("\n") + 1]
        for fields in csv.DictReader(StringIO(whole_lines)):
            row = {name: _number(text) for name, text in fields.items()}
            if row.keys() != set(COLUMNS):
                raise ValueError(f"columns {', '.join(row)}")
            yield row
    except (ValueError, AttributeError, TypeError) as error:
        raise DamagedFileError(path, _REMEDY) from error


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _encode(rows: Iterable[Row]) -> bytes:
    text = StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class MetricsLog:
    """The writer of `metrics.csv` during an attempt."""

    def __init__(self, path: Location, last_step: int) -> None:
        """Drop what an earlier attempt told past step `last_step`; go on from there."""
        rows = [row for row in read_rows(path) if (row["step"] or 0) <= last_step]
        self._file = start_growing(path, ",".join(COLUMNS).encode() + b"\n" + _encode(rows))
        self.rows = rows

    def append(self, row: Row) -> None:
        """Add a row; it is durable after the next `sync`."""
        self._file.append(_encode([row]))
        self.rows.append(row)

    def sync(self) -> None:
        """Make every row safe: called by the run's owner, before a checkpoint that needs them."""
        self._file.sync()

    def close(self) -> None:
        """End the attempt's writing."""
        self._file.close()
