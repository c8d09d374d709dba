"""Keeps a launched run going: starts its workers, watches, and starts them again where it helps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.orchestration import session
from distcnn.orchestration.assignment import Assignment, Purpose
from distcnn.orchestration.elastic import Roster
from distcnn.orchestration.failures import Budget, Failure
from distcnn.orchestration.group import Group
from distcnn.orchestration.inspection import Inspection, Standard
from distcnn.orchestration.mailbox import Digest, Mailbox, opened, relay
from distcnn.orchestration.room import NoRoomError
from distcnn.progress import LaunchWatcher, WorkersReport
from distcnn.run_directory.lease import Lease
from distcnn.run_directory.run import RunDirectory, RunResult
from distcnn.training.control import Control, Decision
from distcnn.training.provenance import Ground
from distcnn.wording import counted

PREEMPTED = "preempted"
GROWN = "there is room for more workers"
_LOOK_EVERY_SECONDS = 0.2
# Ray's processes may share the cores with the workers: a question costs them time.
_ASK_RAY_EVERY_SECONDS = 1.0
# For workers to save and stop when they are asked to.
_STOPPING_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """What is supervised."""

    config: RunConfig
    """Resolved."""
    run: RunDirectory
    lease: Lease
    ground: Ground
    folder: Path
    """Private to the driver; for what Ray Train wants to keep."""
    control: Control
    """Collects the driver's own signals."""
    watcher: LaunchWatcher
    started: float
    """When the command began, in seconds since the epoch (Unix)."""
    purpose: Purpose = "run"
    nodes: frozenset[str] = frozenset()
    """Those that preflight has looked at from workers' places, by their id."""


class _StoppedEarlyError(Exception):
    """A signal came while no worker was there to be stopped."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def supervise(job: Job) -> RunResult:
    """Train to the end, through what fails on the way.

    Raises:
        UserError: no workers came up in time, or workers did not stop when they were asked to.
    """
    standard = Standard(job.config, job.ground, job.run.path.parent)
    on_unfit = partial(_record_unfit, job)
    with Inspection(standard, job.nodes, on_unfit) as nodes:
        return _supervise(job, Roster(job.config, nodes, job.watcher))


def _supervise(job: Job, roster: Roster) -> RunResult:
    budget = Budget(job.config.recovery)
    patience = job.config.recovery.wait_for_workers_seconds
    waiting_since = job.started
    fence = job.lease.fence
    count = 0
    while True:
        try:
            _leave_on_signal(job.control)
            leave = partial(_leave_on_signal, job.control)
            config = roster.wait_for_room(patience, leave)
            attempt = _Attempt(job, config, roster, budget.num_restarts, num_before=count)
            ended = attempt.run(waiting_since)
            asked = job.control.decide(0)
        except NoRoomError as error:
            job.run.append_event("no_room", attempt=fence.attempt, reason=str(error))
            raise
        except _StoppedEarlyError as stopped:
            return _give_up(job, "stopped", stopped.decision.reason, stopped.decision.signal_number)
        if isinstance(ended, Failure):
            results = job.run.read_results()
            if results and (results["status"], results["attempts"]) == ("completed", fence.attempt):
                return RunResult(job.run, results)  # It failed with nothing left to do.
            if asked.action == "stop":  # They were saving when one failed.
                _record_failure(job, "failure", ended.what)
                return _give_up(job, "stopped", asked.reason, asked.signal_number)
            if ended.kind == "unstarted" and time.time() < waiting_since + patience:
                job.watcher.note("Others took the room that was free for the workers: waiting")
                continue
            is_gone = ended.kind in ("lost", "hung", "peer")
            if is_gone and (attempt.is_preempted or roster.look_for_losses(attempt.nodes)):
                refusal, cause = budget.refuse_preemption(), "preemption"
            else:
                refusal, cause = budget.refuse(ended), "failure"
            why = ended.what
        elif (ended["status"], ended["reason"], asked.action) == ("stopped", PREEMPTED, "continue"):
            refusal, cause, why = budget.refuse_preemption(), "preemption", "a node is taken away"
        elif (ended["status"], ended["reason"], asked.action) == ("stopped", GROWN, "continue"):
            refusal, cause, why = None, "resize", GROWN
        else:
            stopped_by = asked.signal_number if ended["status"] == "stopped" else None
            return RunResult(job.run, ended, stopped_by)
        count = config.workers.count
        waiting_since = time.time()
        if cause != "resize":
            _record_failure(job, cause, why)
        if refusal is not None:
            return _give_up(job, "failed", refusal)
        # From here on, nothing that workers of the attempt before may still write is read.
        fence = job.lease.advance()
        headline = why.partition("\n")[0]
        job.run.append_event("restart", attempt=fence.attempt, cause=cause, reason=headline)
        counted = "" if cause == "resize" else f" (restart {budget.num_restarts})"
        job.watcher.note(
            f"{headline}: starting again from step {_committed_step(job.run)}{counted}"
        )
        job.watcher.workers(WorkersReport(0, count, budget.num_restarts))


def _leave_on_signal(control: Control) -> None:
    decision = control.decide(0)
    if decision.action == "stop":
        raise _StoppedEarlyError(decision)


class _Attempt:
    """One group of workers, watched from its start to its end."""

    def __init__(
        self, job: Job, config: RunConfig, roster: Roster, restarts: int, num_before: int
    ) -> None:
        self._job = job
        self._num_before = num_before
        self._config = config
        self._roster = roster
        self._restarts = restarts
        self._last = Digest()
        self._last_epoch = 0
        self._shown: WorkersReport | None = None
        self._is_preempted = False
        self._signalled_at: float | None = None
        self._is_growing = False
        self._looked_at = 0.0

    def run(self, waiting_since: float) -> dict[str, Any] | Failure:
        """Start, then watch until the group ends; the results, or what went wrong."""
        job, fence = self._job, self._job.lease.fence
        step = _committed_step(job.run)
        with opened(ray.util.get_node_ip_address(), step) as (mailbox, address):
            assignment = Assignment(
                config=self._config.to_plain(),
                run=job.run,
                fence=fence,
                data_sha256=job.ground.data_sha256,
                hardware=job.ground.hardware,
                waiting_since=waiting_since,
                purpose=job.purpose,
                mailbox=address,
            )
            # New for each attempt: Ray Train would go on with a name it knows.
            name = f"{job.config.name}-{fence.attempt:06d}-{time.time_ns()}"
            with Group(name, self._config.workers, job.folder, assignment) as group:
                while not group.wait(_LOOK_EVERY_SECONDS):
                    self._listen(mailbox)
                    self._pass_on_wishes(mailbox)
                    mailbox.settle(self._last_epoch)
            self._listen(mailbox)
            return group.end(self._last.step, self._name_of)

    @property
    def is_preempted(self) -> bool:
        """Whether the workers were asked to stop since one of their nodes goes away."""
        return self._is_preempted and self._signalled_at is None

    @property
    def nodes(self) -> set[str]:
        """On which the workers were, by their id; empty where not all had begun."""
        processes = self._last.processes
        is_known = len(processes) == self._config.workers.count
        return {process.node_id for process in processes} if is_known else set()

    def _name_of(self, rank: int) -> str:
        for process in self._last.processes:
            if process.rank == rank:
                return f"worker {rank} on {process.host} (process {process.pid})"
        return f"worker {rank}"

    def _listen(self, mailbox: Mailbox) -> None:
        """Take what the workers have posted, and show it."""
        self._last = digest = mailbox.collect()
        for message in digest.messages:
            if message.method == "epoch":
                self._last_epoch = message.arguments["epoch"]
        relay(digest.messages, self._job.watcher)
        if digest.alive:
            count = self._config.workers.count
            report = WorkersReport(digest.alive, count, self._restarts)
            if self._shown is None and self._num_before not in (0, count):
                _record_resize(self._job, self._num_before, count)
            if report != self._shown:
                self._shown = report
                self._job.watcher.workers(report)

    def _pass_on_wishes(self, mailbox: Mailbox) -> None:
        """Have the workers save and stop on a signal, or when one of their nodes goes away."""
        now = time.monotonic()
        decision = self._job.control.decide(0)
        if self._signalled_at is None:
            if decision.action == "stop":
                self._signalled_at = now
                self._job.watcher.note(f"{decision.reason}: saving, then stopping")
                mailbox.wish_to_stop(decision.reason)
            elif not self._is_preempted and self._loses_a_node(now):
                self._is_preempted = True
                mailbox.wish_to_stop(PREEMPTED)
            elif not self._is_preempted and self._can_grow():
                self._is_growing = True
                self._job.watcher.note(f"{GROWN}: saving, then going on with them".capitalize())
                mailbox.wish_to_stop(GROWN)
        elif now - self._signalled_at > _STOPPING_SECONDS:
            raise UserError(
                f"the workers did not save and stop within {_STOPPING_SECONDS:.0f} s; what was"
                f" committed is safe. Go on with: distcnn resume {self._job.run.path}"
            )

    def _can_grow(self) -> bool:
        is_training = self._last.alive and self._last_epoch < self._config.training.epochs
        if not is_training or self._is_growing:
            return False
        return self._roster.wants_more_than(self._config.workers.count)

    def _loses_a_node(self, now: float) -> bool:
        if now - self._looked_at < _ASK_RAY_EVERY_SECONDS:
            return False
        self._looked_at = now
        going = session.draining_nodes()
        hosts = {p.host for p in self._last.processes if p.node_id in going}
        if hosts:
            where = ", ".join(sorted(hosts))
            self._job.watcher.note(f"{where} will be taken away: saving, then going on elsewhere")
        return bool(hosts)


def _record_resize(job: Job, num_before: int, count: int) -> None:
    attempt = job.lease.fence.attempt
    job.run.append_event("resize", attempt=attempt, workers_before=num_before, workers=count)
    job.watcher.note(f"Going on with {counted(count, 'worker')} instead of {num_before}")


def _record_unfit(job: Job, host: str, reason: str) -> None:
    attempt = job.lease.fence.attempt
    job.run.append_event("node_left_out", attempt=attempt, host=host, reason=reason)
    job.watcher.note(f"{host} is left out: {reason}")


def _record_failure(job: Job, cause: str, why: str) -> None:
    attempt = job.lease.fence.attempt
    job.run.append_event("attempt_failed", attempt=attempt, cause=cause, reason=why)


def _committed_step(run: RunDirectory) -> int:
    records = run.read_checkpoints()
    return records[-1].step if records else 0


def _give_up(job: Job, status: Any, reason: str, signal_number: int | None = None) -> RunResult:
    """Record an end that no worker was there to record."""
    from distcnn.training.outcome import Outcome
    from distcnn.training.results import record_end
    from distcnn.training.snapshot import newest_counters

    fence = job.lease.fence
    job.run.append_event(status, attempt=fence.attempt, reason=reason)
    outcome = Outcome(status, newest_counters(job.run), reason)
    if job.purpose == "winner":  # Its results tell of its training, which has ended before.
        return RunResult(job.run, {"status": status, "reason": reason}, signal_number)
    results = record_end(job.config, job.run, outcome, fence, job.ground, (), job.watcher.note)
    return RunResult(job.run, results, signal_number)
