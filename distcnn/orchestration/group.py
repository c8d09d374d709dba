"""One attempt: a group of workers under Ray Train, from its start to whatever ends it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
from ray.exceptions import RayError, RayTaskError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2.api.exceptions import WorkerGroupError

from distcnn.cluster.request import Request
from distcnn.config import WorkersConfig
from distcnn.orchestration.assignment import Assignment
from distcnn.orchestration.failures import Failure, WorkerError, diagnose
from distcnn.orchestration.lean_trainer import LeanTrainer
from distcnn.orchestration.session import runtime_env

# A look at the workers takes half a second at most.
_LEAVING_SECONDS = 5.0


class Group:
    """Workers that train together; they start at once, and end together."""

    def __init__(
        self, name: str, workers: WorkersConfig, folder: Path, assignment: Assignment
    ) -> None:
        """Start.

        Args:
            name: new for each attempt: Ray Train would go on with one it knows.
            workers: how many, of what.
            folder: where Ray Train may keep what it wants to.
            assignment: what to do.
        """
        self._trainer = LeanTrainer(
            _run_worker,
            train_loop_config={"assignment": assignment},
            scaling_config=scaling(workers),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=str(folder),
                # Whether to try again is the supervisor's to decide, with what it knows.
                failure_config=ray.train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                worker_runtime_env=runtime_env(),
                # Its controller runs in the driver, who tells how it goes; its log files hold all.
                logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        self._results: dict[str, Any] | None = None
        self._error: Exception | None = None
        # Not on the main thread, where Ray Train would take Ctrl-C for itself.
        self._thread = threading.Thread(target=self._run, name="Ray Train", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results = self._trainer.fit().return_value
        except Exception as error:  # noqa: BLE001 - told by `end`
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave nobody who would ask a Ray that has been shut down, which ends the process."""
        self._trainer.abandon()
        self._thread.join(_LEAVING_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; whether the group has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self, step: int, name_of: Callable[[int], str]) -> dict[str, Any] | Failure:
        """How the group ended: the first worker's results, or what went wrong.

        Args:
            step: the last one known to be done.
            name_of: what to call a worker of some rank.
        """
        if self._results is not None:
            return self._results
        if isinstance(self._error, WorkerGroupError):
            errors = self._error.worker_failures.items()
            return diagnose({rank: _as_worker_error(e, name_of(rank)) for rank, e in errors}, step)
        cause = getattr(self._error, "controller_failure", self._error)
        if isinstance(cause, WorkerGroupStartupTimeoutError):
            return Failure("unstarted", "the workers found no room", step)
        if isinstance(cause, (WorkerGroupStartupFailedError, RayError)) and not isinstance(
            cause, RayTaskError
        ):
            return Failure("lost", "a worker died while it started", step)
        trace = "".join(traceback.format_exception(cause))
        return Failure("error", f"Ray Train: {type(cause).__name__}: {cause}\n{trace}", step)


def _run_worker(settings: dict[str, Any]) -> dict[str, Any] | None:
    # Imported there: the driver needs neither torch's network nor Lightning.
    from distcnn.orchestration.worker import train_worker

    return train_worker(settings)


def scaling(workers: WorkersConfig) -> ray.train.ScalingConfig:
    """What is asked of Ray for the workers of a resolved config."""
    request = Request.of(workers)
    return ray.train.ScalingConfig(
        num_workers=request.count,
        use_gpu=bool(workers.gpus),
        resources_per_worker={
            name: amount for name, amount in request.resources.items() if ":" not in name
        },
        accelerator_type=workers.accelerator_type,
        placement_strategy=request.strategy,
        label_selector=dict(request.labels) or None,
    )


def _as_worker_error(error: Exception, name: str) -> WorkerError:
    if isinstance(error, WorkerError):
        return error
    text = str(error)
    if type(error).__name__ == "WorkerHealthCheckTimeoutError":
        return WorkerError("hung", f"{name} hung")
    if "low on memory" in text or "OutOfMemory" in text:
        # Not as if its own step had failed: whose memory it was, and at which step, is not known.
        return WorkerError("lost", f"{name} was ended because its node ran out of memory")
    return WorkerError("lost", f"{name} died")
