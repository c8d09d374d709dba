"""`distcnn cluster plan`: what a job will do, where, how long, for how much; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil

from distcnn.cluster import duration as durations
from distcnn.cluster.expectation import Expectation
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.prices import PriceTable, node_price
from distcnn.cluster.request import shortfall
from distcnn.cluster.spec import ClusterSpec, Target
from distcnn.cluster.workload import Workload, workload_of
from distcnn.sweep.plan import plan
from distcnn.wording import duration

# From so many bytes on, people are told what they are.
_LARGE_BYTES = 10 * 2**20
_ENDS: dict[Target, str] = {
    "local": "its Ray ends with it; no machine is left on",
    "ray": "its processes end with it; the cluster runs on, it is not the job's",
    "slurm": "the allocation ends with it, and at the time limit",
    "kuberay": "its pods are deleted when it has ended, and at the time limit",
}


def render_plan(job: Job, parcel: Parcel, expectation: Expectation, prices: PriceTable) -> str:
    """A line on each thing that is worth knowing before it costs money.

    Args:
        job: about to be submitted.
        parcel: what would travel.
        expectation: of its time, see `expect`.
        prices: of machines.
    """
    workload, spec = workload_of(job), job.spec
    rows = [
        ("job", job.id),
        ("trains", _what(workload)),
        ("target", _where(spec)),
        ("machines", _machines(spec)),
        *_labelled("workers", _workers(workload, spec)),
        *_labelled("travels", _travels(parcel)),
        ("kept in", str(job.run_dir)),
        *_labelled("expected", _expected(expectation)),
        *_labelled("not known", expectation.unknown),
        *_labelled("time limit", _limit(spec, expectation)),
        *_labelled("cost", _cost(spec, expectation, prices)),
        ("at the end", _ENDS[spec.target]),
    ]
    width = max(len(label) for label, _ in rows)
    return "".join(f"{label:<{width}}  {text}\n" for label, text in rows)


def _labelled(label: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines):
        yield ("" if number else label), line


def _what(workload: Workload) -> str:
    config, sweep = workload.config, workload.sweep
    epochs = config.training.epochs
    data = config.workload or f"{config.data.num_images_per_epoch:,} images"
    each = f"{epochs} epoch{'s' * (epochs > 1)} on {data}"
    if sweep is None:
        return f"a run: {each}, batches of {config.training.global_batch_size}"
    return f"a sweep: {plan(sweep, workload.at_a_time, [])}, each up to {each}"


def _where(spec: ClusterSpec) -> str:
    if spec.target == "slurm":
        return f"slurm, {_partition(spec)}"
    if spec.target == "kuberay":
        context = spec.kuberay.context or "the current context"
        return f"kuberay, {context}, namespace {spec.kuberay.namespace}"
    if spec.target == "ray":
        return f"ray, {spec.ray.address or 'the cluster of RAY_API_SERVER_ADDRESS'}"
    return "local, in the background of this machine"


def _partition(spec: ClusterSpec) -> str:
    return f"partition {spec.slurm.partition}" if spec.slurm.partition else "its default partition"


def _machines(spec: ClusterSpec) -> str:
    if spec.target == "ray":
        return "those of the cluster"
    parts = [f"{spec.cpus_per_node} CPU", f"{spec.memory_gib_per_node:g} GiB"]
    if spec.gpus_per_node:
        kind = f" ({spec.accelerator_type})" if spec.accelerator_type else ""
        parts.append(f"{spec.gpus_per_node} GPU{kind}")
    spare = f", {_num_spare(spec)} of them spare" if _num_spare(spec) else ""
    spot = ", spot: they can be taken away" if spec.spot else ""
    return f"{_num_machines(spec)} x {', '.join(parts)}{spare}{spot}"


def _num_machines(spec: ClusterSpec) -> int:
    return spec.nodes + _num_spare(spec)


def _num_spare(spec: ClusterSpec) -> int:
    return spec.slurm.spare_nodes if spec.target == "slurm" else 0


def _workers(workload: Workload, spec: ClusterSpec) -> Iterator[str]:
    least = " at the least" * workload.config.workers.is_elastic
    each = " for each trial" * (workload.sweep is not None)
    asked, room = f"{workload.request}{least}{each}", f"room for {workload.room}"
    if spec.target == "ray":
        yield f"{asked}; whether they have room is seen when it is submitted"
        return
    lacking = shortfall(workload.request, workload.nodes)
    if lacking is None:
        yield f"{asked}, {room}"
        return
    yield f"{asked} DO NOT FIT, {room}"
    yield f"{lacking.splitlines()[-1].strip()}, or more or larger machines"


def _travels(parcel: Parcel) -> Iterator[str]:
    size = len(parcel.zipped)
    yield f"{size / 2**20:.1f} MiB in {len(parcel.files)} files; no data"
    if size > _LARGE_BYTES:
        for name, num_bytes in parcel.largest():
            yield f"{num_bytes / 2**20:.1f} MiB of them {name}"


def _expected(expectation: Expectation) -> Iterator[str]:
    if expectation.seconds is None:
        yield f"not known, {expectation.source}"
    else:
        yield f"about {duration(expectation.seconds)}"
        yield f"from {expectation.source}"


def _limit(spec: ClusterSpec, expectation: Expectation) -> Iterator[str]:
    grace = durations.written(spec.grace_seconds)
    yield f"{durations.written(spec.max_seconds)}, the last {grace} of it to save and end"
    needed = (expectation.seconds or 0) + spec.grace_seconds
    if needed > spec.max_seconds:
        enough = durations.written(3600 * ceil(needed / 3600))
        yield f"TOO SHORT for what is expected: --max-time {enough}, or submit again to go on"


def _cost(spec: ClusterSpec, expectation: Expectation, prices: PriceTable) -> Iterator[str]:
    price = node_price(spec, prices)
    if price.per_hour is None:
        yield f"not known, {price.note}"
    elif spec.target == "local":
        yield price.note
    else:
        per_second = price.per_hour * _num_machines(spec) / 3600
        most = f"at most {_money(per_second * spec.max_seconds)} {prices.currency}"
        if expectation.seconds is not None:
            seconds = min(expectation.seconds, spec.max_seconds)
            most = f"about {_money(per_second * seconds)}, {most}"
        yield f"{most}, for the whole time limit"
        if spec.max_retries:
            yield f"as much again for each time it is taken up again, {spec.max_retries} at most"
        yield price.note
        yield f"by {prices.source} ({prices.as_of})"


def _money(amount: float) -> str:
    """To the hundredth, and never as nothing where it is something."""
    return f"{ceil(100 * amount - 1e-6) / 100:,.2f}"
