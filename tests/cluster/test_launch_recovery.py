"""A launched run through the deaths of workers and drivers ends with the bits of one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest

from distcnn.run_directory.run import RunDirectory
from tests.launches import (
    NUM_STEPS,
    assert_gone,
    attempts,
    end,
    family,
    ips_listened_on,
    kill,
    kill_9,
    launch_command,
    ray_folder,
    restarts,
    times,
    wait_for_training,
)
from tests.runs import assert_same_result, distcnn, events, finish, start, start_as_typed, wait_for


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_workers_that_are_killed_or_hang(
    tmp_path: Path, undisturbed: Path, chance: random.Random, chaos_rounds: int
) -> None:
    """One dies, then two at once, then one hangs; again and again in `make chaos`."""
    run = tmp_path / "run"
    blows = [(1, SIGKILL), (2, SIGKILL), (1, SIGSTOP)] * chaos_rounds
    began = time.time()
    process = start_as_typed(launch_command(run, f"recovery.max_failures={len(blows)}"))
    # A save is every third step; the steps that are left are shared by the blows.
    most = NUM_STEPS // 3 // (len(blows) + 1)
    hurt: list[float] = []
    for attempt, (count, number) in enumerate(blows, start=1):
        pids = wait_for_training(run, process, attempt, chance.randrange(1, max(2, most)))
        time.sleep(chance.uniform(0, 0.02))  # Steps are a few milliseconds each.
        kill(chance.sample(pids, count), number)
        hurt.append(time.time())
        wait_for(lambda: restarts(run) == attempt, process)  # noqa: B023
        assert time.time() - hurt[-1] < (10 if number == SIGKILL else 60)
    output = end(process)
    assert_same_result(run, undisturbed)
    assert output.count("died: starting again from step") == 2 * chaos_rounds
    assert output.count("hung: starting again from step") == chaos_rounds
    first_start, *starts = (
        step - since
        for since, step in zip(
            [began, *times(run, "restart")], times(run, "first_step"), strict=True
        )
    )
    assert max(starts) < 2 * first_start  # Which Ray's own start was a part of.
    told = json.loads((run / "results.json").read_bytes())["restarts"]
    assert told["failures"] == len(blows)
    lost = sum(times(run, "first_step")[1:]) - sum(hurt)
    assert abs(told["seconds_lost"] - lost) < 2 * len(blows)  # Since a save shortly before.


def test_a_second_driver_is_refused_and_a_killed_one_followed(
    tmp_path: Path, undisturbed: Path
) -> None:
    """By the same command, while its workers may still live, one of them stopped."""
    run = tmp_path / "run"
    process = start(launch_command(run))
    pids = wait_for_training(run, process, attempt=1, num_saves=1)
    kill(pids, SIGSTOP)
    output = finish(launch_command(run), expected=1)
    assert f"process {process.pid} on {os.uname().nodename}" in output
    kill(pids[1:], signal.SIGCONT)
    left = kill_9(process)
    finish(launch_command(run))
    assert_gone(left)
    assert_same_result(run, undisturbed)


def test_signals_save_and_say_how_to_go_on(tmp_path: Path, undisturbed: Path) -> None:
    """SIGTERM, then Ctrl-C twice since the workers cannot save; the bits are kept."""
    run = tmp_path / "run"
    # Saves are the signals' alone, after the first one at step 20.
    command = launch_command(run, "training.checkpoint_every_steps=20")
    process = start(command)
    wait_for_training(run, process, attempt=1, num_saves=1)
    everybody = family(process)
    assert ips_listened_on(everybody) == {"127.0.0.1"}
    words = " ".join(word for each in everybody for word in each.cmdline())
    process.send_signal(signal.SIGTERM)
    output = end(process, expected=143)
    assert "SIGTERM: saving, then stopping" in output
    assert f"distcnn resume {run}" in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    assert_gone(everybody)
    assert str(ray_folder(output)) in words
    assert not ray_folder(output).exists()

    process = start(command)
    pids = wait_for_training(run, process, attempt=2, num_saves=1)
    everybody = family(process)
    kill(pids, SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    asked_at = time.monotonic()
    output = end(process, expected=130)
    assert time.monotonic() - asked_at < 15
    assert "Traceback" not in output
    assert_gone(everybody)
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


# Loaded by every Python that is started below. One worker dies as it learns what to do, one with a
# checkpoint written but not in its place, one with it in its place but not in the index.
DIE_ONCE_IN_EACH_WAY = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from pathlib import Path
def die_if_first(way):
    try:
        Path(os.environ["DEATHS"], way).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
class AtTheStart(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "distcnn.orchestration.assignment" and "default_worker" in sys.argv[0]:
            die_if_first("start")
sys.meta_path.insert(0, AtTheStart())
original, num_commits = Path.replace, [0]
def deadly(self, target):
    num_commits[0] += "checkpoints" in str(target)
    if num_commits[0] == 8:
        die_if_first("before")
    result = original(self, target)
    if num_commits[0] == 8:
        die_if_first("after")
    return result
Path.replace = deadly
"""


def test_workers_that_die_at_the_start_and_in_the_middle_of_commits(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIE_ONCE_IN_EACH_WAY, encoding="utf-8")
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    run = tmp_path / "run"
    # The room of those that died is given back: nobody waits for it as long as this.
    output = finish(launch_command(run, "recovery.wait_for_workers_seconds=20"))
    assert {path.name for path in (tmp_path / "deaths").iterdir()} == {"start", "before", "after"}
    assert "a worker died while it started: starting again from step 0" in output
    assert restarts(run) == 3
    assert_same_result(run, undisturbed)
    files = {path.name for path in (run / "checkpoints").iterdir()}
    committed = {record.file for record in RunDirectory(run).read_checkpoints()}
    assert {name for name in files if not name.startswith("index-")} == committed


@pytest.fixture
def faulty_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One worker of two cannot get memory at step 10, as often as it tries."""
    text = """
import os, sys
from importlib.abc import MetaPathFinder
class Fault(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "distcnn.orchestration.worker":
            sys.meta_path.remove(self)
            import distcnn.module as module
            original, seen = module.ImageClassifier.learn, [0]
            def learn(self, batch, optimizer):
                if batch.step == 10 and self.workers.rank == 1:
                    raise RuntimeError("[enforce fail] can't allocate memory: you tried too much")
                return original(self, batch, optimizer)
            module.ImageClassifier.learn = learn
        return None
sys.meta_path.insert(0, Fault())
"""
    (tmp_path / "sitecustomize.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield


@pytest.mark.usefixtures("faulty_worker")
def test_out_of_memory_twice_at_one_step_is_not_tried_a_third_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    output = finish(launch_command(run, "workers.count=2"), expected=1)
    assert restarts(run) == 1
    assert "twice at step 10" in output
    assert "training.num_shards=2" in output
    assert any((run / "ray-logs").glob("worker-*"))
    assert json.loads((run / "results.json").read_bytes())["status"] == "failed"


def test_what_is_not_finite_is_not_tried_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["optimizer.name=sgd", "optimizer.lr=1e30", "schedule.name=constant", "workers.count=2"]
    output = finish(launch_command(run, *more), expected=1)
    assert "lower learning rate" in output
    assert "Traceback" not in output
    assert restarts(run) == 0
    assert len(attempts(run)) == 1


def test_failures_are_bounded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run, "recovery.max_failures=0", "workers.count=2"))
    pids = wait_for_training(run, process, attempt=1, num_saves=2)
    kill(pids[1:], SIGKILL)
    output = end(process, expected=1)
    assert f"worker 1 on {os.uname().nodename} (process {pids[1]}) died" in output
    assert "recovery.max_failures = 0" in output
    assert restarts(run) == 0
    kinds = [event["event"] for event in events(run)]
    assert kinds[-2:] == ["attempt_failed", "failed"]
