"""How long a job is expected to take on its cluster, from what, and what nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distcnn.cluster.job import Job
from distcnn.cluster.pace import Pace, Team, pace
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.workload import Workload, workload_of
from distcnn.location import Location
from distcnn.sweep.plan import num_images, plan, timed_configs

# Medians of `make bench-ray` (benchmarks/results_ray.json): from the driver's start to the first
# step of two workers, and from the last step to the driver's end.
_BEGIN_SECONDS = 9.6
_END_SECONDS = 1.5


@dataclass(frozen=True)
class Expectation:
    """How long a job will take, about, once its machines are there."""

    seconds: float | None
    """From the start of its driver to its end; None where nothing tells."""
    source: str
    """For people: how that is known, or why it is not."""
    unknown: tuple[str, ...] = ()
    """For people: what it leaves out, or takes for granted."""


def expect(job: Job, folders: Sequence[Location]) -> Expectation:
    """How long a job will take.

    Args:
        job: that is about to be submitted.
        folders: of runs. The first with a run like the job's tells, and there the newest.
    """
    workload = workload_of(job)
    if workload.config.workload is not None:
        of_ours = (
            f"how much there is to train, and how fast, {workload.config.workload} knows alone"
        )
        return Expectation(None, of_ours)
    team = Team(workload.num_workers, workload.workers_per_node, workload.config.workers.cpus or 1)
    sweep = workload.sweep
    timed = [workload.config] if sweep is None else timed_configs(sweep)
    asked = [pace(config, team, job.spec.accelerator_type, folders) for config in timed]
    paces = [each for each in asked if each is not None]
    seconds = _training_seconds(workload, paces if len(paces) == len(asked) else [])
    unknown = tuple(dict.fromkeys(_unknown(workload, job.spec, paces)))
    if seconds is None:
        source = "no run like this one on such GPUs is kept, and the project has no figures of them"
        return Expectation(None, source, unknown)
    source = "; ".join(dict.fromkeys(each.source for each in paces)) or "its time_budget_seconds"
    return Expectation(_BEGIN_SECONDS + seconds + _END_SECONDS, source, unknown)


def _training_seconds(workload: Workload, paces: Sequence[Pace]) -> float | None:
    seconds_per_image = [1 / each.images_per_second for each in paces]
    if workload.sweep is not None:
        return plan(workload.sweep, workload.at_a_time, seconds_per_image).seconds
    return num_images(workload.config) * seconds_per_image[0] if paces else None


def _unknown(workload: Workload, spec: ClusterSpec, paces: Sequence[Pace]) -> Iterator[str]:
    yield from (each.unknown for each in paces if each.unknown)
    if paces and spec.target != "local":
        yield "how fast the nodes are, taken to be like those"
    if spec.target == "ray":
        taken = f"{spec.nodes} of {spec.cpus_per_node} CPU and {spec.gpus_per_node} GPU"
        yield f"what nodes the cluster has, taken to be {taken} (cluster.nodes, ...)"
    if paces and workload.num_workers > workload.workers_per_node:
        yield "the network between nodes, taken to have 10 Gbit/s and 50 us"
    if workload.config.training.early_stopping:
        yield "how early training stops, taken to go on to its last epoch"
    if workload.sweep is not None and workload.sweep.config.scheduler.name == "asha":
        yield "how early asha ends trials, taken to be as usual"
    if spec.target in ("slurm", "kuberay"):
        yield "how long the nodes are waited for, which is not in it"
