"""`distcnn launch`: a run on many workers, on this machine or on the Ray cluster it is given."""

from __future__ import annotations

# First imported while another thread forks, it has that thread release a lock it never took.
import concurrent.futures.thread  # noqa: F401 # pyright: ignore[reportUnusedImport]
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import psutil

from distcnn.cluster.request import Node, Request, shortfall, with_workers_decided
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.findings import Finding, any_failed, print_findings
from distcnn.location import Location
from distcnn.orchestration import session
from distcnn.progress import LaunchWatcher, Watcher
from distcnn.run_directory.lease import Lease, refuse_if_held_here
from distcnn.run_directory.run import (
    RunDirectory,
    RunResult,
    completed_error,
    leased,
    new_run,
)

if TYPE_CHECKING:
    from distcnn.training.provenance import Ground

# What needs torch is imported where it is used: by then Ray is being started.


@dataclass(frozen=True)
class Decided:
    """A config with nothing left open, and what its run will stand on."""

    config: RunConfig
    ground: Ground
    nodes: frozenset[str] = frozenset()
    """Those that were looked at from workers' places, by their id."""


def launch(
    config: RunConfig, watcher: LaunchWatcher, run_dir: Location | None, address: str | None
) -> RunResult:
    """Train on the workers that the config asks for, and finalize; a run that exists goes on.

    Args:
        config: as the user wrote it.
        watcher: told how it goes.
        run_dir: the run's folder; a new one in `storage.directory` by default.
        address: of the Ray cluster; None for a Ray of this launch's own, on this machine.

    Raises:
        UserError: the cluster can never run this, preflight failed, the folder holds another run,
            another process writes it, ...
    """
    if run_dir is not None and (run_dir / "config.yaml").exists():
        return _go_on(RunDirectory(run_dir.absolute()), watcher, address, config)
    storage = run_dir.absolute().parent if run_dir else config.storage.directory.absolute()
    with on_cluster(config, watcher, address, storage) as (connected, decided):
        run = new_run(config.name, config.storage.directory, run_dir)
        with leased(run, watcher.note) as lease:
            from distcnn.training import provenance

            run.write_provenance(provenance.collect(decided.config, decided.ground, "ray"))
            # Last: a folder with a config in it is a run, which can be resumed.
            run.write_config(decided.config)
            return _supervise(run, decided, lease, connected, watcher)


def resume(
    run: RunDirectory, watcher: LaunchWatcher, address: str | None, *, restart: bool = False
) -> RunResult:
    """Resume a launched run from its newest checkpoint; a completed one is left as it is.

    Args:
        run: an interrupted run.
        watcher: receives progress and notes.
        address: see `launch`.
        restart: discard its checkpoints and train from step 0.

    Raises:
        UserError: see `launch`; or its config or its data are not those it began with.
    """
    return _go_on(run, watcher, address, run.read_config(), restart=restart)


def _go_on(
    run: RunDirectory,
    watcher: LaunchWatcher,
    address: str | None,
    config: RunConfig,
    *,
    restart: bool = False,
) -> RunResult:
    refuse_if_held_here(run.lease)
    recorded = run.read_config()
    config = _with_what_was_decided(config, recorded)
    if config.identity != recorded.identity:
        differing = ", ".join(_differences(recorded.identity, config.identity))
        raise UserError(
            f"{run.path} holds a run of another config (other: {differing}); resume that run"
            f" (distcnn resume {run.path}), or give another --run-dir"
        )
    results = run.read_results()
    if results is not None and results["status"] == "completed":
        if restart:
            raise completed_error(run)
        watcher.note("This run is finished: there is nothing left to do, and nothing was done")
        return RunResult(run, results)
    with (
        on_cluster(config, watcher, address, run.path.parent) as (connected, decided),
        leased(run, watcher.note) as lease,
    ):
        from distcnn.training import provenance

        provenance.check_same_ground(run, recorded, decided.ground, watcher.note)
        if decided.config != recorded:  # In what has no part in the result.
            run.write_config(decided.config)
        if restart:
            run.start_over(lease.fence)
        run.check_resumable()
        return _supervise(run, decided, lease, connected, watcher)


def _with_what_was_decided(config: RunConfig, recorded: RunConfig) -> RunConfig:
    """What the user left open, as it was decided when the run began; and where the run is kept."""
    source, precision = config.data.source, config.training.precision
    directory = config.data.directory
    workers = config.workers
    return config.with_values(
        data={
            "source": recorded.data.source if source == "auto" else source,
            "directory": directory and str(directory.expanduser().absolute()),
        },
        training={
            "precision": recorded.training.precision if precision == "auto" else precision,
            "num_shards": config.training.shards,
        },
        workers={
            "cpus": recorded.workers.cpus if workers.cpus is None else workers.cpus,
            "gpus": recorded.workers.gpus if workers.gpus is None else workers.gpus,
        },
        storage=recorded.storage.model_dump(mode="json"),
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """The dotted fields in which what decides two results differs."""
    for name in one:
        if isinstance(one[name], dict):
            fields = dict.fromkeys([*one[name], *other[name]])
            yield from (
                f"{name}.{key}" for key in fields if one[name].get(key) != other[name].get(key)
            )
        elif one[name] != other[name]:
            yield name


def preflight(
    config: RunConfig, watcher: Watcher, run_dir: Location | None, address: str | None
) -> list[Finding]:
    """Check everything that can be checked without starting the run."""
    storage = run_dir.absolute().parent if run_dir else config.storage.directory.absolute()
    with session.connected(address) as connected:
        if connected.is_embedded:
            decided = _decide_here(config, watcher).config
        else:
            decided = _workers_decided(config, session.alive_nodes())
        _refuse_what_can_never_run(decided, is_embedded=connected.is_embedded)
        from distcnn.orchestration.preflight import examine

        return examine(decided, session.alive_nodes(), storage, watcher).findings


@contextmanager
def on_cluster(
    config: RunConfig, watcher: Watcher, address: str | None, storage: Location
) -> Generator[tuple[session.Session, Decided]]:
    """Connect, and decide by the cluster what the config leaves open."""
    if address is None:
        # Ray's start is mostly waiting for its processes.
        here = _Meanwhile(config, watcher)
        with session.connected(None) as connected:
            decided = here.result()
            _refuse_what_can_never_run(decided.config, is_embedded=True)
            yield connected, decided
        return
    with session.connected(address) as connected:
        decided = _decide_by_preflight(config, watcher, storage)
        yield connected, decided


class _Meanwhile:
    """Decides by this machine, in a thread."""

    def __init__(self, config: RunConfig, watcher: Watcher) -> None:
        self._decided: Decided | None = None
        self._error: Exception | None = None

        def decide() -> None:
            try:
                self._decided = _decide_here(config, watcher)
                import_module("distcnn.orchestration.supervisor")  # Ready when Ray is.
            except Exception as error:  # noqa: BLE001 - raised by `result`
                self._error = error

        self._thread = threading.Thread(target=decide, name="resolving the config", daemon=True)
        self._thread.start()

    def result(self) -> Decided:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._decided is not None
        return self._decided


def _decide_here(config: RunConfig, watcher: Watcher) -> Decided:
    from distcnn.training.provenance import Ground
    from distcnn.training.resolve import resolve

    resolved, dataset = resolve(config, watcher)
    return Decided(resolved, Ground.here(resolved, dataset))


def _refuse_what_can_never_run(config: RunConfig, *, is_embedded: bool) -> None:
    from distcnn.orchestration.autoscaler import may_add_nodes

    lacking = shortfall(Request.of(config.workers), session.alive_nodes())
    # Where there is an autoscaler, it has the word, once the workers wait for their places.
    if lacking is not None and (is_embedded or not may_add_nodes()):
        raise UserError(lacking)


def _decide_by_preflight(config: RunConfig, watcher: Watcher, storage: Location) -> Decided:
    from distcnn.orchestration.preflight import examine
    from distcnn.training.provenance import Ground
    from distcnn.training.resolve import with_decisions

    nodes = session.alive_nodes()
    asked = _workers_decided(config, nodes)
    _refuse_what_can_never_run(asked, is_embedded=False)
    checked = examine(asked, nodes, storage, watcher)
    if any_failed(checked.findings):
        print_findings(checked.findings)
        raise UserError("preflight failed, and nothing was started; mend what is marked `fail`")
    watcher.note(
        f"Preflight passed: {len(checked.findings)} checks on {len(checked.nodes)} node(s)"
    )
    first = checked.workers[0]
    chosen = asked.training.precision
    if chosen == "auto":
        alike = {worker.precision for worker in checked.workers} == {first.precision}
        chosen = first.precision if alike else "32-true"
        reason = first.precision_reason if alike else "not all workers are faster with bfloat16"
        watcher.note(f"Precision: {chosen}, since {reason}")
    assert asked.workers.cpus is not None and asked.workers.gpus is not None
    resolved = with_decisions(
        asked, asked.data.source, chosen, asked.workers.cpus, asked.workers.gpus
    )
    data_sha256 = checked.nodes[0].data_sha256
    name = resolved.workload or resolved.data.source
    ground = Ground(name, data_sha256, first.hardware)
    return Decided(resolved, ground, frozenset(worker.node_id for worker in checked.workers))


def _workers_decided(config: RunConfig, nodes: Sequence[Node]) -> RunConfig:
    """What the workers are, where they run on a cluster that is given, and train on what."""
    # A cluster costs money: what is trained there is not what happens to be found.
    source = "fashion-mnist" if config.data.source == "auto" else config.data.source
    return with_workers_decided(config.with_values(data={"source": source}), nodes)


def _supervise(
    run: RunDirectory,
    decided: Decided,
    lease: Lease,
    connected: session.Session,
    watcher: LaunchWatcher,
) -> RunResult:
    from ray.exceptions import RayError

    from distcnn.orchestration.supervisor import Job, supervise
    from distcnn.training.control import Control, InterruptedNow
    from distcnn.workers import Workers

    watcher.note(f"Run directory: {run.path}")
    where = "on this machine" if connected.is_embedded else f"dashboard {connected.dashboard}"
    watcher.note(f"Ray {where}, logs in {connected.logs}")
    control = Control(Workers())
    started = psutil.Process().create_time()
    folder = connected.folder
    job = Job(
        decided.config,
        run,
        lease,
        decided.ground,
        folder,
        control,
        watcher,
        started,
        nodes=decided.nodes,
    )
    try:
        # After Ray has been started, which takes SIGTERM for itself.
        with (
            control.listening(raises_anywhere=False),
            connected.watching_head(watcher.note, run.path),
        ):
            result = supervise(job)
            if result.results["status"] == "failed" and connected.is_embedded:
                connected.keep_logs(run.ray_logs)
                watcher.note(f"The workers' logs are kept in {run.ray_logs}")
            return result
    except InterruptedNow:
        raise KeyboardInterrupt from None
    except RayError as error:
        raise UserError(
            f"the cluster is out of reach ({type(error).__name__}); what was committed is safe."
            f" Once it is back, go on with: distcnn resume {run.path}"
        ) from error
    finally:
        watcher.end()
