"""A run that is stopped, killed or starved ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distcnn.run_directory.run import RunDirectory

OVERRIDES = [
    "data.source=synthetic",
    "data.num_train=3200",
    "data.num_val=500",
    "data.flip=true",
    "data.shift=1",
    "training.epochs=2",
    "training.global_batch_size=64",
    "training.average_weights=0.9",
    "training.checkpoint_every_steps=3",
    "schedule.name=one-cycle",
    "schedule.warmup_fraction=0.25",
    "workers.cpus=1",
]
TIMEOUT_SECONDS = 120
# What must be the same whatever happened on the way: timings may differ.
TOLD_ONCE = ("step", "epoch", "train/loss", "val/loss", "val/accuracy", "lr")


def distcnn(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "distcnn.cli", *map(str, arguments)]


def train_command(run: Path, *more: str) -> list[str]:
    return distcnn("train", "article", *OVERRIDES, *more, "--run-dir", run)


def finish(command: list[str], expected: int = 0) -> str:
    """Run to the end; what it said."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == expected, done.stdout
    return done.stdout


def events(run: Path) -> list[dict[str, object]]:
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_and_reach(command: list[str], run: Path, num_saves: int) -> subprocess.Popen[str]:
    """Start a process and wait until it has committed so many more checkpoints."""

    def saves() -> int:
        return sum(event["event"] == "checkpoint" for event in events(run))

    before = saves()
    process = start(command)
    wait_for(lambda: saves() >= before + num_saves, process)
    return process


def told(run: Path) -> list[tuple[str, ...]]:
    """The part of `metrics.csv` that a result consists of."""
    header, *rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    columns = [header.split(",").index(name) for name in TOLD_ONCE]
    return [tuple(row.split(",")[column] for column in columns) for row in rows]


def assert_same_result(run: Path, undisturbed: Path) -> None:
    results, expected = (
        json.loads((path / "results.json").read_bytes()) for path in (run, undisturbed)
    )
    for part in ("status", "epochs", "weights_sha256", "chosen", "val", "test", "data"):
        assert results[part] == expected[part], part
    assert told(run) == told(undisturbed)
    assert (run / "weights.safetensors").read_bytes() == (
        undisturbed / "weights.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(train_command(run))
    return run


def test_kill_9_at_random_moments(tmp_path: Path, undisturbed: Path) -> None:
    """With a save every third step, about every other kill falls into one."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run = tmp_path / "run"
    command = train_command(run)
    for _ in range(3):
        process = start_and_reach(command, run, num_saves=chance.randrange(1, 8))
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        command = distcnn("resume", run)
    finish(command)
    assert_same_result(run, undisturbed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_kill_9_on_a_gpu(tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(train_command(undisturbed, "workers.gpus=1"))
    process = start_and_reach(train_command(run, "workers.gpus=1"), run, num_saves=5)
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


# Runs the command with a system call that, at its n-th time in the checkpoint folder, is the
# last thing the process does: before it for "before", after it for "after".
DIE_IN_A_COMMIT = """
import os, signal, sys
from pathlib import Path
name, moment, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = Path if name == "replace" else os
original, left = getattr(owner, name), [times]
def deadly(*arguments):
    here = name == "fsync" or "checkpoints" in str(arguments[0])
    left[0] -= here
    if here and left[0] == 0 and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments)
    if here and left[0] == 0 and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, deadly)
from distcnn.cli import main
sys.exit(main(sys.argv[4:]))
"""


@pytest.mark.parametrize(
    ("call", "moment", "times"),
    [
        ("fsync", "before", 9),
        ("replace", "before", 4),  # The checkpoint written, but not yet in its place.
        ("replace", "after", 4),  # In its place, but not yet in the index.
        ("replace", "before", 5),
        ("replace", "after", 5),  # In the index, nothing pruned yet.
    ],
)
def test_kill_9_in_the_middle_of_a_commit(
    tmp_path: Path, undisturbed: Path, call: str, moment: str, times: int
) -> None:
    run = tmp_path / "run"
    command = train_command(run)[3:]
    finish(
        [sys.executable, "-c", DIE_IN_A_COMMIT, call, moment, str(times), *command],
        expected=-signal.SIGKILL,
    )
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)
    files = {path.name for path in (run / "checkpoints").iterdir()}
    committed = {record.file for record in RunDirectory(run).read_checkpoints()}
    assert {name for name in files if not name.startswith("index-")} == committed


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, undisturbed: Path, number: signal.Signals, expected: int
) -> None:
    run = tmp_path / "run"
    # Saves are the signal's alone, after the first one at step 20.
    command = train_command(run, "training.checkpoint_every_steps=20")
    process = start_and_reach(command, run, num_saves=1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == expected, output
    assert f"distcnn resume {run}" in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


# Runs the command with signals to itself inside a step, where no timing could aim them so well.
SIGNAL_IN_A_STEP = """
import os, signal, sys
from distcnn.module import ImageClassifier
name, at, *numbers = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3].split(","))
original, seen = getattr(ImageClassifier, name), [0]
def step(self, batch, batch_idx):
    seen[0] += 1
    if seen[0] == at:
        for number in numbers:
            os.kill(os.getpid(), number)
    return original(self, batch, batch_idx)
setattr(ImageClassifier, name, step)
from distcnn.cli import main
sys.exit(main(sys.argv[4:]))
"""


def signalled(step: str, at: int, numbers: str, command: list[str]) -> list[str]:
    return [sys.executable, "-c", SIGNAL_IN_A_STEP, step, str(at), numbers, *command[3:]]


@pytest.mark.parametrize("number", ["2", "15"])
@pytest.mark.parametrize("step", ["validation_step", "test_step"])
def test_a_signal_while_finalizing_comes_too_late(
    tmp_path: Path, undisturbed: Path, step: str, number: str
) -> None:
    """With 500 validation images, each evaluation is one step: the third is `finalize`'s own."""
    run = tmp_path / "run"
    at = 3 if step == "validation_step" else 2
    output = finish(signalled(step, at, number, train_command(run)))
    assert "Run completed" in output
    assert_same_result(run, undisturbed)


def test_a_signal_in_the_last_step_of_an_epoch(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    finish(signalled("learn", 50, "15", train_command(run)), expected=143)
    assert RunDirectory(run).read_checkpoints()[-1].epoch == 1
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    output = finish(signalled("learn", 20, "2,2", train_command(run)), expected=130)
    assert "interrupted" in output
    assert RunDirectory(run).read_checkpoints()[-1].step == 18
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


def test_another_config_is_not_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(signalled("learn", 10, "15", train_command(run)), expected=143)
    config = run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("seed: 0", "seed: 1"), "utf-8")
    output = finish(distcnn("resume", run), expected=1)
    assert f"distcnn train {config}" in output


def test_early_stopping_survives_a_kill(tmp_path: Path) -> None:
    """A learning rate of next to nothing: no epoch is better than the first for long."""
    more = ["optimizer.lr=1e-12", "training.epochs=30", "training.early_stopping=2"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(train_command(undisturbed, *more))
    epochs = json.loads((undisturbed / "results.json").read_bytes())["epochs"]
    assert 3 <= epochs < 30
    process = start_and_reach(train_command(run, *more), run, num_saves=20)
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


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


def test_the_test_split_is_read_once(undisturbed: Path) -> None:
    kinds = [event["event"] for event in events(undisturbed)]
    assert kinds.count("finalized") == 1
    assert kinds[-1] == "finalized"
