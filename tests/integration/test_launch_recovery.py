"""A launched run through the deaths of workers and drivers ends with the bits of one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distcnn.run_directory.run import RunDirectory
from tests.integration.launches import (
    NUM_STEPS,
    assert_gone,
    attempts,
    end,
    family,
    kill,
    launch_command,
    restarts,
    wait_for_training,
    worker_pids,
)
from tests.integration.runs import assert_same_result, distcnn, events, finish, start, wait_for


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a launched run that was left alone."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(launch_command(run))
    return run


@pytest.fixture
def chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def test_kill_9_of_workers(
    tmp_path: Path, undisturbed: Path, chance: random.Random, chaos_rounds: int
) -> None:
    """Of one at a random step, then of two at once; again and again in `make chaos`."""
    run = tmp_path / "run"
    process = start(launch_command(run, f"recovery.max_failures={2 * chaos_rounds}"))
    victims = [chance.sample(range(3), count) for _ in range(chaos_rounds) for count in (1, 2)]
    for attempt, ranks in enumerate(victims, start=1):
        # Steps are a few milliseconds each, and a save is every third.
        most = NUM_STEPS // 3 // (len(victims) + 1)
        pids = wait_for_training(run, process, attempt, chance.randrange(1, most))
        time.sleep(chance.uniform(0, 0.02))
        kill([pids[rank] for rank in ranks])
    output = end(process)
    assert_same_result(run, undisturbed)
    assert restarts(run) == len(victims)
    assert "died: starting again from step" in output
    results = json.loads((run / "results.json").read_bytes())
    assert results["restarts"]["failures"] == len(victims)
    assert 0 < results["restarts"]["seconds_lost"] < 30 * len(victims)


def test_a_worker_that_hangs_is_noticed(
    tmp_path: Path, undisturbed: Path, chance: random.Random
) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run))
    pids = wait_for_training(run, process, attempt=1, num_saves=5)
    hung = pids[chance.randrange(3)]
    kill([hung], signal.SIGSTOP)
    stopped_at = time.monotonic()
    wait_for(lambda: restarts(run) == 1, process)
    assert time.monotonic() - stopped_at < 60
    output = end(process)
    assert "hung: starting again from step" in output
    assert_same_result(run, undisturbed)


@pytest.mark.parametrize("again", ["the same command", "resume"])
def test_kill_9_of_the_driver(tmp_path: Path, undisturbed: Path, again: str) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run))
    wait_for_training(run, process, attempt=1, num_saves=7)
    everybody = family(process)
    assert len(everybody) > 5
    process.kill()
    process.communicate()
    command = launch_command(run) if again == "the same command" else distcnn("resume", run)
    finish(command)
    assert_gone(everybody)
    assert_same_result(run, undisturbed)


def test_kill_9_of_the_driver_takes_a_stopped_worker_along(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run))
    pids = wait_for_training(run, process, attempt=1, num_saves=1)
    everybody = family(process)
    kill(pids[:1], signal.SIGSTOP)
    process.kill()
    process.communicate()
    assert_gone(everybody)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, undisturbed: Path, number: signal.Signals, expected: int
) -> None:
    run = tmp_path / "run"
    # Saves are the signal's alone, after the first one at step 20.
    process = start(launch_command(run, "training.checkpoint_every_steps=20", "training.epochs=40"))
    wait_for_training(run, process, attempt=1, num_saves=1)
    everybody = family(process)
    process.send_signal(number)
    output = end(process, expected)
    assert f"{number.name}: saving, then stopping" in output
    assert f"distcnn resume {run}" in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    assert_gone(everybody)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run, "training.epochs=40"))
    pids = wait_for_training(run, process, attempt=1, num_saves=1)
    everybody = family(process)
    kill(pids, signal.SIGSTOP)  # They cannot save.
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    asked_at = time.monotonic()
    output = end(process, expected=130)
    assert time.monotonic() - asked_at < 15
    assert "Traceback" not in output
    assert_gone(everybody)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run))
    wait_for_training(run, process, attempt=1, num_saves=2)
    process.terminate()
    end(process, 143)
    finish(launch_command(run))
    assert_same_result(run, undisturbed)


# Loaded by every Python that is started below: the first process to rename so many files in a
# checkpoint folder dies of it. With a file of its own for each moment, it happens once.
DIE_IN_A_COMMIT = """
import os, signal
from pathlib import Path
moment, times, marker = os.environ["DIE_MOMENT"], int(os.environ["DIE_TIMES"]), os.environ["DIED"]
original, left = Path.replace, [times]
def deadly(self, target):
    here = "checkpoints" in str(target)
    left[0] -= here
    due = here and left[0] == 0 and not os.path.exists(marker)
    if due:
        Path(marker).touch()
    if due and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(self, target)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Path.replace = deadly
"""


@pytest.mark.parametrize(
    ("moment", "times"),
    [
        ("before", 8),  # The checkpoint written, but not yet in its place.
        ("after", 8),  # In its place, but not yet in the index.
    ],
)
def test_a_worker_that_dies_in_the_middle_of_a_commit(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIE_IN_A_COMMIT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DIE_MOMENT", moment)
    monkeypatch.setenv("DIE_TIMES", str(times))
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    run = tmp_path / "run"
    finish(launch_command(run))
    assert (tmp_path / "died").exists()
    assert restarts(run) == 1
    assert_same_result(run, undisturbed)
    files = {path.name for path in (run / "checkpoints").iterdir()}
    committed = {record.file for record in RunDirectory(run).read_checkpoints()}
    assert {name for name in files if not name.startswith("index-")} == committed


# A worker dies as it learns what to do, once.
DIE_AT_THE_START = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from pathlib import Path
class Fault(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "distcnn.orchestration.assignment" and "default_worker" in sys.argv[0]:
            try:
                Path(os.environ["DIED"]).touch(exist_ok=False)
            except FileExistsError:
                return None
            os.kill(os.getpid(), signal.SIGKILL)
sys.meta_path.insert(0, Fault())
"""


def test_a_worker_that_dies_at_the_start_leaves_its_room_to_the_next(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIE_AT_THE_START, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    run = tmp_path / "run"
    output = finish(launch_command(run, "recovery.wait_for_workers_seconds=20"))
    assert (tmp_path / "died").exists()
    assert "a worker died while it started: starting again from step 0" in output
    assert_same_result(run, undisturbed)


@pytest.fixture
def faulty_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One worker in three cannot get memory at step 10, as often as it tries."""
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
    output = finish(launch_command(run), expected=1)
    assert restarts(run) == 1
    assert "twice at step 10" in output
    assert "training.num_shards=2" in output
    assert any((run / "ray-logs").glob("worker-*"))
    assert json.loads((run / "results.json").read_bytes())["status"] == "failed"


def test_what_is_not_finite_is_not_tried_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["optimizer.name=sgd", "optimizer.lr=1e30", "schedule.name=constant"]
    output = finish(launch_command(run, *more), expected=1)
    assert "lower learning rate" in output
    assert "Traceback" not in output
    assert restarts(run) == 0
    assert len(attempts(run)) == 1


def test_failures_are_bounded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run, "recovery.max_failures=0", "training.epochs=40"))
    pids = wait_for_training(run, process, attempt=1, num_saves=2)
    kill(pids[2:])
    output = end(process, expected=1)
    assert f"worker 2 on {os.uname().nodename} (process {pids[2]}) died" in output
    assert "recovery.max_failures = 0" in output
    assert restarts(run) == 0
    kinds = [event["event"] for event in events(run)]
    assert kinds[-2:] == ["attempt_failed", "failed"]


def test_a_second_driver_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(launch_command(run, "training.epochs=200"))
    wait_for_training(run, process, attempt=1, num_saves=1)
    output = finish(launch_command(run, "training.epochs=200"), expected=1)
    assert f"process {process.pid} on {os.uname().nodename}" in output
    everybody = family(process)
    process.kill()
    process.communicate()
    assert_gone(everybody)
    assert worker_pids(run, 1)
