"""A run that cannot go on says why on one screen, and loses nothing that was committed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_another_config_is_not_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, num_saves=1)
    process.kill()
    process.communicate()
    config = run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("seed: 0", "seed: 1"), "utf-8")
    output = finish(distcnn("resume", run), expected=1)
    assert f"distcnn train {config}" in output


def test_a_finished_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("*.*")}
    output = finish(distcnn("resume", undisturbed))
    assert "finished" in output
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("*.*")} == before


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_and_reach(train_command(run, "training.epochs=50"), run, num_saves=1)
    output = finish(distcnn("resume", run), expected=1)
    assert f"process {process.pid} on {os.uname().nodename}" in output
    process.kill()
    process.communicate()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    """SGD at a huge learning rate overflows within a few steps."""
    run = tmp_path / "run"
    overrides = ["optimizer.name=sgd", "optimizer.lr=1e18", "training.checkpoint_every_steps=1"]
    output = finish(train_command(run, *overrides), expected=1)
    results = json.loads((run / "results.json").read_bytes())
    assert results["status"] == "failed"
    assert "at step" in results["reason"] or "by step" in results["reason"]
    assert results["reason"].split(";")[0] in output.replace("\n", " ")
    assert "Traceback" not in output
    again = finish(distcnn("resume", run), expected=1)
    assert "step" in again


# Runs the command in a process that may not have more memory than this.
WITH_LITTLE_MEMORY = """
import resource, sys
import torch, pytorch_lightning
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
from distcnn.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_batch_larger_than_memory_is_computed_shard_by_shard(tmp_path: Path) -> None:
    """16 maps of 28 x 28 numbers each for 12,800 images are 642 MB, several times over."""
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY]
    overrides = ["data.num_train=12800", "training.global_batch_size=12800"]

    def arguments(run: str, *more: str) -> list[str]:
        return train_command(tmp_path / run, *overrides, *more)[3:]

    output = finish([*command, *arguments("whole")], expected=1)
    assert "training.num_shards=2" in output
    assert "Traceback" not in output
    finish([*command, *arguments("shards", "training.num_shards=50")])


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Return the directory of a run that was killed after some checkpoints."""
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, num_saves=4)
    process.kill()
    process.communicate()
    return run


def test_a_damaged_checkpoint_is_named_and_skipped(killed: Path, undisturbed: Path) -> None:
    newest = RunDirectory(killed).read_checkpoints()[-1]
    path = killed / "checkpoints" / newest.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    output = finish(distcnn("resume", killed))
    assert f"{newest.file} is damaged" in output
    assert_same_result(killed, undisturbed)
    assert path.read_bytes() == content, "its owner may still want it"


@pytest.mark.parametrize("content", [b"[]", b"{", None])
def test_a_damaged_index_costs_no_step(
    killed: Path, undisturbed: Path, content: bytes | None
) -> None:
    step = RunDirectory(killed).read_checkpoints()[-1].step
    index = killed / "checkpoints" / "index-000001.json"
    if content is None:
        index.unlink()
    else:
        index.write_bytes(content)
    assert RunDirectory(killed).read_checkpoints()[-1].step == step
    output = finish(distcnn("resume", killed))
    assert ("index-000001.json is damaged" in output) == (content is not None)
    assert "move" not in output
    assert steps_of_attempt(killed, 2)[0] > step
    assert_same_result(killed, undisturbed)


def steps_of_attempt(run: Path, attempt: int) -> list[int]:
    """Return the step of each checkpoint that an attempt has committed."""
    return [
        int(str(event["step"]))
        for event in events(run)
        if event["event"] == "checkpoint" and event["attempt"] == attempt
    ]


def test_deleting_the_lease_loses_no_checkpoint(killed: Path, undisturbed: Path) -> None:
    for num_saves in (2, 4):
        process = start_and_reach(distcnn("resume", killed), killed, num_saves)
        process.kill()
        process.communicate()
        shutil.rmtree(killed / "lease")
    step = RunDirectory(killed).read_checkpoints()[-1].step
    finish(distcnn("resume", killed))
    assert steps_of_attempt(killed, 4)[0] > step
    assert_same_result(killed, undisturbed)


@pytest.mark.parametrize("damage", ["altered", "deleted"])
def test_a_run_starts_over_only_on_request(killed: Path, undisturbed: Path, damage: str) -> None:
    files = list((killed / "checkpoints").glob("step-*"))
    for file in files:
        if damage == "altered":
            file.write_bytes(b"rubbish")
        else:
            shutil.rmtree(killed / "checkpoints", ignore_errors=True)
    rows = told(killed)
    output = finish(distcnn("resume", killed), expected=1)
    assert f"distcnn resume {killed} --restart" in output
    assert "Traceback" not in output
    if damage == "altered":
        assert all(str(file) in output and file.exists() for file in files)
    assert told(killed) == rows
    finish(distcnn("resume", killed, "--restart"))
    assert steps_of_attempt(killed, 3)[0] == 3
    assert_same_result(killed, undisturbed)
    assert not any(file.exists() for file in files)
    output = finish(distcnn("resume", killed, "--restart"), expected=1)
    assert "Run already completed" in output
    assert f"distcnn train {killed / 'config.yaml'}" in output


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path, undisturbed: Path) -> None:
    """On a real, small file system that fills up in the middle of the run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        run = disk / "run"
        process = start_and_reach(train_command(run), run, num_saves=2)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 1, output
        assert "No space left on device" in output
        assert f"distcnn resume {run}" in output
        assert "Traceback" not in output
        filler.unlink()
        finish(distcnn("resume", run))
        assert_same_result(run, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_unwritable_directory_is_said_before_anything_starts(tmp_path: Path) -> None:
    output = finish(train_command(Path("/proc/nowhere/run")), expected=2)
    assert "cannot make the run directory /proc/nowhere" in output
    assert "--run-dir" in output
