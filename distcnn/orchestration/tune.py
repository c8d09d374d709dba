"""`distcnn tune`: a sweep, driven by Ray Tune, on this machine or on the cluster it is given."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distcnn.cluster.request import Request, capacity
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.orchestration import session
from distcnn.orchestration.launch import Decided, on_cluster
from distcnn.progress import WorkersReport
from distcnn.report.write import write_report_of_ended
from distcnn.run_directory.lease import Lease, refuse_if_held_here
from distcnn.run_directory.run import RunDirectory, exit_code_of, leased
from distcnn.sweep.directory import SweepDirectory, new_sweep_directory
from distcnn.sweep.file import Sweep
from distcnn.sweep.ledger import Ledger, ledger_remedy, read_ledger
from distcnn.sweep.plan import Plan, plan, timed_configs
from distcnn.sweep.view import SweepView

if TYPE_CHECKING:
    from distcnn.orchestration.desk import Desk
    from distcnn.orchestration.trial import Shop
    from distcnn.sweep.study import Study

# For trials to save and stop when they are asked to.
_STOPPING_SECONDS = 60.0
# For trials that have no process yet: they may never get one.
_ROOM_SECONDS = 5.0
_PACE_SECONDS = 120.0


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended, for now or for good."""

    directory: SweepDirectory
    results: dict[str, Any]
    """What its `results.json` holds."""
    signal_number: int | None = None
    """The signal that stopped it, if one did."""

    @property
    def exit_code(self) -> int:
        """What a command that ends with it says."""
        return exit_code_of(self.results, self.signal_number)


def tune(
    sweep: Sweep, view: SweepView, sweep_dir: Location | None, address: str | None
) -> SweepResult:
    """Search a space, then finalize the winner.

    Args:
        sweep: as the user wrote it.
        view: shown how it goes.
        sweep_dir: the sweep's folder; a new one in the base's `storage.directory` by default.
        address: of the Ray cluster; None for a Ray of this sweep's own, on this machine.

    Raises:
        UserError: a trial can never run there, the folder holds something, ...
    """
    base = _with_a_trials_share(sweep.base)
    storage = sweep_dir.absolute().parent if sweep_dir else base.storage.directory.absolute()
    with on_cluster(base, _Notes(view), address, storage) as (connected, decided):
        directory = new_sweep_directory(sweep.config.name, base.storage.directory, sweep_dir)
        resolved = Sweep(sweep.config, sweep.space, _resolved_base(sweep.base, decided.config))
        folder = RunDirectory(directory.path)
        with leased(folder, view.note) as lease:
            from distcnn.training import provenance

            collected = provenance.collect(resolved.base, decided.ground, "sweep")
            folder.write_provenance({**collected, "sweep": sweep.config.identity})
            directory.write_sweep(resolved)
            return _search(resolved, decided, directory, connected, lease, view)


def resume(directory: SweepDirectory, view: SweepView, address: str | None) -> SweepResult:
    """Go on with a sweep from its ledger; a finished one is left as it is.

    Raises:
        UserError: another process drives it, its data are not to be had here, ...
    """
    refuse_if_held_here(directory.lease)
    results = directory.read_results()
    if results is not None and results["status"] == "completed":
        view.note("This sweep is finished: there is nothing left to do, and nothing was done")
        return SweepResult(directory, results)
    sweep = directory.read_sweep()
    _check_ledger(directory)
    with on_cluster(sweep.base, _Notes(view), address, directory.path.parent) as (
        connected,
        decided,
    ):
        resolved = Sweep(sweep.config, sweep.space, _resolved_base(sweep.base, decided.config))
        folder = RunDirectory(directory.path)
        with leased(folder, view.note) as lease:
            from distcnn.training import provenance

            provenance.check_same_ground(folder, resolved.base, decided.ground, view.note)
            _check_same_sweep(folder, sweep)
            return _search(resolved, decided, directory, connected, lease, view)


def _check_ledger(directory: SweepDirectory) -> None:
    """Make sure that trials do not train on with the values of others."""
    if any(read_ledger(directory.ledger_path)) or not any(directory.trials.glob("*")):
        return
    raise UserError(
        f"{directory.ledger_path} is lost or empty, and {directory.trials} holds trials."
        f" {ledger_remedy(directory.path)}"
    )


def _check_same_sweep(folder: RunDirectory, sweep: Sweep) -> None:
    before = (folder.read_provenance() or {}).get("sweep", sweep.config.identity)
    now = sweep.config.identity
    if now != before:
        changed = ", ".join(name for name in now if now[name] != before.get(name))
        raise UserError(
            f"the sweep in {folder.path} is not what it began with (changed: {changed}), and its"
            " ledger would be of neither. Start a new one with it:"
            f" distcnn tune {folder.path / 'sweep.yaml'}"
        )


def _with_a_trials_share(base: RunConfig) -> RunConfig:
    """Trials that each have a core train more images together than one that has them all."""
    return base.with_values(workers={"cpus": base.workers.cpus or 1.0})


def _resolved_base(base: RunConfig, decided: RunConfig) -> RunConfig:
    """The base with all that is decided but the shards, whose default goes by a trial's batch."""
    return decided.with_values(training={"num_shards": base.training.num_shards})


def _search(
    sweep: Sweep,
    decided: Decided,
    directory: SweepDirectory,
    connected: session.Session,
    lease: Lease,
    view: SweepView,
) -> SweepResult:
    from ray.exceptions import RayError

    from distcnn.orchestration.desk import Desk
    from distcnn.orchestration.trial import Shop
    from distcnn.sweep.study import Study

    at_a_time = places(sweep.base)
    past = list(read_ledger(directory.ledger_path))
    ledger = Ledger(directory.ledger_path, past, lease.fence)
    study = Study(sweep, at_a_time, ledger.append, past)
    view.note(f"Sweep directory: {directory.path}")
    if past:
        num_over = sum(trial.is_over for trial in study.trials.values())
        view.note(f"Resuming: {num_over} trials are over, {len(study.open_trials)} continue")
    else:
        view.note(f"Plan: {_plan(sweep, at_a_time, connected)}")
    desk = Desk(study, directory, view)
    shop = Shop(directory, decided.ground, sweep.config.claim)
    try:
        with connected.watching_head(view.note, directory.path):
            signal_number = drive(desk, at_a_time, sweep.base, shop, connected.folder)
    except Exception as error:
        # What is known is worth having; and what is wrong may be the storage itself.
        with suppress(OSError, UserError):
            lease.fence.check()
            directory.write_leaderboard(study)
        if not isinstance(error, RayError):
            raise
        raise UserError(
            f"the cluster is out of reach ({type(error).__name__}); what was recorded is safe."
            f" Once it is back, go on with: distcnn resume {directory.path}"
        ) from error
    finally:
        view.end()
        ledger.close()
    lease.fence.check()
    result = _conclude(study, desk, directory, lease.fence.attempt, signal_number)
    write_report_of_ended(directory.path, view.note)
    if result.results["status"] == "failed" and connected.is_embedded:
        connected.keep_logs(directory.ray_logs)
        view.note(f"The trials' logs are kept in {directory.ray_logs}")
    return result


def places(base: RunConfig) -> int:
    """How many trials the cluster has room for at a time; one where its autoscaler adds nodes."""
    room = capacity(Request.of(base.workers), session.alive_nodes())
    return max(1, room // base.workers.count)


def _plan(sweep: Sweep, at_a_time: int, connected: session.Session) -> Plan:
    from distcnn.training.pace import seconds_per_image

    timed, workers = timed_configs(sweep), sweep.base.workers
    if connected.is_embedded and not workers.gpus:
        return plan(sweep, at_a_time, seconds_per_image(timed))
    import ray
    from ray.exceptions import RayError

    request = Request.of(workers)
    # Its process does not live on: it would keep a GPU's memory.
    look = ray.remote(max_calls=1)(seconds_per_image).options(
        num_cpus=request.resources["CPU"],
        num_gpus=request.resources.get("GPU", 0),
        label_selector=dict(request.labels) or None,
        max_retries=0,
        runtime_env=session.runtime_env(),
    )
    answer = look.remote(timed)
    try:
        return plan(sweep, at_a_time, ray.get(answer, timeout=_PACE_SECONDS))
    except RayError:
        ray.cancel(answer, force=True)
        return plan(sweep, at_a_time, [])


def drive(
    desk: Desk,
    at_a_time: int,
    base: RunConfig,
    shop: Shop,
    folder: Path,
    trainable: type | None = None,
) -> int | None:
    """Have Ray Tune run tasks until none is left; the signal that ended it early, if one did.

    Args:
        desk: hands them out.
        at_a_time: how many of them run at a time.
        base: what a trial's workers are.
        shop: what tasks have in common.
        folder: for what Ray Tune writes.
        trainable: what runs tasks; `TrialProcess` by default.
    """
    import ray
    from ray import tune as ray_tune

    from distcnn.orchestration.line import served
    from distcnn.orchestration.trial import TrialProcess
    from distcnn.orchestration.tuner import resources_of, run_tasks
    from distcnn.training.control import Control, InterruptedNow
    from distcnn.workers import Workers

    control = Control(Workers())
    asked_at: float | None = None
    is_interrupted = False

    def go_on() -> bool:
        nonlocal asked_at, is_interrupted
        decision = control.decide(0)
        if decision.action == "stop" and not is_interrupted:
            is_interrupted = True
            desk.interrupt(decision.reason)
        desk.tick()
        if not desk.is_stopping():
            asked_at = None
            return True
        asked_at = asked_at or time.monotonic()
        waited = time.monotonic() - asked_at
        return waited < (_ROOM_SECONDS if desk.waits_for_processes() else _STOPPING_SECONDS)

    try:
        with (
            served(ray.util.get_node_ip_address(), desk.calls(), unanswered=("note",)) as address,
            control.listening(raises_anywhere=False),
        ):
            what = ray_tune.with_parameters(trainable or TrialProcess, shop=shop, desk=address)
            is_left = True
            while is_left:
                run_tasks(desk, at_a_time, what, resources_of(base), folder, go_on)
                is_left = desk.give_up_stopping()
    except InterruptedNow:
        raise KeyboardInterrupt from None
    if desk.error is not None:
        raise desk.error
    return control.decide(0).signal_number


def _conclude(
    study: Study, desk: Desk, directory: SweepDirectory, attempt: int, signal_number: int | None
) -> SweepResult:
    """Write what a sweep leaves behind."""
    directory.write_leaderboard(study)
    winner, closed = study.winner, study.closed
    status, reason = "stopped", desk.wish
    if closed is not None and study.is_over():
        status, reason = closed.status, closed.reason
        if status == "completed" and winner is None:
            status, reason = "failed", "no trial has succeeded; leaderboard.csv says why"
    results: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "name": study.sweep.config.name,
        "metric": study.sweep.config.metric,
        "attempts": attempt,
        "num_trials": len(study.trials),
        "statuses": dict(study.counts),
        "elapsed_seconds": round(study.elapsed_seconds, 3),
        "train_seconds": round(study.train_seconds, 3),
        "can_go_on": closed is None or not study.is_over() or closed.status == "failed",
        "best": None,
    }
    if winner is not None:
        run = directory.trial(winner.number)
        best = winner.best_report(study.sweep.config)
        assert best is not None, "a winner has a score"
        results["best"] = {
            "trial": winner.number,
            "run": str(run.path),
            "values": winner.values,
            "epoch": best.epoch,
            "val": {"accuracy": best.val_accuracy, "loss": best.val_loss},
        }
        of_run = run.read_results() or {}
        if study.winner_is_finalized:
            # Chosen within the trial by validation accuracy, whichever metric chose the trial.
            results["best"]["chosen"] = {**of_run["chosen"], "val": of_run["val"]["accuracy"]}
            measures = ("accuracy", "accuracy_interval_95")
            tested = of_run.get("test", {})
            results["best"]["test"] = {n: tested[n] for n in measures if n in tested}
        config = desk.config_of(winner)
        directory.write_best(config.model_copy(update={"name": f"{study.sweep.config.name}-best"}))
    directory.write_results(results)
    # A signal that came while the winner was finalized has stopped nothing.
    return SweepResult(directory, results, signal_number if status == "stopped" else None)


class _Notes:
    """A launch's watcher, of which deciding and preflight use the notes alone."""

    def __init__(self, view: SweepView) -> None:
        self._view = view

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None: ...
    def step(self, report: Any) -> None: ...
    def epoch(self, report: Any) -> None: ...
    def end(self) -> None: ...
    def workers(self, report: WorkersReport) -> None: ...

    def note(self, message: str) -> None:
        self._view.note(message)
