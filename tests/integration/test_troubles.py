"""A run that cannot go on says why on one screen, and loses nothing that was committed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distcnn.run_directory.run import RunDirectory
from tests.integration.runs import (
    TIMEOUT_SECONDS,
    assert_same_result,
    distcnn,
    finish,
    start_and_reach,
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


def test_a_damaged_checkpoint_is_said_and_passed_over(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, num_saves=4)
    process.kill()
    process.communicate()
    newest = RunDirectory(run).read_checkpoints()[-1]
    path = run / "checkpoints" / newest.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    output = finish(distcnn("resume", run))
    assert f"{newest.file} is damaged" in output
    assert_same_result(run, undisturbed)


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
