"""From what a user typed to a job on its cluster: prepared, checked, sent once, found again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.location import Location
from distcnn.orchestration import targets
from distcnn.orchestration.targets import Attached, OutOfReachError
from distcnn.sweep import file as sweep_file

_NUM_ASKED_AT_A_TIME = 8
_PROBE_SECONDS = 600


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
            UserError: one of that id is on its way with another config.
        """
        for record in registry.remembered():
            if record.id == self.job.id and record.handle.target == self.job.spec.target:
                state = status_of(record).state
                if state.has_ended and state is not State.SUCCEEDED:
                    return None
                if record.digest != self.job.digest:
                    raise UserError(
                        f"{record.handle} is {state}, with another config; choose another --id, or"
                        f" stop it first: distcnn cluster stop {record.handle}"
                    )
                return record
        return None

    def submit(self) -> Remembered:
        """Send it, and remember it.

        Raises:
            UserError: it is not taken.
        """
        handle = self._target.submit(self.job, self.parcel)
        registry.remember(self.job, handle)
        return registry.find(str(handle))

    def probe(self) -> Remembered:
        """Send a job that checks its machines from within, and trains nothing.

        Raises:
            UserError: it is not taken.
        """
        spec = self.job.spec.model_copy(update={"max_seconds": _PROBE_SECONDS})
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
    if "space" in config_file.read_yaml(config_file.find(config)):
        job = job_of_sweep(sweep_file.load(config, overrides), spec, run_dir, job_id)
        return Prepared(job, prices)
    run_config = config_file.load(config, overrides)
    if fills_nodes and not any(each.startswith("workers.") for each in overrides):
        run_config = _filling(run_config, spec)
    return Prepared(job_of_run(run_config, spec, run_dir, job_id), prices)


def _filling(config: RunConfig, spec: ClusterSpec) -> RunConfig:
    each = max(1, spec.gpus_per_node)
    return config.with_values(
        workers={
            "count": spec.nodes * each,
            "min": None,
            "max": None,
            "cpus": float(max(1, spec.cpus_per_node // each)),
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


def statuses_of(records: Sequence[Remembered]) -> list[Status | None]:
    """How several jobs are; None for those whose cluster does not answer."""

    def ask(record: Remembered) -> Status | None:
        try:
            return status_of(record)
        except OutOfReachError:
            return None

    with ThreadPoolExecutor(_NUM_ASKED_AT_A_TIME) as pool:
        return list(pool.map(ask, records))
