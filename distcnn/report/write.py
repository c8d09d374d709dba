"""`report.html`, written into the directory that it shows."""

from __future__ import annotations

from collections.abc import Callable

from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.report.run_page import render_run
from distcnn.run_directory.run import open_run
from distcnn.sweep.directory import SweepDirectory, is_sweep


def write_report(path: Location) -> Location:
    """Make the page of a run or of a sweep, from its directory alone; where it is then.

    Raises:
        UserError: there is neither at that path, or what is there cannot be read.
    """
    if is_sweep(path):
        # Optuna's part in it takes long to import.
        from distcnn.report.sweep_page import render_sweep

        sweep = SweepDirectory(path)
        page, target = render_sweep(sweep), sweep.report_path
    else:
        run = open_run(path)
        page, target = render_run(run), run.report_path
    write_atomically(target, page.encode(errors="backslashreplace"))
    return target


def write_report_of_ended(path: Location, notify: Callable[[str], None]) -> None:
    """The same at the end of a run or sweep, whose results stand whatever becomes of the page."""
    try:
        write_report(path)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is none the worse for it
        notify(
            f"report.html could not be made ({type(error).__name__}: {error}); all else is"
            f" complete. Try again with: distcnn report {path}"
        )
