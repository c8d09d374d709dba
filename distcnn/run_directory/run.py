"""The layout of a run directory, and its small documents."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from distcnn import config_file
from distcnn.config import RunConfig
from distcnn.errors import UsageError, UserError
from distcnn.files import (
    RESTORE,
    TEMPORARY_PREFIX,
    DamagedFileError,
    append_line,
    read_json,
    write_atomically,
)
from distcnn.location import Location
from distcnn.run_directory.checkpoint_index import CheckpointRecord, latest_attempt
from distcnn.run_directory.checkpoints import (
    CheckpointsLostError,
    check_resumable,
    discard_checkpoints,
    read_checkpoints,
)
from distcnn.run_directory.lease import Fence, Holder, Lease, current_holder
from distcnn.run_directory.predictions import Predictions
from distcnn.s3_client import ObjectStoreError

# What a run, or a sweep, that was killed while it was made may have left.
_BEFORE_CONFIG = {"lease", "provenance.json", "base.yaml"}
_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of one run is."""

    path: Location

    @property
    def config_path(self) -> Location:
        """The resolved config; it runs again as is."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Location:
        """Folder of checkpoints and their index."""
        return self.path / "checkpoints"

    @property
    def lease(self) -> Location:
        """Folder of the claims of all attempts."""
        return self.path / "lease"

    @property
    def ray_logs(self) -> Location:
        """Folder of the workers' logs, where a launch on this machine has failed."""
        return self.path / "ray-logs"

    @property
    def metrics_path(self) -> Location:
        """Learning curves."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Location:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def weights_path(self) -> Location:
        """Weights of the chosen checkpoint."""
        return self.path / "weights.safetensors"

    @property
    def predictions_path(self) -> Location:
        """What the chosen network says of the test images."""
        return self.path / "predictions.safetensors"

    @property
    def measures_path(self) -> Location:
        """What its network tells of a claim."""
        return self.path / "measures.json"

    @property
    def report_path(self) -> Location:
        """All of it as a page."""
        return self.path / "report.html"

    @property
    def results_path(self) -> Location:
        """How the run ended."""
        return self.path / "results.json"

    def read_config(self) -> RunConfig:
        """The resolved config.

        Raises:
            ConfigError: it cannot be read or is not valid.
        """
        return config_file.load(str(self.config_path))

    def write_config(self, config: RunConfig) -> None:
        """Record the resolved config."""
        write_atomically(self.config_path, config_file.to_yaml(config).encode())

    def read_results(self) -> dict[str, Any] | None:
        """How the run ended; None while it has not.

        Raises:
            DamagedFileError: the file does not say.
        """
        remedy = "Restore it from a backup, or delete it: the next `distcnn resume` writes it again"
        results = _read_json(self.results_path, remedy)
        if results is not None and "status" not in results:
            raise DamagedFileError(self.results_path, remedy)
        return results

    def read_last_results(self) -> dict[str, Any] | None:
        """How the run stands, if its last attempt has told: of an earlier one that is no end."""
        results, holder = self.read_results(), self.read_holder()
        if results is None or results["status"] == "completed" or holder is None:
            return results
        return results if results.get("attempts") == holder.attempt else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Record how the run ended."""
        write_atomically(self.results_path, _encode_json(results))

    def read_predictions(self) -> Predictions | None:
        """What the chosen network says of the test images; None of a run that has not read them."""
        path = self.predictions_path
        return Predictions.decode(path.read_bytes()) if path.exists() else None

    def read_measures(self) -> dict[str, Any]:
        """What its network tells of a claim; nothing of a run that puts none to the test."""
        return _read_json(self.measures_path) or {}

    def write_measures(self, measures: dict[str, Any]) -> None:
        """Record what its network tells of a claim."""
        write_atomically(self.measures_path, _encode_json(measures))

    def read_provenance(self) -> dict[str, Any] | None:
        """What ran, on what, when the run was started; None where the file is gone."""
        return _read_json(self.path / "provenance.json")

    def write_provenance(self, provenance: dict[str, Any]) -> None:
        """Record what runs, on what."""
        write_atomically(self.path / "provenance.json", _encode_json(provenance))

    def append_event(self, kind: str, **fields: Any) -> None:
        """Add one line to `events.jsonl`: what happened to the run, and when (UTC)."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"time": now, "event": kind, **fields}
        append_line(self.path / "events.jsonl", json.dumps(event).encode())

    def read_events(self) -> list[dict[str, Any]]:
        """What happened to the run, oldest first; a line that a kill has torn is left out."""
        path = self.path / "events.jsonl"
        events: list[dict[str, Any]] = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    events.append(event)
        return events

    def read_checkpoints(self) -> list[CheckpointRecord]:
        """Return the committed checkpoints, oldest first."""
        return read_checkpoints(self.checkpoints)

    @property
    def latest_attempt(self) -> int:
        """Return the highest attempt in checkpoints and events; 0 if there is none."""
        attempts = [_number(event, "attempt") for event in self.read_events()]
        return max([latest_attempt(self.checkpoints), *attempts])

    @property
    def last_committed_step(self) -> int:
        """Return the step of the last checkpoint in `events.jsonl`; 0 if there is none."""
        step = 0
        for event in self.read_events():
            if event["event"] == "checkpoint":
                step = _number(event, "step")
            elif event["event"] == "started_over":
                step = 0
        return step

    def check_resumable(self) -> None:
        """Check that the run would not start over although it has saved checkpoints.

        Raises:
            CheckpointsLostError: it has committed checkpoints, and none of them can be read.
            OldCheckpointsError: the checkpoints are in the format of an earlier version.
        """
        try:
            check_resumable(self.checkpoints, self.last_committed_step)
        except CheckpointsLostError as error:
            raise self.lost_error(error) from None

    def lost_error(self, error: CheckpointsLostError) -> CheckpointsLostError:
        """Return the error with what the user can do about it."""
        remedy = f"or train from the start: distcnn resume {self.path} --restart"
        if (sweep := self.path.absolute().parent.parent / "sweep.yaml").is_file():
            remedy = f"or start a new sweep: distcnn tune {sweep}"  # A trial is not restarted.
        return CheckpointsLostError(
            f"{self.path} cannot be resumed: {error}. Restore the checkpoints from a backup,"
            f" {remedy}"
        )

    def start_over(self, fence: Fence) -> None:
        """Discard the checkpoints, so that the run begins at step 0.

        Raises:
            UserError: the run has been completed.
            LeaseLostError: a later attempt holds the run.
        """
        results = self.read_results()  # Its last writer may have completed it meanwhile.
        if results is not None and results["status"] == "completed":
            raise completed_error(self)
        discard_checkpoints(self.checkpoints, fence)
        self.append_event("started_over", attempt=fence.attempt)

    def read_holder(self) -> Holder | None:
        """Who writes, or last wrote, this run."""
        return current_holder(self.lease)


@dataclass(frozen=True)
class RunResult:
    """A run that has ended, for now or for good."""

    run: RunDirectory
    results: dict[str, Any]
    """What `results.json` holds."""
    signal_number: int | None = None
    """The signal that stopped it, if one did."""

    @property
    def exit_code(self) -> int:
        """What a command that ends with it says."""
        return exit_code_of(self.results, self.signal_number)


def exit_code_of(results: dict[str, Any], signal_number: int | None) -> int:
    """Of a run or a sweep: 0 completed, 1 not, 128 + n stopped by signal n."""
    if signal_number is not None:
        return 128 + signal_number
    return 0 if results["status"] == "completed" else 1


def completed_error(run: RunDirectory) -> UserError:
    """Return the error for a request to discard the checkpoints of a completed run."""
    again = config_file.command(run.read_config(), run.config_path)
    return UserError(
        f"Run already completed: {run.path}. --restart would discard its checkpoints; to train the"
        f" same again, start a new run: {again}"
    )


class StorageError(UserError):
    """The place where a run is kept cannot be written any more."""

    def __init__(self, what: str, remedy: str) -> None:
        """Args: what has happened, and what to do about it."""
        super().__init__(f"{what}. {remedy}")
        self.what = what


@contextmanager
def storage_errors_explained(run: RunDirectory) -> Generator[None]:
    """Turn a failure of the run's storage into an error that says what to do.

    Raises:
        StorageError: the disk is full, or the place cannot be written any more.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        hint = "" if isinstance(error, ObjectStoreError) else " (free some space, say)"
        raise StorageError(
            f"cannot write to the run directory {run.path}: {error.strerror};"
            " what was committed is safe",
            f"Mend that{hint}, then: distcnn resume {run.path}",
        ) from error


@contextmanager
def leased(run: RunDirectory, notify: Callable[[str], None]) -> Generator[Lease]:
    """Hold the run's lease until the end of the block.

    Raises:
        UserError: another process holds it, or the run directory cannot be written.
    """
    with storage_errors_explained(run):
        lease = Lease.acquire(run.lease, notify, run.latest_attempt)
        try:
            yield lease
        finally:
            lease.release()


def new_run(name: str, storage: Location, run_dir: Location | None) -> RunDirectory:
    """Make the folder of a new run: `run_dir`, or else `<storage>/<name>-<time>`.

    Raises:
        UsageError: `run_dir` holds something already, or the folder cannot be made.
    """
    if run_dir is None:
        return RunDirectory(_make_unique(storage.absolute(), name))
    path = run_dir.absolute()
    if (path / "config.yaml").exists():
        raise UsageError(f"{run_dir} is a run already; go on with it: distcnn resume {run_dir}")
    if path.is_dir() and any(
        file.name not in _BEFORE_CONFIG and not file.name.startswith(TEMPORARY_PREFIX)
        for file in path.iterdir()
    ):
        raise UsageError(f"{run_dir} is not empty and not a run; name another folder")
    return RunDirectory(_make(path))


def open_run(path: Location) -> RunDirectory:
    """An existing run.

    Raises:
        UsageError: there is none at that path.
    """
    run = RunDirectory(path.absolute())
    if not run.config_path.is_file():
        what = "holds no config.yaml" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} is not a run directory: it {what}; `distcnn runs` lists runs")
    return run


def list_runs(storage: Location) -> list[RunDirectory]:
    """The runs in a folder, oldest first."""
    started: dict[Location, float] = {}
    for path in storage.absolute().iterdir():
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            started[path] = (path / "config.yaml").stat().st_mtime
    return [RunDirectory(path) for path in sorted(started, key=started.__getitem__)]


def _make_unique(storage: Location, name: str) -> Location:
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    _make(storage)
    for number in range(1, 1000):
        path = storage / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(path, error) from None
        return path
    raise UserError(f"{storage} holds a thousand runs named {stem}; give this one another name")


def _make(path: Location) -> Location:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def _unwritable(path: Location, error: OSError) -> UsageError:
    return UsageError(
        f"cannot make the run directory {path}: {error.strerror};"
        " name a folder you may write to with --run-dir or storage.directory"
    )


def _number(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) else 0


def _read_json(path: Location, remedy: str = RESTORE) -> dict[str, Any] | None:
    try:
        document = read_json(path, remedy)
    except FileNotFoundError:
        return None
    if not isinstance(document, dict):
        raise DamagedFileError(path, remedy)
    return document


def _encode_json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()
