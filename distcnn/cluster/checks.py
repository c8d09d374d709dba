"""What can be said of any job before it is sent, whatever its target: each with its remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator

from distcnn.cluster.expectation import Expectation
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import LARGEST_BYTES, Parcel, ParcelError
from distcnn.cluster.request import shortfall
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.workload import Workload, workload_of
from distcnn.findings import Finding
from distcnn.wording import duration


def check(job: Job, parcel: Parcel, expectation: Expectation) -> Iterator[Finding]:
    """Size, room, time and secrets."""
    yield _size(parcel)
    if job.spec.target != "ray":  # Of a cluster that is there, its own nodes count.
        yield _room(workload_of(job), job.spec)
    yield _time(job.spec, expectation)
    for name in job.spec.secrets:
        if name in os.environ:
            yield Finding("ok", "secrets", f"{name} is set here")
        else:
            remedy = f"export {name} before you submit"
            yield Finding("fail", "secrets", f"{name} is not set here; {remedy}")


def _size(parcel: Parcel) -> Finding:
    try:
        parcel.check_size()
    except ParcelError as error:
        return Finding("fail", "parcel", str(error))
    size, limit = len(parcel.zipped) / 2**20, LARGEST_BYTES / 2**20
    return Finding("ok", "parcel", f"{size:.1f} MiB travel, of {limit:.0f} that may")


def _room(workload: Workload, spec: ClusterSpec) -> Finding:
    lacking = shortfall(workload.request, workload.nodes)
    if lacking is None:
        return Finding("ok", "room", f"{workload.request} fit on {spec.nodes} machine(s)")
    return Finding(
        "fail", "room", f"{lacking}, or set --nodes, cluster.cpus_per_node, --gpus-per-node"
    )


def _time(spec: ClusterSpec, expectation: Expectation) -> Finding:
    limit = f"limit {duration(spec.max_seconds)}, {duration(spec.grace_seconds)} of it to save"
    if expectation.seconds is None:
        return Finding("note", "time", f"unknown: {expectation.source}; {limit}")
    what = f"about {duration(expectation.seconds)} expected; {limit}"
    if expectation.seconds + spec.grace_seconds > spec.max_seconds:
        return Finding("note", "time", f"{what}: it would be saved and stopped; raise --max-time")
    return Finding("ok", "time", what)
