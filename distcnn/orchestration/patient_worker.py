"""Ray Train's worker, with a main thread that sleeps while the training thread works."""

from __future__ import annotations

from threading import Thread

from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.worker_group import RayTrainWorker, WorkerStatus

# When its group is given up, a worker whose training goes on is waited for no longer than this.
_ANSWER_AFTER_SECONDS = 2.0


class PatientWorker(RayTrainWorker):
    """Asked how the training is, it answers when that has ended, or after two seconds.

    Ray has an idle main thread wake a hundred times a second to look for signals, and take Python's
    lock from the training for that: half a percent of two cores.
    """

    def poll_status(self) -> WorkerStatus:
        """See `RayTrainWorker`."""
        runner = get_train_context().execution_context.training_thread_runner
        thread: Thread | None = runner._thread  # pyright: ignore[reportPrivateUsage]
        if thread is not None:
            thread.join(_ANSWER_AFTER_SECONDS)
        return super().poll_status()
