"""What runs in the processes of a sweep: one trial after another, each a run of its own."""

from __future__ import annotations

import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.errors import UserError
from distcnn.files import DamagedFileError
from distcnn.orchestration.line import Line, LineAddress, LineLostError
from distcnn.orchestration.room import NoRoomError
from distcnn.orchestration.worker import in_touch
from distcnn.progress import EpochReport, StepReport, WorkersReport
from distcnn.run_directory.checkpoint_index import CheckpointDamagedError, OldCheckpointsError
from distcnn.run_directory.checkpoints import CheckpointsLostError, best, read_checkpoint
from distcnn.run_directory.lease import Lease, LeaseLostError, RunBusyError
from distcnn.run_directory.metrics_log import read_rows
from distcnn.run_directory.run import RunDirectory, StorageError, leased, storage_errors_explained
from distcnn.sweep.config import ClaimName
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.ledger import ledger_remedy
from distcnn.sweep.trial import Report
from distcnn.training import provenance
from distcnn.training.control import Control
from distcnn.training.examine import examine
from distcnn.training.finalize import finalize
from distcnn.training.local import fit_or_fail
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.provenance import Ground
from distcnn.training.resolve import load_data
from distcnn.training.results import record_end, recorded_outcome
from distcnn.training.snapshot import newest_counters
from distcnn.user_code import UserCodeError
from distcnn.workers import Workers

# For a process of an earlier driver to be ended by Ray.
_GOING_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 1.0


class OtherConfigError(UserError):
    """A trial's folder holds a run of another config."""


@dataclass(frozen=True)
class Shop:
    """What all trials of a sweep have in common."""

    directory: SweepDirectory
    ground: Ground
    claim: ClaimName | None = None
    """What trials are examined for at their end."""


class TrialProcess(tune.Trainable):
    """One of the processes in which trials run. Ray Tune has it take one step for each task."""

    def setup(self, config: dict[str, Any], shop: Shop, desk: LineAddress) -> None:
        """Begin; the first task follows."""
        self._task: int = config["task"]
        self._shop = shop
        self._line = Line(desk)
        self._dataset: Dataset | None = None
        self._is_sound = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next task."""
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        """Do the task; how it went is told to the driver's desk."""
        task = self._line.ask("task", self._task)
        if task is not None:
            status, reason, cause = _told(lambda: self._do(task))
            self._line.ask("left", self._task, status, reason, cause)
        if not self._is_sound:
            os._exit(1)
        return {"done": True}

    def _do(self, task: dict[str, Any]) -> tuple[str, str]:
        config = RunConfig.from_plain(task["config"])
        run = self._shop.directory.trial(task["trial"])
        with storage_errors_explained(run):
            run.path.mkdir(parents=True, exist_ok=True)
        with _leased_in_the_end(run, self._note) as lease:
            if task["purpose"] == "winner" and (damage := _damage(run, task["val_accuracy"])):
                return "damaged", damage
            train = self._train_with_workers if config.workers.count > 1 else self._train_here
            status, reason = train(config, run, lease, task)
            if self._shop.claim and status == "completed" and task["purpose"] == "trial":
                examine(self._shop.claim, config, run, self._dataset_of(config))
            return status, reason

    def _note(self, message: str) -> None:
        self._line.tell("note", self._task, message)

    def _train_here(
        self, config: RunConfig, run: RunDirectory, lease: Lease, task: dict[str, Any]
    ) -> tuple[str, str]:
        dataset = self._dataset_of(config)
        if config.training.is_same_on_any_workers:
            provenance.check_same_kind(self._shop.ground.hardware, provenance.hardware(config))
        control = Control(Workers(), config.training.checkpoint_every_steps)
        watcher = _TrialWatcher(self._line, self._task, control)
        place = Place(run, lease.fence, dataset, control, watcher, time.time())
        _begin(run, config, self._shop.ground)
        if task["purpose"] == "winner":
            finalize(config, place, recorded_outcome(run))
            return "completed", ""
        reason = watcher.tell_committed(run, task["epoch"]) or task["verdict"]
        if reason:
            outcome = Outcome("stopped", newest_counters(run), reason)
        else:
            with in_touch(lambda: self._line.ask("beat", self._task), control):
                outcome = self._fit(config, place)
        ground = Ground.here(config, dataset)
        record_end(config, run, outcome, lease.fence, ground, place.hosts, self._note)
        return outcome.status, outcome.reason

    def _fit(self, config: RunConfig, place: Place) -> Outcome:
        """Train; an error of the training is an outcome of this trial, and in its results.

        Raises:
            UserError, LineLostError: it is not the trial's own: its lease is lost, the disk is
                full, the driver is gone, ...
        """
        try:
            with storage_errors_explained(place.run):
                return fit_or_fail(config, place)
        except UserCodeError as error:
            return Outcome("failed", newest_counters(place.run), str(error))
        except (UserError, LineLostError):
            raise
        except Exception as error:  # noqa: BLE001 - a trial that raises is a result of the sweep
            # A GPU, say, may fail whatever comes next in this process.
            self._is_sound = False
            reason = _described(error)
            place.run.append_event("failed", attempt=place.fence.attempt, reason=reason)
            return Outcome("failed", newest_counters(place.run), reason)

    def _train_with_workers(
        self, config: RunConfig, run: RunDirectory, lease: Lease, task: dict[str, Any]
    ) -> tuple[str, str]:
        """Supervise the trial's workers from here, as a launch does from its driver."""
        from distcnn.orchestration.supervisor import Job, supervise

        ground, purpose = self._shop.ground, task["purpose"]
        control = Control(Workers())
        watcher = _TrialWatcher(self._line, self._task, control)
        _begin(run, config, ground)
        reason = watcher.tell_committed(run, task["epoch"]) or task["verdict"]
        if reason and purpose == "trial":
            outcome = Outcome("stopped", newest_counters(run), reason)
            record_end(config, run, outcome, lease.fence, ground, (), self._note)
            return "stopped", reason
        with tempfile.TemporaryDirectory(prefix="distcnn-trial-") as folder:
            started = time.time()
            job = Job(config, run, lease, ground, Path(folder), control, watcher, started, purpose)
            with in_touch(lambda: self._line.ask("beat", self._task), control):
                results = supervise(job).results
        if purpose == "winner":
            return ("completed", "") if "test" in results else ("failed", results["reason"])
        return results["status"], results["reason"]

    def _dataset_of(self, config: RunConfig) -> Dataset:
        """Loaded once by each process."""
        self._dataset = self._dataset or self._load(config)
        return self._dataset

    def _load(self, config: RunConfig) -> Dataset:
        dataset = load_data(config, self._note)
        if dataset.sha256 != self._shop.ground.data_sha256:
            raise UserError(
                f"this node has other data ({dataset.sha256[:12]}...) than the sweep began with"
                f" ({self._shop.ground.data_sha256[:12]}...); make the nodes' data alike"
            )
        return dataset


def _told(work: Callable[[], tuple[str, str]]) -> tuple[str, str, str]:
    """Do the work; its status, the reason, and what failures that are alike have in common."""
    try:
        status, reason = work()
    except (RunBusyError, LeaseLostError, NoRoomError, LineLostError) as error:
        return "lost", str(error), ""
    except StorageError as error:
        return "broken", error.what, ""
    except (CheckpointsLostError, OldCheckpointsError, OtherConfigError) as error:
        return "broken", str(error), ""
    except UserError as error:
        status, reason = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - a trial that raises is a result of the sweep
        status, reason = "failed", _described(error)
    # Trials differ in folders, steps and figures; what went wrong does not.
    headline = reason.partition("\n")[0]
    cause = re.sub(r"\S*[/\d]\S*", "#", headline) if status == "failed" else ""
    return status, reason, cause


def _described(error: Exception) -> str:
    """An error in a line, and below it where it came from."""
    what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"{what}\n{''.join(traceback.format_exception(error))}"


def _damage(run: RunDirectory, val_accuracy: float) -> str:
    """What is wrong with the checkpoint that is to be finalized; empty if nothing is.

    Args:
        run: of the winner.
        val_accuracy: the best that it has told of.
    """
    try:
        record = best(run.read_checkpoints())
        if record is None or (record.val_accuracy or 0.0) < val_accuracy:
            return f"{run.path} has no checkpoint any more of its best epoch"
        read_checkpoint(run.checkpoints, record)
    except (CheckpointDamagedError, DamagedFileError) as damage:
        return str(damage)
    return ""


@contextmanager
def _leased_in_the_end(run: RunDirectory, notify: Callable[[str], None]) -> Generator[Lease]:
    """Hold the run's lease; a process that Ray has not ended yet gets the time to go.

    Raises:
        RunBusyError: it does not go.
    """
    deadline = time.monotonic() + _GOING_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                lease = stack.enter_context(leased(run, notify))
                break
            except RunBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_EVERY_SECONDS)
        yield lease


def _begin(run: RunDirectory, config: RunConfig, ground: Ground) -> None:
    """Make it a run, if it is not one yet.

    Raises:
        OtherConfigError: it is one of another config.
        CheckpointsLostError: it has saved, and none of its checkpoints can be read.
    """
    if not run.config_path.exists():
        run.write_provenance(provenance.collect(config, ground, "sweep"))
        run.write_config(config)
    elif run.read_config().identity != config.identity:
        sweep = run.path.parent.parent
        raise OtherConfigError(
            f"{run.path} holds a trial with other values than the ledger has for it: the ledger is"
            f" not the last one of this sweep. {ledger_remedy(sweep)}"
        )
    run.check_resumable()


class _TrialWatcher:
    """Tells the driver's desk of each epoch, and has the trial stop if the desk says so."""

    def __init__(self, line: Line, task: int, control: Control) -> None:
        self._line, self._task, self._control = line, task, control

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """The desk knows."""

    def step(self, report: StepReport) -> None:
        """The desk counts epochs."""

    def epoch(self, report: EpochReport) -> None:
        """Tell it, and wait for the answer: a trial that is to stop trains no step more."""
        reason = self._tell(
            Report(report.epoch, report.val_loss, report.val_accuracy, report.train_seconds)
        )
        if reason:
            self._control.request_stop(reason)

    def note(self, message: str) -> None:
        """Something the user should know."""
        self._line.tell("note", self._task, message)

    def workers(self, report: WorkersReport) -> None:
        """The supervisor watches them."""

    def end(self) -> None:
        """The desk is told by the end of the task."""

    def tell_committed(self, run: RunDirectory, known_epoch: int) -> str:
        """Tell of what a kill kept from being told; why to stop, if one of them is a reason."""
        reason = ""
        for report in committed_reports(run):
            if report.epoch > known_epoch and not reason:
                reason = self._tell(report)
        return reason

    def _tell(self, report: Report) -> str:
        reason: str = self._line.ask("report", self._task, asdict(report))
        return reason


def committed_reports(run: RunDirectory) -> Iterator[Report]:
    """Each epoch of a run up to its newest checkpoint, as its rows tell."""
    records = run.read_checkpoints()
    last = records[-1].epoch if records else 0
    for row in read_rows(run.metrics_path):
        epoch, accuracy, loss = row["epoch"], row["val/accuracy"], row["val/loss"]
        if accuracy is not None and loss is not None and epoch is not None and epoch <= last:
            yield Report(int(epoch), loss, accuracy, row["train_seconds"] or 0.0)
