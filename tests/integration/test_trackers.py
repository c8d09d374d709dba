"""Trackers: a real MLflow server on this machine, and Weights & Biases without its server."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from wandb.proto.wandb_internal_pb2 import Record

from tests.runs import (
    TIMEOUT_SECONDS,
    Command,
    distcnn,
    finish,
    start,
    start_and_reach,
    told,
    train_command,
    wait_for,
)

# Of LevelDB's logs: a block, and two of the kinds of pieces.
_BLOCK_BYTES = 32768
_WHOLE, _LAST = 1, 4
MLFLOW = "training.trackers=[mlflow]"


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The address of a server that keeps its runs in a file."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    packages = Path(sys.prefix) / ".mlflow-server"
    if not packages.is_dir():
        pytest.skip("no MLflow server is installed; `make test-all` installs one")
    environment = os.environ | {"PYTHONPATH": str(packages)}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/runs.db"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _answers(address), server)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_mlflow_has_the_rows_of_a_run_once_though_it_was_killed(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run = tmp_path / "tracked"
    process = start_and_reach(train_command(run, MLFLOW), run, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert "Run completed" in finish(distcnn("resume", run))

    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("distcnn")
    [seen] = client.search_runs([experiment.experiment_id])
    assert seen.info.run_name == "tracked"
    assert seen.info.status == "FINISHED"
    assert seen.data.params["optimizer.lr"] == "0.001"
    rows = [row for row in told(run) if row[3]]  # Of epochs' ends.
    history = client.get_metric_history(seen.info.run_id, "val/accuracy")
    by_step = {metric.step: metric.value for metric in history}
    assert by_step == {int(row[0]): float(row[4]) for row in rows}
    losses = client.get_metric_history(seen.info.run_id, "train/loss")
    assert [metric.step for metric in losses] == [int(row[0]) for row in told(run)], "each once"
    assert seen.data.metrics["test/accuracy"] > 0.5
    assert seen.data.metrics["chosen/val/accuracy"] == max(by_step.values())


@pytest.fixture(scope="module")
def without_answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """Return output and seconds of runs whose server is away, or silent; both wait at once."""
    with socket.socket() as silent, pytest.MonkeyPatch.context() as patch:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        addresses = {
            "away": "http://someone:not@secret@127.0.0.1:9",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        began = time.monotonic()
        processes: dict[str, Command] = {}
        for kind, address in addresses.items():
            patch.setenv("MLFLOW_TRACKING_URI", address)
            processes[kind] = start(train_command(tmp_path_factory.mktemp(kind) / "run", MLFLOW))
        outputs: dict[str, tuple[str, float]] = {}
        for kind, process in processes.items():
            output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, output
            outputs[kind] = output, time.monotonic() - began
        return outputs


def test_a_server_that_is_away_stops_nothing(without_answer: dict[str, tuple[str, float]]):
    said, _ = without_answer["away"]
    assert "Run completed" in said
    assert "mlflow is told no more" in said
    assert "secret" not in said


def test_a_server_that_never_answers_is_not_waited_for(
    without_answer: dict[str, tuple[str, float]],
):
    said, seconds = without_answer["silent"]
    assert seconds < 90, "when training ends, and when the run does"
    assert "Run completed" in said
    assert "mlflow has not answered in time" in said


def test_wandb_has_the_rows_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    assert "Run completed" in finish(train_command(run, "training.trackers=[wandb]"))
    kept = [record for file in run.rglob("*.wandb") for record in _records(file)]
    rows = [record.history for record in kept if record.HasField("history")]
    logged = [{"/".join(item.nested_key) or item.key for item in row.item} for row in rows]
    assert sum("val/accuracy" in names for names in logged) == 2
    summary = [i.key for r in kept if r.HasField("summary") for i in r.summary.update]
    assert "test/accuracy" in summary


def _records(file: Path) -> Generator[Record]:
    """What the file holds: pieces of records in blocks, as LevelDB's logs have them."""
    content, place, record = file.read_bytes(), 7, b""  # After the file's own header.
    while place + 7 <= len(content):
        room = _BLOCK_BYTES - place % _BLOCK_BYTES
        if room < 7:  # Too little for a piece's header: filled up.
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (_WHOLE, _LAST):
            yield Record.FromString(record)
            record = b""
