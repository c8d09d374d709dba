"""The clouds' machines that are known here, and the smallest one that has what is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distcnn.cluster.spec import ClusterSpec
from distcnn.errors import UsageError

Cloud = Literal["aws", "gcp"]


@dataclass(frozen=True)
class Machine:
    """A type of machine, as its cloud names it."""

    name: str
    cpus: int
    memory_gib: float
    gpus: int = 0
    accelerator_type: str | None = None
    """As Ray names it."""


def _sizes(
    family: str, sizes: dict[str, int], gib_per_cpu: float, *accelerators: tuple[int, str]
) -> tuple[Machine, ...]:
    """Machines of a family, by their cores; with the GPUs of each, where it has some."""
    gpus = accelerators or ((0, None),) * len(sizes)
    return tuple(
        Machine(family + name, cpus, cpus * gib_per_cpu, count, kind)
        for (name, cpus), (count, kind) in zip(sizes.items(), gpus, strict=True)
    )


_SMALL = {"xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48}
_EC2 = {"large": 2} | _SMALL | {"16xlarge": 64, "24xlarge": 96, "48xlarge": 192}
_G4DN = _SMALL | {"metal": 96}
_G = _SMALL | {"24xlarge": 96, "48xlarge": 192}
_COMPUTE = {str(cpus): cpus for cpus in (2, 4, 8, 16, 32, 48, 64, 80)}
_G2 = {str(cpus): cpus for cpus in (4, 8, 12, 16, 32, 24, 48, 96)}
_HIGHGPU = (1, 2, 4, 8)

# Of the same size, the cheaper one comes first. https://aws.amazon.com/ec2/instance-types and
# https://cloud.google.com/compute/docs/machine-resource
_KNOWN: dict[Cloud, tuple[Machine, ...]] = {
    "aws": (
        *_sizes("c7i.", _EC2, 2),
        *_sizes("m7i.", _EC2, 4),
        *_sizes("g4dn.", _G4DN, 4, *((gpus, "T4") for gpus in (1, 1, 1, 1, 4, 8))),
        *_sizes("g6.", _G, 4, *((gpus, "L4") for gpus in (1, 1, 1, 1, 4, 4, 8))),
        *_sizes("g5.", _G, 4, *((gpus, "A10G") for gpus in (1, 1, 1, 1, 4, 4, 8))),
        Machine("p4d.24xlarge", 96, 1152, 8, "A100"),
        Machine("p5.48xlarge", 192, 2048, 8, "H100"),
        Machine("p5en.48xlarge", 192, 2048, 8, "H200"),
    ),
    "gcp": (
        *_sizes("n2-highcpu-", _COMPUTE, 1),
        *_sizes("n2-standard-", _COMPUTE, 4),
        *_sizes("g2-standard-", _G2, 4, *((gpus, "L4") for gpus in (1, 1, 1, 1, 1, 2, 4, 8))),
        *(Machine(f"a2-highgpu-{gpus}g", 12 * gpus, 85 * gpus, gpus, "A100") for gpus in _HIGHGPU),
        *(Machine(f"a3-highgpu-{gpus}g", 26 * gpus, 234 * gpus, gpus, "H100") for gpus in _HIGHGPU),
    ),
}


def machine_for(spec: ClusterSpec, cloud: Cloud) -> Machine:
    """The type of machine for the nodes of a spec.

    Raises:
        UsageError: none that is known here has that much.
    """
    chosen = spec.ray_up.machine_type
    if chosen:
        return Machine(
            chosen,
            spec.cpus_per_node,
            spec.memory_gib_per_node,
            spec.gpus_per_node,
            spec.accelerator_type,
        )
    fitting = [machine for machine in _KNOWN[cloud] if _has(machine, spec)]
    if not fitting:
        gpus = f", {spec.gpus_per_node} {spec.accelerator_type or ''} GPUs".replace("  ", " ")
        raise UsageError(
            f"no machine of {cloud} is known here that has {spec.cpus_per_node} cores,"
            f" {spec.memory_gib_per_node:g} GiB{gpus if spec.gpus_per_node else ''}; ask for less,"
            " or name the type in ray_up.machine_type"
        )
    return min(fitting, key=lambda machine: (machine.gpus, machine.cpus, machine.memory_gib))


def _has(machine: Machine, spec: ClusterSpec) -> bool:
    return (
        machine.cpus >= spec.cpus_per_node
        and machine.memory_gib >= spec.memory_gib_per_node
        and machine.gpus >= spec.gpus_per_node
        and (machine.gpus > 0) == (spec.gpus_per_node > 0)
        and spec.accelerator_type in (None, machine.accelerator_type)
    )
