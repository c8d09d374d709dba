"""Ray Train's trainer, without the processes that a launch has no use for.

An idle actor of Ray's wakes a hundred times a second. Where workers fill every core, each one costs
them 1 to 2 % of their throughput, and a second or two while it starts. What is left here are the
workers. Measured by `make bench-ray`; the seams used are Ray 2.60's own, hence the narrow bounds on
its version.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import ray
import ray.train
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from distcnn.orchestration.patient_worker import PatientWorker

# Each starts a process with every group: one removes what a controller leaves behind that dies
# alone, which ours cannot; one feeds Ray Data sets.
_NOT_NEEDED = {"PlacementGroupCleanerCallback", "DatasetsCallback"}


class _FixedSize(FixedScalingPolicy):
    """Without the process in which Ray Train shares an autoscaler with Ray Data.

    An autoscaler has been asked before, by what was reserved.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing to ask for."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing to ask for."""


class _WorkerGroup(WorkerGroup):
    """Without the process at which workers wait for each other in `ray.train.report`.

    They have their own ways to do so; and a report without a checkpoint, which is all we could
    make, ends unread in Ray Train's controller.
    """

    _worker_cls = PatientWorker

    def _start(self) -> None:
        """Give the room back if a worker dies while its training is begun.

        Ray Train leaves that to the end of its controller's process, which here is the driver's.
        """
        try:
            super()._start()
        except Exception:
            if self.has_started():
                self.shutdown()
            raise

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        ray.kill(sync_actor)
        begun = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=None,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[index] for name, values in train_context_args.items()},
            )
            for index, worker in enumerate(workers)
        ]
        ray.get(begun)
        self._decorate_worker_log_file_paths(workers)


class _AbandonedError(Exception):
    """Nobody waits for the workers any more."""


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup

    def __init__(self, is_abandoned: threading.Event, **settings: Any) -> None:
        super().__init__(**settings)
        self._is_abandoned = is_abandoned

    async def _run_control_loop_iteration(self) -> None:
        if self._is_abandoned.is_set():
            raise _AbandonedError
        await super()._run_control_loop_iteration()


class LeanTrainer(DataParallelTrainer):
    """Runs Ray Train's controller in the calling thread, so it cannot outlive the driver."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Take what Ray Train's own takes."""
        super().__init__(*arguments, **settings)
        self._is_abandoned = threading.Event()

    def abandon(self) -> None:
        """Have `fit`, in another thread, raise soon; the workers are left to the end of Ray."""
        self._is_abandoned.set()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in _NOT_NEEDED]

    def _initialize_and_run_controller(self, **settings: Any) -> ray.train.Result:
        settings["scaling_policy"] = _FixedSize(self.scaling_config)
        controller = _Controller(self._is_abandoned, **settings)
        asyncio.run(controller.run())
        return controller.get_result()
