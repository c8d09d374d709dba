"""MLflow: a run of ours is a run there, on the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from distcnn.config import RunConfig
from distcnn.run_directory.metrics_log import Row
from distcnn.run_directory.run import RunDirectory
from distcnn.training.trackers import flat, measures_of, own_mark

# Ours are sent in the background, and a server that is away is not waited for at the end: by
# default it would be tried for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

_MARK = "distcnn.run"
# In names.
_UNKNOWN_CHARACTERS = re.compile(r"[^\w./ :-]", re.ASCII)
_STATUSES = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """One run, which bears a mark of ours there, and is gone on with."""

    def __init__(self, run: RunDirectory, config: RunConfig) -> None:
        self._client = MlflowClient()
        experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "distcnn"))
        mark = own_mark(run.path / "mlflow.json")
        known = self._client.search_runs([experiment], f"tags.`{_MARK}` = '{mark}'")
        # After a kill, what followed the checkpoint is trained and told again: it is there already.
        self._told_to = 0
        if known:
            self._id: str = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            rows = self._client.get_metric_history(self._id, "train/loss")
            self._told_to = max((metric.step for metric in rows), default=0)
        else:
            tags = {_MARK: mark, "directory": str(run.path)}
            began = self._client.create_run(experiment, tags=tags, run_name=run.path.name)
            self._id = began.info.run_id
        if not known or not known[0].data.params:
            params = [
                Param(_UNKNOWN_CHARACTERS.sub("_", name), str(value))
                for name, value in flat(config.to_plain()).items()
            ]
            self._client.log_batch(self._id, params=params)

    def row(self, row: Row) -> None:
        """As metrics of that step."""
        step = int(row["step"] or 0)
        if step <= self._told_to:
            return
        self._log({n: float(v) for n, v in row.items() if n != "step" and v is not None}, step)

    def end(self, results: dict[str, Any]) -> None:
        """As metrics, and the run's status; what was chosen, beside the curves of that name."""
        measures = measures_of(results).items()
        self._log({n.replace("val/", "chosen/val/"): value for n, value in measures}, step=0)
        self._client.set_terminated(self._id, _STATUSES[results["status"]])

    def close(self) -> None:
        """All has been sent."""

    def _log(self, measures: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in measures.items()]
        self._client.log_batch(self._id, metrics=metrics)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # Another trial may be about to make it, too.
        with suppress(MlflowException):
            return client.create_experiment(name)
        found = client.get_experiment_by_name(name)
        assert found is not None, "whoever else has made it"
    return found.experiment_id


TRACKER = MlflowTracker
