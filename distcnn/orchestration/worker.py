"""What runs in each worker process: its part in one attempt at a run."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.train
from torch import distributed

from distcnn.collectives import PeerError
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.orchestration.assignment import Assignment
from distcnn.orchestration.failures import WorkerError
from distcnn.orchestration.line import LineLostError
from distcnn.orchestration.mailbox import (
    BEAT_SECONDS,
    MailboxLine,
    PostingWatcher,
    WorkerProcess,
)
from distcnn.orchestration.meeting import find_store, join, open_store
from distcnn.progress import Watcher
from distcnn.run_directory.run import storage_errors_explained
from distcnn.training import provenance
from distcnn.training.control import Control
from distcnn.training.finalize import finalize
from distcnn.training.fit import OutOfMemoryError, fit
from distcnn.training.meter import REPORT_EVERY_STEPS
from distcnn.training.place import Place
from distcnn.training.provenance import Ground
from distcnn.training.resolve import load_data
from distcnn.training.results import record_end, recorded_outcome
from distcnn.user_code import UserCodeError
from distcnn.wording import duration
from distcnn.workers import Workers

# What torch's process groups say when another worker is gone.
_PEER_IS_GONE = ("gloo", "NCCL", "Connection closed by peer", "Connection reset", "Broken pipe")
# With the first worker goes the store in which all met.
_NO_STORE = (distributed.DistNetworkError, distributed.DistStoreError)
# In which Ray notices the death that this worker has noticed, and can tell whose it was.
_LET_RAY_NOTICE_SECONDS = 1.0
# For the slowest node to get its data.
_MEETING_SECONDS = 600.0
_MEETING_PAUSE_SECONDS = 0.02


def train_worker(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Train and finalize; the first worker returns what `results.json` holds.

    Raises:
        WorkerError: whatever goes wrong.
    """
    assignment: Assignment = settings["assignment"]
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    with _told_as_worker_error(workers.rank):
        try:
            line = MailboxLine(assignment.mailbox)
            with _warnings_posted(workers.rank, line):
                return _train(assignment, workers, line)
        except (RuntimeError, PeerError, UserCodeError) as error:
            # Somebody's own code may wait for the others as well.
            cause = error.__cause__ if isinstance(error, UserCodeError) else error
            if cause is None or not _is_about_a_peer(cause):
                raise
            time.sleep(_LET_RAY_NOTICE_SECONDS)
            raise WorkerError("peer", f"another worker is missing: {_first_line(cause)}") from error


def _is_about_a_peer(error: BaseException) -> bool:
    return isinstance(error, (PeerError, *_NO_STORE)) or any(
        words in str(error) for words in _PEER_IS_GONE
    )


def _train(assignment: Assignment, workers: Workers, line: MailboxLine) -> dict[str, Any] | None:
    config = RunConfig.from_plain(assignment.config)
    run = assignment.run
    control = Control(
        workers,
        config.training.checkpoint_every_steps,
        # Several GPUs agree when the losses are read: that waits for the device anyway.
        listen_every_steps=REPORT_EVERY_STEPS if config.workers.gpus and workers.count > 1 else 1,
    )
    trial = control if assignment.purpose == "trial" else None
    watcher = PostingWatcher(line, trial) if workers.is_first else _SilentWatcher()
    # Before the workers meet, who then wait for each other: it may have to be downloaded here.
    dataset = load_data(config, watcher.note)
    if dataset.sha256 != assignment.data_sha256:
        raise UserError(
            f"{socket.gethostname()} has other data ({dataset.sha256[:12]}...) than this run is"
            f" trained on ({assignment.data_sha256[:12]}...); make the nodes' data alike"
        )
    if config.training.is_same_on_any_workers:
        provenance.check_same_kind(assignment.hardware, provenance.hardware(config))
    processes = _meet(line, workers, config)
    hosts = tuple(process.host for process in processes)
    place = Place(
        run, assignment.fence, dataset, control, watcher, assignment.waiting_since, workers, hosts
    )

    def beat() -> str:
        wish = line.beat(workers.rank)
        return wish if workers.is_first else ""

    with storage_errors_explained(run), in_touch(beat, control):
        if workers.is_first:
            run.append_event(
                "attempt",
                attempt=place.fence.attempt,
                workers=[asdict(process) for process in processes],
                versions=provenance.versions(),
                hardware=provenance.hardware(config),
            )
        if assignment.purpose == "winner":
            outcome = recorded_outcome(run)
        else:
            outcome = fit(config, place)
            if workers.is_first:
                run.append_event(outcome.status, attempt=place.fence.attempt, reason=outcome.reason)
        results = None
        is_to_be_finalized = assignment.purpose == "run" and outcome.status == "completed"
        if is_to_be_finalized or assignment.purpose == "winner":
            results = finalize(config, place, outcome)
        elif workers.is_first:
            ground = Ground.here(config, dataset)
            results = record_end(config, run, outcome, place.fence, ground, hosts, watcher.note)
    workers.part()
    return results


def _meet(line: MailboxLine, workers: Workers, config: RunConfig) -> list[WorkerProcess]:
    """Have the workers joined; where each of them runs, by rank."""
    node_id = ray.get_runtime_context().get_node_id()
    process = WorkerProcess(workers.rank, socket.gethostname(), node_id, os.getpid())
    line.begin(process)
    store = None
    if workers.is_first and workers.count > 1:
        store, address = open_store(workers.count)
        line.offer_address(address)
    deadline = time.monotonic() + _MEETING_SECONDS
    while True:
        address, processes = line.meet()
        if len(processes) == workers.count and (address or workers.count == 1):
            break
        if time.monotonic() > deadline:
            raise WorkerError("lost", _missing(workers.count, processes))
        time.sleep(_MEETING_PAUSE_SECONDS)
    if workers.count > 1:
        workers.collectives = join(
            store or find_store(address, workers.count),
            workers.rank,
            [process.pid for process in processes],
            use_gpu=bool(config.workers.gpus),
            on_one_host=len({process.node_id for process in processes}) == 1,
            is_lightnings=config.workload is not None,
        )
    return processes


def _missing(count: int, processes: list[WorkerProcess]) -> str:
    missing = sorted({*range(count)} - {process.rank for process in processes})
    return (
        f"workers {', '.join(map(str, missing))} of {count} did not come up within"
        f" {duration(_MEETING_SECONDS)}; if their nodes are still downloading the data, lay it"
        " there beforehand (DISTCNN_DATA_DIR)"
    )


class _SilentWatcher(Watcher):
    """Of the other workers, which are where the first one is."""


@contextmanager
def in_touch(beat: Callable[[], str], control: Control) -> Generator[None]:
    """Give signs of life, and take the driver's wish to stop, in a thread.

    Args:
        beat: gives one; why to stop, if the driver wants it. Raises LineLostError when that is
            gone.
        control: has the run stop.
    """
    ended = threading.Event()

    def keep_in_touch() -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                wish = beat()
            except LineLostError:
                return  # The driver is gone; Ray ends this process.
            if wish:
                control.request_stop(wish)

    thread = threading.Thread(target=keep_in_touch, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _warnings_posted(rank: int, line: MailboxLine) -> Generator[None]:
    """Have the driver show what this process warns of, with its rank and node."""

    class Poster(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = f"[worker {rank} on {socket.gethostname()}] {record.getMessage().strip()}"
            line.post("note", {"message": text})

    handler = Poster(logging.WARNING)
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        logging.captureWarnings(capture=False)


@contextmanager
def _told_as_worker_error(rank: int) -> Generator[None]:
    where = f"worker {rank} on {socket.gethostname()}"
    try:
        yield
    except WorkerError:
        raise
    except OutOfMemoryError as error:
        raise WorkerError("out of memory", f"{where}: {error}", error.step) from error
    except UserError as error:
        raise WorkerError("user", str(error)) from error
    except Exception as error:
        what = f"{where}: {type(error).__name__}: {_first_line(error)}"
        raise WorkerError("error", f"{what}\n{traceback.format_exc()}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
