"""Commands in processes forked from one that has imported torch and Lightning.

Each is a real process with its own pid, exit code and open files: it can be stopped and killed like
any other. Forking saves the import, which is three of the four seconds that a short `train` takes.
Ray is not among what is imported: that is when it reads its settings. Smoke tests start the
commands they test as a user does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_PRELOADED = [
    "distcnn.training.local",
    "distcnn.training.evaluation",
    "distcnn.training.tensorboard_log",
    "distcnn.training.workload_fit",
    "distcnn.training.workload_evaluation",
    "distcnn.report.run_page",
]
# Forking saves nothing here: these import no torch. Some tests read their stdout without stderr.
LIGHT = {"cluster"}
# What `python -m distcnn.cli` runs.
DISTCNN = "import sys; from distcnn.cli import main; sys.exit(main(sys.argv[1:]))"

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(_PRELOADED)


class ForkedCommand:
    """A running command, with the part of the interface of `subprocess.Popen` that tests use."""

    def __init__(self, program: str, arguments: list[str]) -> None:
        """Run a Python program's text, as `python -c` does."""
        descriptor, name = tempfile.mkstemp(prefix="distcnn-output-")
        os.close(descriptor)
        self._output = Path(name)
        self._process = context.Process(
            target=_run, args=(program, arguments, dict(os.environ), str(Path.cwd()), name)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end and return the output, stderr included."""
        self._process.join(timeout)
        output = self._output.read_text(encoding="utf-8", errors="replace")
        if self.poll() is None:
            raise subprocess.TimeoutExpired("distcnn", timeout or 0, output)
        self._output.unlink()
        return output, None


def _run(
    program: str, arguments: list[str], environment: dict[str, str], folder: str, output: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    sys.stderr.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv = ["distcnn", *arguments]
    exec(compile(program, "<forked>", "exec"), {"__name__": "__main__"})
