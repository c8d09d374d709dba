"""How fast workers train a network: by the last run like it, or by the project's own figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from distcnn.cluster.scaling import Parts
from distcnn.config import ModelConfig, RunConfig
from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.run_directory.run import RunDirectory, list_runs

# `make bench-ray` on 2026-11-24: the article's network in bfloat16, Intel Xeon with AMX, 2 cores of
# a shared virtual machine (benchmarks/results_ray.json). The network is an assumption.
ARTICLE = Parts(
    fixed=1.5535e-3,
    per_image=7.0386e-5,
    deviation=1.3063e-4,
    shared_sum=6.5563e-5,
    vector_bytes=116_528,
    latency=50e-6,
    bandwidth=1.25e9,
)
_OWN_FIGURES = "distcnn's own figures (Intel Xeon with AMX, bfloat16, 2026-11-24)"
# There too, without bfloat16 (AMD EPYC with AVX2, 2026-11-25): two workers of one core each trained
# 3,907 images/s, the median of 5, in the place of 19,753.
_SLOWER_WITHOUT_BFLOAT16 = 5.06
# A shorter run tells of its first steps.
_SHORTEST_SECONDS = 2.0


@dataclass(frozen=True)
class Team:
    """Workers that train together."""

    workers: int
    workers_per_host: int
    cores: float
    """Of each."""

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers > 1)} of {self.cores:g} CPU"

    def images_per_second(self, parts: Parts, batch_size: int) -> float:
        """Their throughput on paper."""
        return parts.images_per_second(self.workers, batch_size, self.workers_per_host, self.cores)


@dataclass(frozen=True)
class Pace:
    """How fast a network is trained."""

    images_per_second: float
    source: str
    """For people: how that is known."""
    unknown: str = ""
    """For people: what it takes for granted."""


def pace(
    config: RunConfig, team: Team, gpu: str | None, folders: Sequence[Location]
) -> Pace | None:
    """How fast a team trains; None where nothing tells, as for GPUs of which no run is kept.

    Args:
        config: its `workers` are resolved.
        team: of those workers.
        gpu: the kind of their GPUs, if that is known.
        folders: of runs. The first with a run like this one tells, and there the newest.
    """
    for path, results in _results_of_runs_like(config, folders):
        found = _as_measured(config, team, gpu, path, results)
        if found is not None:
            return found
    return None if config.workers.gpus else _on_paper(config, team)


def _as_measured(
    config: RunConfig, team: Team, gpu: str | None, path: Location, results: Mapping[str, Any]
) -> Pace | None:
    theirs, measured = _team_of(results), results["images_per_second"]
    device = results["hardware"]["gpu"] or results["hardware"]["cpu"]
    source = f"{path} ({theirs}, {device}: {measured:,.0f} images/s)"
    if config.workers.gpus:
        # The model's parts are those of CPUs.
        is_like_ours = theirs.workers == team.workers and (gpu or "").lower() in device.lower()
        return Pace(measured, source) if is_like_ours else None
    if theirs == team:
        return Pace(measured, source)
    batch_size = config.training.global_batch_size
    parts = parts_of(config.model, results["precision"])
    before, after = (each.images_per_second(parts, batch_size) for each in (theirs, team))
    return Pace(measured * after / before, f"{source}, scaled to {team}")


def _on_paper(config: RunConfig, team: Team) -> Pace:
    precision = config.training.precision
    parts = parts_of(config.model, precision)
    longer = f"it took {_SLOWER_WITHOUT_BFLOAT16:.0f} times as long"
    doubt = f"whether the CPUs have bfloat16 units: on one without them {longer}"
    return Pace(
        team.images_per_second(parts, config.training.global_batch_size),
        f"{_OWN_FIGURES}, scaled to {team} and this network",
        doubt if precision == "auto" else "",
    )


def parts_of(model: ModelConfig, precision: str) -> Parts:
    """The article's, scaled to a network by its multiply-adds and parameters."""
    article = ModelConfig()
    work = model.multiply_adds / article.multiply_adds
    size = _num_parameters(model) / _num_parameters(article)
    slower = _SLOWER_WITHOUT_BFLOAT16 if precision == "32-true" else 1.0
    return replace(
        ARTICLE,
        fixed=ARTICLE.fixed * slower,
        per_image=ARTICLE.per_image * work * slower,
        vector_bytes=round(ARTICLE.vector_bytes * size),
    )


def _num_parameters(model: ModelConfig) -> int:
    return sum(layer.num_parameters for layer in model.layers)


def _results_of_runs_like(
    config: RunConfig, folders: Sequence[Location]
) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    for folder in folders:
        # A plan does without a folder that cannot be read, or is not there (yet).
        with suppress(OSError, UserError):
            for run in reversed(list_runs(folder)):
                results = _results_if_like(run, config)
                if results is not None:
                    yield run.path, results


def _results_if_like(run: RunDirectory, config: RunConfig) -> Mapping[str, Any] | None:
    """The results of a run that tells how fast one of that config will be."""
    with suppress(OSError, UserError):  # One that is damaged tells nothing.
        results = run.read_results()
        if results is None or results["status"] != "completed":
            return None
        theirs = run.read_config()
        if (
            results["train_seconds"] >= _SHORTEST_SECONDS
            and not theirs.workers.is_elastic
            and bool(theirs.workers.gpus) == bool(config.workers.gpus)
            and theirs.workload == config.workload
            and theirs.model == config.model
            and theirs.training.global_batch_size == config.training.global_batch_size
            and theirs.training.shards == config.training.shards
            and config.training.precision in ("auto", theirs.training.precision)
        ):
            return results
    return None


def _team_of(results: Mapping[str, Any]) -> Team:
    workers = results["workers"]
    count, hosts = workers["count"], workers["hosts"]
    return Team(count, ceil(count / len(set(hosts))), workers["cpus"])
