"""What runs on a cluster in a job's name: `python -m distcnn.orchestration.driver job.json`.

All that a user wrote is in the files of the job, and nothing of it on a command line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distcnn.cluster.ticket import CONFIG, SWEEP, Ticket, version_of
from distcnn.errors import UsageError, UserError

if TYPE_CHECKING:
    from distcnn.location import Location

# Whatever needs a library is imported once it is known that those are there.


def main() -> int:
    """Do what the ticket says; returns the exit code, as `distcnn launch` and `tune` have it."""
    signal.signal(signal.SIGTERM, _end)
    path = Path(sys.argv[1])
    ticket = Ticket.from_json(path.read_text(encoding="utf-8"))
    time = _Time(ticket.max_seconds - ticket.grace_seconds)
    is_final = False
    try:
        _check_versions(ticket)
        before = _ended_before(ticket)
        if before is not None:
            print(f"distcnn: {_say_again(before)}", file=sys.stderr)
            return before
        exit_code = _drive(ticket, path.parent)
        is_final = exit_code == 1
    except UserError as error:
        print(f"distcnn: {error}", file=sys.stderr)
        exit_code, is_final = error.exit_code, isinstance(error, UsageError)
    except SystemExit as end:
        assert isinstance(end.code, int)
        exit_code = end.code
    if is_final or time.is_over:
        _mark_ended(ticket, exit_code)
    return exit_code


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


class OtherVersionsError(UsageError):
    """What is installed here is not what the job was made with."""

    exit_code = 1


def _check_versions(ticket: Ticket) -> None:
    here = {name: version_of(name) for name in ticket.versions}
    others = [
        f"{name} {wanted} where the job was made, {here[name]} here"
        for name, wanted in ticket.versions.items()
        if _minor(name, here[name]) != _minor(name, wanted)
    ]
    if others:
        raise OtherVersionsError(
            f"{sys.executable} has other versions than the job was made with: {'; '.join(others)}."
            " Install the same (the job's requirements.txt has them) for the Python that is found"
            " here, or build the image again"
        )


def _minor(name: str, version: str) -> str:
    # Of Python the last number is for mended bugs alone.
    return version.rpartition(".")[0] if name == "Python" else version


def _drive(ticket: Ticket, folder: Path) -> int:
    from distcnn.location import location

    run_dir, address = location(ticket.run_dir), _address(ticket)
    if ticket.only_preflight:
        return _preflight(folder, run_dir, address)
    return (_run if ticket.kind == "run" else _sweep)(folder, run_dir, address)


def _mark(ticket: Ticket) -> Location:
    """Beside the run's folder, which may be somebody else's."""
    from distcnn.location import location

    run_dir = location(ticket.run_dir)
    return run_dir.parent / f".{run_dir.name}-ended.json"


def _ended_before(ticket: Ticket) -> int | None:
    """The exit code with which this submission has ended, and would end again.

    A target that takes up jobs cannot tell such an end from the loss of a machine.
    """
    from distcnn.files import read_json

    mark = _mark(ticket)
    before = read_json(mark, "Delete it") if mark.is_file() else {}
    return before["exit_code"] if before.get("submission") == ticket.submission else None


def _mark_ended(ticket: Ticket, exit_code: int) -> None:
    try:
        from distcnn.files import write_atomically

        mark = _mark(ticket)
        mark.parent.mkdir(parents=True, exist_ok=True)
        ended = {"submission": ticket.submission, "exit_code": exit_code}
        write_atomically(mark, json.dumps(ended).encode())
    except (ImportError, OSError, UserError) as error:
        print(f"distcnn: it could not be noted that this is final: {error}", file=sys.stderr)


def _say_again(exit_code: int) -> str:
    is_over = exit_code > 128
    why = "its time was over" if is_over else "it failed in a way that would come again"
    return f"this submission has ended before: {why}. Mend that, and submit it again"


def _address(ticket: Ticket) -> str | None:
    if ticket.is_embedded:
        return None
    from distcnn.orchestration.session import given_address

    return given_address(None) or "auto"


class _Time:
    """A job's time; when it is over, this process saves and ends."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self.is_over = True
        print("The job's time (cluster.max_seconds) is over", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _preflight(folder: Path, run_dir: Location, address: str | None) -> int:
    from distcnn import config_file
    from distcnn.findings import any_failed, print_findings
    from distcnn.orchestration import launch
    from distcnn.progress import watcher
    from distcnn.sweep import file

    is_sweep = (folder / SWEEP).is_file()
    config = (
        file.load(str(folder / SWEEP)).base if is_sweep else config_file.load(str(folder / CONFIG))
    )
    findings = launch.preflight(config, watcher(), run_dir, address)
    print_findings(findings)
    return int(any_failed(findings))


def _run(folder: Path, run_dir: Location, address: str | None) -> int:
    from distcnn import config_file
    from distcnn.orchestration import launch
    from distcnn.progress import watcher
    from distcnn.summary import print_summary

    config = config_file.load(str(folder / CONFIG))
    result = launch.launch(config, watcher(), run_dir, address)
    print_summary(result.run.path, result.results)
    return result.exit_code


def _sweep(folder: Path, run_dir: Location, address: str | None) -> int:
    from distcnn.orchestration import tune
    from distcnn.sweep import file
    from distcnn.sweep.directory import SweepDirectory, is_sweep
    from distcnn.sweep.summary import print_sweep
    from distcnn.sweep.view import sweep_view

    if is_sweep(run_dir):
        result = tune.resume(SweepDirectory(run_dir.absolute()), sweep_view(), address)
    else:
        sweep = file.load(str(folder / SWEEP))
        result = tune.tune(sweep, sweep_view(), run_dir, address)
    print_sweep(result.directory, result.results)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
