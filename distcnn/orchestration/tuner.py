"""Ray Tune's own loop, given thin adapters to the desk, which decides.

What runs is Ray Tune's controller: it finds the resources, starts the processes, uses them again
for the next task, and notices when one dies. `tune.run` would start it with handlers of signals,
tables on stdout and pickles of its state besides. The seams used are Ray 2.60's own, hence the
narrow bounds on its version.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher, SearchGenerator

from distcnn.cluster.request import Request
from distcnn.config import RunConfig
from distcnn.orchestration.session import TRAIN_SETTINGS, environment, runtime_env

if TYPE_CHECKING:
    from distcnn.orchestration.desk import Desk


def run_tasks(
    desk: Desk,
    at_a_time: int,
    trainable: Any,
    resources: PlacementGroupFactory,
    folder: Path,
    go_on: Callable[[], bool],
) -> None:
    """Run the desk's tasks until none is left.

    Args:
        desk: hands them out.
        at_a_time: how many of them run at a time.
        trainable: runs them, as one of Ray Tune's.
        resources: of each of its processes.
        folder: for what Ray Tune writes, which nobody needs.
        go_on: called about ten times a second; False kills what still runs. What it raises leaves
            that to the end of Ray.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    settings = {
        "TUNE_MAX_PENDING_TRIALS_PG": str(at_a_time),
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_WARN_THRESHOLD_S": "3600",
    }
    with environment(settings):
        experiment = Experiment(
            "tasks",
            trainable,
            num_samples=sys.maxsize,
            resources_per_trial=resources,
            storage_path=str(folder),
        )
        tasks = _Tasks(desk, at_a_time)
        search = SearchGenerator(tasks)
        controller = _Controller(
            tasks,
            search_alg=search,
            scheduler=_InOrder(),
            reuse_actors=True,
            storage=experiment.storage,
        )
        search.add_configurations([experiment])
        controller.update_max_pending_trials()
        while not controller.is_finished() and go_on():
            for number in desk.silent_tasks():
                controller.kill(number)
            controller.step()
        controller.cleanup()


class _ActorClasses:
    """Makes actors' classes, in the place of Ray Tune's own.

    That would put AWS credentials of the driver's environment where Ray writes them into its logs.
    """

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        """The class, as an actor's."""
        if trainable not in self._made:
            env_vars = {**runtime_env()["env_vars"], **TRAIN_SETTINGS}
            self._made[trainable] = ray.remote(runtime_env={"env_vars": env_vars})(trainable)
        return self._made[trainable]


class _ActorManager(RayActorManager):
    """To which a process that Ray has ended for its memory is one that has died."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)

    def remove_actor(self, tracked_actor: Any, *arguments: Any, **named: Any) -> bool:
        """Forget what was to be asked of a process that never came to be."""
        is_alive = super().remove_actor(tracked_actor, *arguments, **named)
        self._pending_actors_to_enqueued_actor_tasks.pop(tracked_actor, None)
        return is_alive


class _InOrder(FIFOScheduler):
    """Lets each task wait for the process that was asked for it.

    Ray Tune's own gives the oldest waiting task the first process that becomes free, and asks for
    another one for the next task: where tasks are shorter than the start of a process, no second
    process ever came.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None before others."""


class _Controller(TuneController):
    """Without snapshots: the ledger is kept, which is JSON."""

    def __init__(self, tasks: _Tasks, **settings: Any) -> None:
        super().__init__(**settings)
        self._tasks = tasks
        self._class_cache: Any = _ActorClasses()
        self._actor_manager = _ActorManager(resource_manager=PlacementGroupResourceManager())

    def kill(self, number: int) -> None:
        """End the process that has a task; it is then found dead."""
        for trial in self._trial_to_actor:
            if trial.config["task"] == number and trial.temporary_state.ray_actor is not None:
                ray.kill(trial.temporary_state.ray_actor)

    def _process_trial_failure(self, trial: Any, exception: Any) -> None:
        self._tasks.why[trial.trial_id] = _described(exception)
        super()._process_trial_failure(trial, exception)

    def step(self) -> None:
        super().step()
        # It walks through all that it has ever run, twice for each task: the study remembers them.
        self._trials = [each for each in self._trials if not each.is_finished()]
        self._stopped_trials.clear()
        self._failed_trials.clear()

    def checkpoint(self, *arguments: Any, **named: Any) -> None:
        """Nothing to keep."""

    def _mark_trial_to_checkpoint(self, trial: Any) -> None:
        """Nothing to keep."""


class _Tasks(Searcher):
    """Each of Ray Tune's trials is one task of the desk's."""

    def __init__(self, desk: Desk, at_a_time: int) -> None:
        super().__init__()
        self._desk, self._at_a_time = desk, at_a_time
        self._numbers: dict[str, int] = {}
        self.why: dict[str, str] = {}
        """Why a process has died, by the id of Ray Tune's trial."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next task; None to ask again later."""
        if len(self._numbers) >= self._at_a_time:
            return None
        task = self._desk.next_task()
        if task is None:
            return Searcher.FINISHED if self._desk.is_over() else None
        self._numbers[trial_id], trial = task
        return {"task": task[0], "trial": trial}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A process is done with its task, or has died over it."""
        reason = self.why.pop(trial_id, "its process ended")
        self._desk.process_ended(self._numbers.pop(trial_id), reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


def _described(exception: Exception) -> str:
    """Why a process has died, in a line."""
    text = str(exception)
    if "low on memory" in text:
        return "its process was ended because its node ran out of memory"
    if isinstance(exception, RayActorError) and not exception.actor_init_failed:
        return "its process died"
    return f"its process failed: {text.strip().rpartition(chr(10))[2]}"


def resources_of(base: RunConfig) -> PlacementGroupFactory:
    """What one trial's process asks for.

    A trial of several workers is supervised from its process, which needs next to nothing: its
    workers ask for themselves. With a share of a CPU it would take from them what they wait for.
    """
    request = Request.of(base.workers)
    if request.count > 1:
        return PlacementGroupFactory([{"memory": 1}])
    labels = [dict(request.labels)]
    return PlacementGroupFactory([dict(request.resources)], bundle_label_selector=labels)
