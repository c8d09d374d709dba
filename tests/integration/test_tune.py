"""Sweeps as processes of their own: killed, stopped, and what they leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from distcnn.object_store import ObjectPath
from distcnn.run_directory.checkpoints import read_checkpoints
from distcnn.run_directory.run import RunDirectory
from tests.launches import assert_gone, end, family, kill_9
from tests.runs import Command, distcnn, events, finish, start, told, wait_for
from tests.shared import made_once
from tests.sweeps import SMALL, leaderboard, ledger, results, saved_steps, trial, tune_command


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    plain = {
        "name": "killed",
        "base": "article",
        "space": {
            "optimizer.lr": {"loguniform": [0.0005, 0.02]},
            "model.channels": {"choice": [[4, 8], [8, 16]]},
        },
        "num_trials": 5,
        "scheduler": "none",
    }
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture(scope="module")
def undisturbed(sweep_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep of `launch/tune.py`, left alone; all tests share it, and only read it."""
    script = Path(__file__).parents[2] / "launch" / "tune.py"

    def make(folder: Path) -> None:
        more = ["training.epochs=3", f"storage.directory={folder}"]
        output = finish([sys.executable, str(script), str(sweep_file), *SMALL, *more])
        assert "Plan: 5 trials, " in output
        assert "at a time, about" in output
        assert "Sweep directory: " in output

    [folder] = made_once(tmp_path_factory, "sweep", make).iterdir()
    return folder


def test_what_a_sweep_leaves_behind(undisturbed: Path, tmp_path: Path) -> None:
    rows = leaderboard(undisturbed)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert {row["status"] for row in rows} == {"completed"}
    accuracies = [float(row["best_val_accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    best = results(undisturbed)["best"]
    assert best["trial"] == int(rows[0]["trial"])
    # The test split is read of the winner alone.
    finalized = [
        number
        for number in range(1, 6)
        if "test" in json.loads((trial(undisturbed, number) / "results.json").read_bytes())
    ]
    assert finalized == [best["trial"]]
    assert (trial(undisturbed, best["trial"]) / "weights.safetensors").exists()
    # Its config trains the same again, to the last bit.
    again = tmp_path / "again"
    finish(distcnn("train", undisturbed / "best.yaml", "--run-dir", again))
    of_winner = json.loads((trial(undisturbed, best["trial"]) / "results.json").read_bytes())
    of_again = results(again)
    for part in ("weights_sha256", "chosen", "test", "val"):
        assert of_again[part] == of_winner[part], part
    # Each trial is a run like any other, and the sweep is over.
    listed = finish(distcnn("runs", undisturbed.parent))
    assert "/trials/0005" in listed
    assert "nothing was done" in finish(distcnn("resume", undisturbed))
    of_trial = finish(distcnn("resume", trial(undisturbed, 2)), expected=2)
    assert f"distcnn resume {undisturbed}" in of_trial
    assert "is a sweep already" in finish(distcnn("tune", "--run-dir", undisturbed), expected=2)


def test_in_an_object_store_its_driver_is_killed_and_then_a_trial(
    sweep_file: Path, undisturbed: Path, bucket: ObjectPath
) -> None:
    folder = bucket / "sweeps/mine"
    process = start(tune_command(sweep_file, folder, "training.epochs=3"))
    wait_for(lambda: len(ledger(folder, "epoch")) >= 2, process)
    assert_gone(kill_9(process))
    assert not (folder / "results.json").exists()

    process = start(distcnn("resume", folder))
    wait_for(lambda: len(ledger(folder, "ended")) >= 2 and _kill_one_that_trains(folder), process)
    assert "its process died" in end(process)
    assert leaderboard(folder) == leaderboard(undisturbed)
    assert results(folder)["best"]["test"] == results(undisturbed)["best"]["test"]
    for number in range(1, 6):
        run, expected = trial(folder, number), trial(undisturbed, number)
        assert told(run) == told(expected)
        digests = [
            [record.weights_sha256 for record in read_checkpoints(each / "checkpoints")]
            for each in (run, expected)
        ]
        assert digests[0] == digests[1]
        assert len(saved_steps(run)) == len(set(saved_steps(run))), "an epoch was trained twice"
    assert "mine/trials/0005" in finish(distcnn("runs", bucket / "sweeps"))


def _kill_one_that_trains(folder: ObjectPath) -> bool:
    """The newest one; whether there was one."""
    ended = {event["trial"] for event in ledger(folder, "ended")}
    for number in sorted(set(range(1, 6)) - ended, reverse=True):
        holder = RunDirectory(trial(folder, number)).read_holder()
        if holder is not None and holder.is_alive_here:
            os.kill(holder.pid, signal.SIGKILL)
            return True
    return False


def test_ctrl_c_stops_a_population_and_a_second_one_leaves_trials_that_do_not_stop(
    sweep_file: Path, tmp_path: Path
) -> None:
    """Both times it continues, and ends as if it had not been stopped."""
    fields = ["scheduler=pbt", "num_trials=4", "training.epochs=4"]
    plain = yaml.safe_load(sweep_file.read_text())
    del plain["space"]["model.channels"]
    file = tmp_path / "population.yaml"
    file.write_text(yaml.safe_dump(plain))
    folder = tmp_path / "sweep"
    process = start(tune_command(file, folder, *fields))
    wait_for(lambda: len(ledger(folder, "exchange")) >= 1, process)
    process.send_signal(signal.SIGINT)
    output = end(process, expected=130)
    assert "saving, then stopping" in output
    assert f"Go on with: distcnn resume {folder}" in output
    assert results(folder)["status"] == "stopped"
    assert leaderboard(folder), "all results are kept"

    process = start(distcnn("resume", folder))
    wait_for(lambda: len(ledger(folder, "exchange")) >= 2, process)
    wait_for(lambda: training(process) != [], process)
    everybody = family(process)
    for each in training(process):
        each.suspend()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert "Traceback" not in end(process, expected=130)
    assert_gone(everybody)

    finish(distcnn("resume", folder))
    assert results(folder)["status"] == "completed"
    copies = [copy for event in ledger(folder, "exchange") for copy in event["copies"]]
    assert len(copies) == 3
    for copy in copies:
        [copied] = [e for e in events(trial(folder, copy["number"])) if e["event"] == "copied"]
        assert (copied["source"], copied["epoch"]) == (
            str(trial(folder, copy["parent"])),
            copy["epoch"],
        )
        # Up to the copy the two tell the same, and then another learning rate.
        rows, of_parent = told(trial(folder, copy["number"])), told(trial(folder, copy["parent"]))
        assert rows[: copy["epoch"]] == of_parent[: copy["epoch"]]
        assert float(rows[-1][-1]) == pytest.approx(copy["values"]["optimizer.lr"])
        first = events(trial(folder, copy["number"]))
        assert "attempt" in {event["event"] for event in first}
    assert sum(row["status"] == "completed" for row in leaderboard(folder)) == 4


def training(sweep: Command) -> list[psutil.Process]:
    """Return the processes of its trials that are training now."""
    found: list[psutil.Process] = []
    for each in family(sweep):
        with suppress(psutil.NoSuchProcess):
            name = " ".join(each.cmdline())
            if name.startswith("ray::") and ".train" in name:
                found.append(each)
    return found


def test_trials_of_several_workers_fail_with_their_reason_and_stop_the_sweep(
    tmp_path: Path,
) -> None:
    file = tmp_path / "sweep.yaml"
    plain = {
        "base": "article",
        "space": {"optimizer.lr": {"grid": [1e30, 1e31, 0.01]}},
        "search": "grid",
        "max_failures_alike": 2,
    }
    file.write_text(yaml.safe_dump(plain))
    folder = tmp_path / "sweep"
    more = ["workers.count=2", "workers.cpus=1", "training.epochs=1", "optimizer.name=sgd"]
    output = finish(tune_command(file, folder, *more), expected=1)
    assert "2 trials in a row failed alike" in output
    assert [event["status"] for event in ledger(folder, "ended")] == ["failed", "failed"]
    of_first = json.loads((trial(folder, 1) / "results.json").read_bytes())
    assert of_first["workers"]["count"] == 2
    assert "lower learning rate" in of_first["reason"]


def test_without_its_ledger_a_sweep_does_not_begin_again(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(undisturbed, folder)
    (folder / "results.json").unlink()
    for damage in (b"", None):
        if damage is None:
            (folder / "ledger.jsonl").unlink()
        else:
            (folder / "ledger.jsonl").write_bytes(damage)
        output = finish(distcnn("resume", folder), expected=1)
        assert "ledger.jsonl is lost or empty" in output
        assert f"distcnn tune {folder / 'sweep.yaml'}" in output
    assert "--restart applies to a run" in finish(distcnn("resume", folder, "--restart"), 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_four_trials_share_a_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    more = ["workers.gpus=0.25", "workers.cpus=0.25", "num_trials=4", "scheduler=none"]
    output = finish(tune_command("tune", folder, *more))
    assert "4 at a time" in output
    assert [row["status"] for row in leaderboard(folder)] == ["completed"] * 4


def test_what_can_never_run_is_refused_at_once(tmp_path: Path) -> None:
    output = finish(
        tune_command("tune", tmp_path / "sweep", "workers.cpus=1000", "num_trials=1"), expected=1
    )
    assert "the cluster can never run this" in output
    assert not (tmp_path / "sweep").exists()


def test_a_long_sweep_keeps_nothing_of_what_is_over() -> None:
    """But its ledger and its study: Ray Tune's controller kept 24 MiB of a thousand trials."""
    command = [sys.executable, "-m", "benchmarks.simulated_sweep", "--trials=1000"]
    # On a busy machine there are notes between.
    lines = [line for line in finish(command).splitlines() if line.startswith("{")]
    [first, last] = map(json.loads, lines)
    assert (first["trials"], last["trials"]) == (100, 1000)
    assert last["driver_mib"] - first["driver_mib"] < 12
