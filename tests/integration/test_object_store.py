"""A run in an object store ends, whatever happens to it, as one in a folder that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distcnn.files import write_atomically
from distcnn.object_store import ObjectPath
from distcnn.run_directory.checkpoint_index import Index
from distcnn.run_directory.lease import Holder
from distcnn.run_directory.metrics_log import read_rows
from distcnn.run_directory.run import RunDirectory
from tests.runs import (
    TIMEOUT_SECONDS,
    assert_same_result,
    distcnn,
    events,
    finish,
    start_and_reach,
    told,
    train_command,
)
from tests.s3_server import S3Server


def test_kill_9_at_a_random_moment(bucket: ObjectPath, tmp_path: Path, undisturbed: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run = bucket / "prefix" / "run"
    process = start_and_reach(train_command(run), run, num_saves=chance.randrange(1, 8))
    time.sleep(chance.uniform(0, 0.1))
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)
    assert steps_in_tensorboard(run, tmp_path) == [row["step"] for row in read_rows(metrics(run))]
    files = {path.name for path in (run / "checkpoints").iterdir()}
    committed = {record.file for record in RunDirectory(run).read_checkpoints()}
    assert {name for name in files if not name.startswith("index-")} == committed


def metrics(run: ObjectPath) -> ObjectPath:
    return run / "metrics.csv"


def steps_in_tensorboard(run: ObjectPath, folder: Path) -> list[int]:
    for path in (run / "tensorboard").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    accumulator = EventAccumulator(str(folder)).Reload()
    return [event.step for event in accumulator.Scalars("train/loss")]


def test_a_second_writer_is_refused_by_name(bucket: ObjectPath) -> None:
    run = bucket / "run"
    process = start_and_reach(train_command(run, "training.epochs=50"), run, num_saves=1)
    output = finish(distcnn("resume", run), expected=1)
    assert f"process {process.pid} on {os.uname().nodename}" in output
    output = finish(train_command(run), expected=2)
    assert f"distcnn resume {run}" in output
    process.kill()
    process.communicate()


def test_a_run_that_was_taken_over_changes_nothing_more(bucket: ObjectPath) -> None:
    run = bucket / "run"
    process = start_and_reach(train_command(run, "training.epochs=50"), run, num_saves=1)
    elsewhere = replace(Holder.this_process(attempt=2), host="elsewhere")
    write_atomically(run / "lease" / "attempt-000002.json", elsewhere.encode())
    before = RunDirectory(run).read_checkpoints()
    index = Index(attempt=2, records=tuple(before))
    write_atomically(run / "checkpoints" / index.path, index.encode())
    write_atomically(metrics(run), metrics(run).read_bytes() + b"of,another,attempt\n")
    rows = metrics(run).read_bytes()
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1, output
    assert "taken over by process" in output
    assert "Traceback" not in output
    assert metrics(run).read_bytes() == rows
    assert RunDirectory(run).read_checkpoints() == before


# Runs the command as on another host, where a silent holder is waited for only that long.
ON_HOST = """
import socket, sys
from distcnn.run_directory import lease
socket.gethostname = lambda: sys.argv[1]
lease.TIME_TO_LIVE_SECONDS = 3
from distcnn.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_host_that_comes_back_changes_nothing_more(
    bucket: ObjectPath, tmp_path: Path, undisturbed: Path
) -> None:
    """It stood still for longer than its lease lives, and another has finished the run."""
    run = bucket / "run"

    def on_host(name: str, command: list[str]) -> list[str]:
        return [sys.executable, "-c", ON_HOST, name, *command[3:]]

    process = start_and_reach(on_host("first", train_command(run)), run, num_saves=4)
    process.send_signal(signal.SIGSTOP)
    output = finish(on_host("second", distcnn("resume", run)))
    assert f"process {process.pid} on first" in output
    assert_same_result(run, undisturbed)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1, output
    assert "taken over by process" in output
    assert_same_result(run, undisturbed)
    assert steps_in_tensorboard(run, tmp_path) == [row["step"] for row in read_rows(metrics(run))]


def test_commands_take_a_place_in_a_store(bucket: ObjectPath, undisturbed: Path) -> None:
    """`storage.directory` stays what was typed; the name of the run is added to it."""
    command = train_command(Path("unused"), f"storage.directory={bucket}/runs")[:-2]
    finish(command)
    [run] = (bucket / "runs").iterdir()
    assert run.name.startswith("article-")
    config = RunDirectory(run).read_config()
    assert config.storage.directory == bucket / "runs"
    assert told(run) == told(undisturbed)
    [row] = json.loads(finish(distcnn("runs", bucket / "runs", "--json")))
    assert (row["run"], row["status"], row["epochs"]) == (str(run), "completed", 2)
    assert run.name in finish(distcnn("runs", bucket / "runs"))
    measured = json.loads(finish(distcnn("evaluate", run, "--json")).splitlines()[-1])
    assert measured["accuracy"] == row["val_accuracy"]
    assert "finished" in finish(distcnn("resume", run))
    printed = finish(distcnn("train", run / "config.yaml", "seed=3", "--dry-run"))
    assert f"directory: {bucket}/runs" in printed


def test_a_store_that_refuses_loses_nothing_that_was_committed(
    bucket: ObjectPath, s3_server: S3Server, undisturbed: Path
) -> None:
    run = bucket / "run"
    process = start_and_reach(train_command(run), run, num_saves=2)
    s3_server.faults += ["denied"] * 100
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    s3_server.faults.clear()
    assert process.returncode == 1, output
    assert "access denied to PutObject" in output
    assert f"distcnn resume {run}" in output
    assert "Traceback" not in output
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ACCESS_KEY_ID", "another-key", "the credentials are refused"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "127.0.0.1:9 cannot be reached"),
        ("AWS_REGION", "us-east-1", "there is no such bucket"),  # Nothing is wrong but the name.
    ],
)
def test_a_mistake_is_told_on_one_screen(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    for command in (
        train_command(ObjectPath("nowhere", "run")),
        distcnn("resume", "s3://nowhere/run"),
        distcnn("runs", "s3://nowhere"),
    ):
        output = finish(command, expected=1)
        assert said in output
        assert "s3://nowhere" in output
        assert "Traceback" not in output
        assert len(output.splitlines()) < 8


def test_a_mere_prefix_is_no_run(bucket: ObjectPath) -> None:
    output = finish(distcnn("resume", bucket / "run"), expected=2)
    assert f"{bucket}/run is not a run directory: it does not exist" in output
    (bucket / "run" / "other.txt").put(b"")
    output = finish(train_command(bucket / "run"), expected=2)
    assert "is not empty and not a run" in output


def test_workers_keep_their_run_there(bucket: ObjectPath) -> None:
    """What the driver and the worker write at the same time is all told."""
    run = bucket / "run"
    command = train_command(run, "workers.count=2")
    command[command.index("train")] = "launch"
    finish([*command, "--preflight"])
    assert not run.exists()
    assert list(bucket.iterdir()) == []
    finish(command)
    assert json.loads((run / "results.json").read_bytes())["status"] == "completed"
    kinds = [event["event"] for event in events(run)]
    assert kinds.count("checkpoint") == 100 // 3 + 2, (
        "every third step, and at the end of each epoch"
    )
    assert "finished" in finish(distcnn("resume", run))
