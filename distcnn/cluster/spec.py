"""What a job's cluster is: one typed spec, from which every manifest and script is rendered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distcnn.cluster.handle import Target
from distcnn.config import NonNegative, Positive, Section

# A label of the DNS (RFC 1035): what Kubernetes takes for the name of a service.
_DNS_LABEL = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
DnsLabel = Annotated[str, Field(pattern=_DNS_LABEL)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# Of Slurm's partitions, accounts, qualities of service.
SlurmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$")]
# A host's name, or its IPv4 address.
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", max_length=253)]
UserName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
# What Amazon's and Google's clouds call their regions, zones, projects, machines and images.
CloudName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$", max_length=255)]
# As the Open Container Initiative has it: registry/path:tag or registry/path@digest.
Image = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$", max_length=255)]


# What a job cannot do without, or would be open to others with.
_RESERVED = {"PYTHONPATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}


class RaySpec(Section):
    """A Ray cluster that runs already."""

    address: Annotated[str, Field(pattern=r"^(https?://)?[^/\s]+/?$")] | None = None
    """Of its dashboard, `http://host:8265`; `RAY_API_SERVER_ADDRESS` by default."""
    token_file: Path | None = None
    """Holds the cluster's token; where Ray looks for it by default (`RAY_AUTH_TOKEN_PATH`,
    `~/.ray/auth_token`)."""


def host_of(spec: RaySpec) -> str | None:
    """`host:8265` of a Ray cluster's dashboard; None where it is not named."""
    return spec.address and spec.address.rpartition("://")[2].rstrip("/")


class SlurmSpec(Section):
    """Where in a Slurm cluster, and how."""

    partition: SlurmName | None = None
    """The cluster's default one by default."""
    account: SlurmName | None = None
    """Who pays."""
    qos: SlurmName | None = None
    """Quality of service."""
    directory: Path = Path("~/.distcnn/jobs")
    """Folder, shared by all nodes, in which a job gets its own: code, script, log, token."""
    python: Path | None = None
    """The Python on the nodes in which distcnn's libraries are installed; by default this one."""
    setup: Path | None = None
    """A shell file that each node reads before it starts Python (`module load ...`)."""
    spare_nodes: NonNegative = 0
    """Nodes beyond those that are needed: the job goes on with them when others fail."""


class KubeRaySpec(Section):
    """Where in a Kubernetes cluster that the KubeRay operator runs in."""

    context: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Of the kubeconfig; the current one by default."""
    namespace: DnsLabel = "default"
    """Of the job and all that belongs to it."""
    volume_claim: DnsLabel | None = None
    """A PersistentVolumeClaim that all pods can write (ReadWriteMany)."""
    mount_path: Path = Path("/shared")
    """Where pods see it; runs kept there are `storage.directory: /shared/...`."""
    service_account: DnsLabel | None = None
    """Of the pods, for an object store's roles; the namespace's default one by default."""
    image_pull_secret: DnsLabel | None = None
    """A Secret by which the image may be pulled."""

    @model_validator(mode="after")
    def _mounted_at_an_absolute_path(self) -> Self:
        if not self.mount_path.is_absolute() or ":" in str(self.mount_path):
            raise ValueError(f"mount_path = {self.mount_path} has to be absolute, without ':'")
        return self


class RayUpSpec(Section):
    """Of a Ray cluster that people start themselves, with `ray up`; jobs reach it as `ray`."""

    provider: Literal["aws", "gcp", "on-premises"] | None = None
    """Whose machines: Amazon's, Google's, or those of `hosts`."""
    cluster_name: DnsLabel = "distcnn"
    """Of all that belongs to it."""
    region: CloudName | None = None
    """Of the cloud."""
    zone: CloudName | None = None
    """In the region; Google's needs one, Amazon's takes any by default."""
    project_id: CloudName | None = None
    """Who pays, at Google."""
    machine_type: CloudName | None = None
    """Of the cloud; by default the smallest one known here that has what a node is to have."""
    machine_image: CloudName | None = None
    """What machines start from: an AMI's id, or Google's `projects/.../images/family/...`; a Debian
    or Ubuntu, with NVIDIA's driver where there are GPUs."""
    ssh_user: UserName = "ubuntu"
    """Who logs in on the machines, and runs everything there."""
    ssh_private_key: Path | None = None
    """With which; by default a cloud makes one, and on-premises ssh chooses. Amazon has to know it
    as a key pair of the file's name. It is copied to the head."""
    hosts: tuple[Host, ...] = ()
    """On-premises: the head, then as many workers as there may be."""
    python: Path | None = None
    """On the machines, with distcnn's libraries; by default one is made, and they are installed."""
    lifetime_seconds: Positive = 24 * 3600
    """After which a cloud's machine ends by itself, should `ray down` be forgotten."""

    @model_validator(mode="after")
    def _what_a_provider_needs(self) -> Self:
        needed = {
            None: (),
            "aws": ("region", "machine_image"),
            "gcp": ("region", "zone", "project_id", "machine_image"),
            "on-premises": ("hosts",),
        }[self.provider]
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ValueError(f"provider = {self.provider} needs {' and '.join(missing)}")
        twice = sorted({host for host in self.hosts if self.hosts.count(host) > 1})
        if twice:
            raise ValueError(f"hosts has {', '.join(twice)} twice; a host is one node")
        return self

    @model_validator(mode="after")
    def _paths_that_a_shell_can_hold(self) -> Self:
        # In PATH a colon ends a folder, and a line of a shell's file ends where it ends.
        if self.python and (
            not self.python.is_absolute() or re.search(r"[:\n\0]", str(self.python))
        ):
            raise ValueError(
                f"python = {str(self.python)!r} has to be absolute, without ':' and line breaks"
            )
        return self


class ClusterSpec(Section):
    """Machines for one job, wherever they are."""

    target: Target = "local"
    """`local`: this machine, in the background; `ray`: a Ray cluster that runs; `slurm`: an
    allocation of Slurm's; `kuberay`: a RayJob in Kubernetes."""
    nodes: Positive = 1
    """Machines with workers on them; the first one has the driver too."""
    cpus_per_node: Positive = 2
    """Cores of each; by default as many as GPUs, two at least."""
    gpus_per_node: NonNegative = 0
    """GPUs of each."""
    memory_gib_per_node: Annotated[float, Field(gt=0)] = 4.0
    """Memory of each; 1.2 GiB for the driver and 0.5 for each worker, at least."""
    accelerator_type: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Kind of the GPUs, as Ray names it (`A100`, `H100`, ...)."""
    image: Image | None = None
    """Container image with distcnn's libraries (cluster/Dockerfile); Kubernetes needs one."""
    max_seconds: Positive = 4 * 3600
    """The job is saved and ended by then."""
    grace_seconds: Annotated[int, Field(ge=10, le=3600)] = 60
    """For the job to save and end, when it is stopped or its time is over."""
    idle_seconds: Positive = 300
    """After which machines that nobody uses are given back, where something can do that."""
    lost_seconds: Positive = 60
    """After which a job is LOST whose cluster does not answer."""
    max_retries: NonNegative = 3
    """How often the job is taken up again when machines are lost with it (its driver's among
    them)."""
    spot: bool = False
    """Cheaper machines, which can be taken away."""
    environment: dict[VariableName, str] = Field(default={})
    """Variables of the job's processes."""
    secrets: tuple[VariableName, ...] = ()
    """Variables that the job needs and nobody may read, by name. Their values are those of the
    environment in which the job is submitted; they stand in no file of distcnn's."""
    ray: RaySpec = RaySpec()
    slurm: SlurmSpec = SlurmSpec()
    kuberay: KubeRaySpec = KubeRaySpec()
    ray_up: RayUpSpec = RayUpSpec()

    @model_validator(mode="after")
    def _time_for_more_than_the_grace(self) -> Self:
        if self.max_seconds <= self.grace_seconds:
            raise ValueError(
                f"max_seconds = {self.max_seconds} leaves no time before the grace_seconds ="
                f" {self.grace_seconds} in which the job saves; raise it"
            )
        return self

    @model_validator(mode="after")
    def _a_kind_of_gpus_needs_gpus(self) -> Self:
        if self.accelerator_type and not self.gpus_per_node:
            raise ValueError(
                f"accelerator_type = {self.accelerator_type} without GPUs; set gpus_per_node"
            )
        return self

    @model_validator(mode="after")
    def _nothing_that_distcnn_sets_itself(self) -> Self:
        reserved = sorted(_RESERVED & {*self.environment, *self.secrets})
        if reserved:
            raise ValueError(f"{', '.join(reserved)}: set by distcnn itself; leave it out")
        return self

    @model_validator(mode="after")
    def _values_that_variables_can_have(self) -> Self:
        for name, value in self.environment.items():
            if "\0" in value:
                raise ValueError(f"environment.{name} has a NUL character, which none can have")
        both = sorted(set(self.environment) & set(self.secrets))
        if both:
            raise ValueError(f"{', '.join(both)}: in environment and in secrets; choose one")
        return self

    @model_validator(mode="after")
    def _what_a_target_needs(self) -> Self:
        if self.target == "kuberay" and self.image is None:
            raise ValueError(
                "target = kuberay needs cluster.image; build one with cluster/Dockerfile"
            )
        if self.ray_up.hosts and len(self.ray_up.hosts) < self.nodes:
            raise ValueError(
                f"nodes = {self.nodes}, and ray_up.hosts has {len(self.ray_up.hosts)}; name more"
            )
        if self.ray_up.provider and self.ray.token_file is None:
            raise ValueError(
                "ray_up needs ray.token_file, a file with a token for this cluster alone; make it"
                " with: (umask 077; openssl rand -hex 32 > FILE)"
            )
        if self.target == "local" and self.nodes > 1:
            raise ValueError(f"target = local is one machine, not nodes = {self.nodes}")
        return self
