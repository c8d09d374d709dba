"""`metrics.csv` tells each step once, whatever was cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.location import Location
from distcnn.run_directory.metrics_log import COLUMNS, MetricsLog, Row, read_rows


def row(step: int, loss: float | None = 0.25) -> Row:
    return dict.fromkeys(COLUMNS, None) | {"step": step, "epoch": 1, "train/loss": loss}


def write(path: Location, *steps: int, last_step: int = 0) -> None:
    log = MetricsLog(path, last_step)
    for step in steps:
        log.append(row(step))
    log.sync()
    log.close()


def steps(path: Location) -> list[float | int | None]:
    return [row["step"] for row in read_rows(path)]


def test_rows_come_back_as_they_were(place: Location) -> None:
    path = place / "metrics.csv"
    log = MetricsLog(path, last_step=0)
    told = row(50, loss=1 / 3) | {"lr": 1e-05, "val/accuracy": 0.5}
    log.append(told)
    log.close()
    assert list(read_rows(path)) == [told]


@given(cut=st.integers(0, 400), last_step=st.integers(0, 60))
def test_an_attempt_goes_on_from_its_checkpoint_whatever_a_kill_left(
    tmp_path_factory: pytest.TempPathFactory, cut: int, last_step: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.csv"
    write(path, 10, 20, 30, 40, 50)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    whole = steps(path)
    kept = [step for step in whole if step is not None and step <= last_step]
    write(path, last_step + 10, last_step=last_step)
    assert steps(path) == [*kept, last_step + 10]


def test_a_late_writer_spoils_nothing(place: Location) -> None:
    path = place / "metrics.csv"
    late = MetricsLog(path, last_step=0)
    late.append(row(10))
    late.sync()
    write(path, 20, last_step=10)
    late.append(row(30))
    late.close()
    assert steps(path) == [10, 20]
