"""A sweep of very many trials whose training is a formula: what is left is the driver's own cost.

Prints a JSON line each thousand trials: seconds per trial since the last one, MiB of the driver.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from distcnn.orchestration import session
from distcnn.orchestration.tune import drive, places
from distcnn.run_directory.lease import Lease
from distcnn.sweep import file
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.ledger import Ledger
from distcnn.sweep.view import PlainView, Standing


class _Milestones(PlainView):
    """Tells of the first hundred trials, and then of each thousand."""

    def __init__(self) -> None:
        super().__init__()
        self._num_ended = 0
        self._since = time.perf_counter(), 0

    def ended(self, line: str) -> None:
        self._num_ended += 1
        if self._num_ended == 100 or self._num_ended % 1000 == 0:
            now, (then, before) = time.perf_counter(), self._since
            self._since = now, self._num_ended
            report = {
                "trials": self._num_ended,
                "seconds_per_trial": (now - then) / (self._num_ended - before),
                "driver_mib": psutil.Process().memory_info().rss / 2**20,
            }
            print(json.dumps(report), flush=True)

    def show(self, standing: Standing) -> None:
        """Nothing."""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    options = parser.parse_args()
    sweep = file.load("tune", ["workers.cpus=1", "workers.gpus=0"], options.trials)
    with tempfile.TemporaryDirectory() as folder, session.connected(None) as connected:
        from ray import tune

        from distcnn.orchestration.desk import Desk
        from distcnn.orchestration.line import Line, LineAddress
        from distcnn.orchestration.trial import Shop
        from distcnn.sweep.study import Study
        from distcnn.training.provenance import Ground

        class SimulatedTrial(tune.Trainable):
            """Tells of epochs by a formula."""

            def setup(self, config: dict[str, Any], shop: Shop, desk: LineAddress) -> None:
                self._task, self._line = config["task"], Line(desk)

            def reset_config(self, new_config: dict[str, Any]) -> bool:
                self._task = new_config["task"]
                return True

            def step(self) -> dict[str, Any]:
                task = self._line.ask("task", self._task)
                lr, reason = task["config"]["optimizer"]["lr"], ""
                epoch = 0
                while not reason and epoch < task["config"]["training"]["epochs"]:
                    epoch += 1
                    value = 1 - abs(math.log10(lr) + 2) / 3 - 0.3 / (epoch + 1)
                    report = {"epoch": epoch, "val_loss": 1 - value, "val_accuracy": value}
                    report = {**report, "train_seconds": float(epoch)}
                    reason = self._line.ask("report", self._task, report)
                status = "stopped" if reason else "completed"
                self._line.ask("left", self._task, status, reason, "")
                return {"done": True}

        directory = SweepDirectory(Path(folder))
        lease = Lease.acquire(directory.lease, print)
        ledger = Ledger(directory.ledger_path, [], lease.fence)
        at_a_time = places(sweep.base)
        study = Study(sweep, at_a_time, ledger.append)
        desk = Desk(study, directory, _Milestones())
        shop = Shop(directory, Ground("none", "", {}))
        drive(desk, at_a_time, sweep.base, shop, connected.folder, SimulatedTrial)
        lease.release()


if __name__ == "__main__":
    main()
