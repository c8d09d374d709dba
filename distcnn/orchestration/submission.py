"""From what a user typed to a job on its cluster: prepared, checked, sent once, found again."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from distcnn import config_file
from distcnn.cluster import checks, registry
from distcnn.cluster.expectation import Expectation, expect
from distcnn.cluster.job import Job, job_of_run, job_of_sweep
from distcnn.cluster.parcel import Parcel, parcel_of
from distcnn.cluster.plan import render_plan
from distcnn.cluster.prices import load_prices
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec, host_of
from distcnn.cluster.status import State, Status
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.location import Location
from distcnn.orchestration import targets
from distcnn.orchestration.targets import Attached, OutOfReachError
from distcnn.sweep import file as sweep_file

# Whoever gives one of them says how many workers there are; nodes do not say it then.
_DECIDING_HOW_MANY = {"workers.count", "workers.min", "workers.max", "workers.gpus"}
_NUM_ASKED_AT_A_TIME = 8
_PROBE_SECONDS = 600
_PROBE_GRACE_SECONDS = 10


@dataclass(frozen=True)
class Prepared:
    """A job that can be sent."""

    job: Job
    prices: Path | None

    @cached_property
    def parcel(self) -> Parcel:
        """What would travel."""
        return parcel_of(self.job)

    @cached_property
    def expectation(self) -> Expectation:
        """How long it will take."""
        return expect(self.job, [self.job.run_dir.parent, Path("runs").absolute()])

    @property
    def plan(self) -> str:
        """What it would take and cost, for people."""
        prices = load_prices(self.prices)
        return render_plan(self.job, self.parcel, self.expectation, prices)

    @property
    def rendered(self) -> str:
        """Exactly what would be sent."""
        return self._target.render(self.job, self.parcel)

    def findings(self) -> list[Finding]:
        """What can be found out about it before it is sent."""
        common = checks.check(self.job, self.parcel, self.expectation)
        return [*common, *self._target.check(self.job, self.parcel)]

    def going_on(self) -> Remembered | None:
        """The job of that id, if it was submitted from here and needs no second time.

        Raises:
            UserError: one of that id is on its way elsewhere, or with another config, or is just
                stopping.
        """
        record = registry.known(self.job.id)
        if record is None:
            return None
        is_elsewhere = self._is_elsewhere(record)
        try:
            status = status_of(record)
        except OutOfReachError:
            if is_elsewhere:  # That cluster may be gone, and another one has taken its place.
                return None
            raise
        if status.state.has_ended and (is_elsewhere or status.state is not State.SUCCEEDED):
            return None
        if is_elsewhere or record.digest != self.job.digest:
            other = "elsewhere" if is_elsewhere else "with another config"
            remedy = "choose another --id"
            if not status.state.has_ended:
                remedy += f", or stop it: distcnn cluster stop {record.id}"
            raise UserError(f"{record.handle} is {status.state} {other}; {remedy}")
        if status.is_stopping:
            raise UserError(f"{record.handle} is just stopping; submit it again once it has ended")
        return record

    def _is_elsewhere(self, record: Remembered) -> bool:
        spec, places = self.job.spec, record.handle.places
        asked: tuple[str | None, ...] = ()
        if spec.target == "ray":
            asked = (host_of(spec.ray),)
        elif spec.target == "kuberay":
            asked = (spec.kuberay.context, spec.kuberay.namespace)
        is_there = all(here in (None, there) for here, there in zip(asked, places, strict=False))
        return record.handle.target != spec.target or not is_there

    def submit(self) -> Remembered:
        """Send it, and remember it.

        Raises:
            UserError: it is not taken.
        """
        registry.prepare()
        with _uninterrupted():  # What was sent is to be noted.
            handle = self._target.submit(self.job, self.parcel)
            registry.remember(self.job, handle)
        return registry.find(self.job.id)

    def probe(self) -> Remembered:
        """Send a job that checks its machines from within, and trains nothing.

        Raises:
            UserError: it is not taken.
        """
        limits = {"max_seconds": _PROBE_SECONDS, "grace_seconds": _PROBE_GRACE_SECONDS}
        spec = self.job.spec.model_copy(update=limits)
        job_id = f"probe-{self.job.submission[:8]}"
        job = replace(self.job, id=job_id, spec=spec, only_preflight=True)
        return Remembered(self._target.submit(job, parcel_of(job)), spec, job_id)

    @property
    def _target(self) -> targets.TargetModule:
        return targets.load(self.job.spec.target)


def prepare(
    config: str,
    overrides: Sequence[str],
    spec: ClusterSpec,
    *,
    run_dir: Location | None = None,
    job_id: str | None = None,
    prices: Path | None = None,
    fills_nodes: bool = False,
) -> Prepared:
    """A job of a run config or a sweep file.

    Args:
        config: its path, or a shipped name.
        overrides: of it.
        spec: of the cluster.
        run_dir: where it is kept; see `job_of_run`.
        job_id: what it is called; see `job_of_run`.
        prices: a price table.
        fills_nodes: whether a run's workers follow from the nodes: one on each GPU, or one on each
            node where there are none.

    Raises:
        ConfigError: with everything that is wrong with the config.
        UsageError: the job's id or folder is none that its target can take.
    """
    spec = _with_address(spec)
    if "space" in config_file.read_yaml(config_file.find(config)):
        job = job_of_sweep(sweep_file.load(config, overrides), spec, run_dir, job_id)
        return Prepared(job, prices)
    run_config = config_file.load(config, overrides)
    given = {override.partition("=")[0] for override in overrides}
    if fills_nodes and not given & _DECIDING_HOW_MANY:
        run_config = _filling(run_config, spec, has_cpus="workers.cpus" in given)
    return Prepared(job_of_run(run_config, spec, run_dir, job_id), prices)


def _with_address(spec: ClusterSpec) -> ClusterSpec:
    """With the address of a Ray cluster as it is named now, wherever the job is asked for later."""
    address = spec.ray.address or os.environ.get("RAY_API_SERVER_ADDRESS") or None
    if spec.target != "ray" or address is None:
        return spec
    return spec.model_copy(update={"ray": spec.ray.model_copy(update={"address": address})})


@contextmanager
def _uninterrupted() -> Generator[None]:
    """Have a Ctrl-C wait for the end of the block."""
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


def _filling(config: RunConfig, spec: ClusterSpec, *, has_cpus: bool) -> RunConfig:
    each = max(1, spec.gpus_per_node)
    cpus = config.workers.cpus if has_cpus else float(max(1, spec.cpus_per_node // each))
    return config.with_values(
        workers={
            "count": spec.nodes * each,
            "min": None,
            "max": None,
            "cpus": cpus,
            "gpus": 1 if spec.gpus_per_node else 0,
        }
    )


def attach(record: Remembered) -> Attached:
    """Take hold of a job."""
    return targets.load(record.handle.target).attach(record)


def status_of(record: Remembered) -> Status:
    """How a job is.

    Raises:
        OutOfReachError: its cluster does not answer.
    """
    return attach(record).status()


def statuses_of(records: Sequence[Remembered]) -> list[Status | UserError]:
    """How several jobs are; or why that cannot be told."""

    def ask(record: Remembered) -> Status | UserError:
        try:
            return status_of(record)
        except UserError as error:
            return error

    with ThreadPoolExecutor(_NUM_ASKED_AT_A_TIME) as pool:
        return list(pool.map(ask, records))
