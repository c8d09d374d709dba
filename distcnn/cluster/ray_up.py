"""The file from which `ray up` starts a cluster, rendered from its spec.

A cluster that is started so is there until `ray down`; its workers come when they are needed and
go when they are idle. Jobs are sent to it as to any Ray cluster that runs.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from distcnn.cluster.machines import Machine, machine_for
from distcnn.cluster.spec import ClusterSpec
from distcnn.config_file import plain_to_yaml

# Where Ray looks for a token by default, so that people need not name it on the machines.
TOKEN = "~/.ray/auth_token"  # noqa: S105 - a path
HEAD_TYPE = "head"
WORKER_TYPE = "worker"
_LOG = "~/.ray/start.log"
_ENVIRONMENT = '"$HOME"/.distcnn/environment'
_UV = '"$HOME"/.distcnn/uv/bin'
_PORT = 6379
_DISK_GB = 100
# Nothing large goes through Ray's object store here.
_OBJECT_STORE_BYTES = 100 * 10**6
# Without its head a node ends by then; by default in 60, and of its processes only some.
_ORPHAN_SECONDS = 30
# By which Ray's autoscaler, on the head, rules the cloud.
_CLOUD_LIBRARIES = {"aws": ["boto3"], "gcp": ["google-api-python-client", "cryptography"]}
_HEADER = """\
# For `ray up`; rendered by distcnn from the spec of a cluster. Change that, and render it again.
#
# Before:  the token that file_mounts copies: (umask 077; openssl rand -hex 32 > FILE). It takes the
#          place of ~/.ray/auth_token on the machines.
# Up:      ray up FILE. On each machine it ends whatever Ray this user runs there, first.
# Reach:   ray dashboard FILE, which leads http://localhost:8265 to the head through ssh: the
#          dashboard listens on the head's loopback address alone.
# Down:    ray down FILE. Nodes that have lost their head end by themselves in half a minute.
#
# Ray trusts the machines' ssh keys unseen, and copies the private key of `auth` to the head.
"""
_NOTES = {
    "aws": """\
# Ray lets ssh (port 22) in from everywhere, and all machines of the cluster to each other, nothing
# else (provider.security_group, node_config.SecurityGroupIds); gives machines a public address
# where the subnet does (provider.use_internal_ips); and makes a role ray-autoscaler-v1 for the head
# which may do all with EC2 and S3 (node_config.IamInstanceProfile). `ray up` needs boto3.
""",
    "gcp": """\
# Ray changes no firewall: a project's default network lets ssh (port 22) in from everywhere, and
# all of its machines to each other (node_config.networkInterfaces). Machines get a public address,
# and the head a service account that may do all with machines and storage. `ray up` needs
# google-api-python-client and cryptography.
""",
    "on-premises": """\
# Ray's ports have to be open between the hosts, and to nobody else.
""",
}


def render_ray_up(spec: ClusterSpec, requirements: str, python_version: str) -> str:
    """The file for `ray up`, for a spec whose `ray_up.provider` is set.

    Args:
        spec: of the cluster.
        requirements: what is installed on the machines, as a requirements file has it.
        python_version: of the machines, `3.11`; jobs have to be made with the same.

    Raises:
        UsageError: no machine that is known here has what the spec asks for.
    """
    ray_up = spec.ray_up
    assert ray_up.provider
    plain = {
        "cluster_name": ray_up.cluster_name,
        "provider": _provider(spec),
        "auth": _auth(spec),
        **_sizes(spec),
        "idle_timeout_minutes": _minutes(spec.idle_seconds),
        **_node_types(spec),
        "file_mounts": {TOKEN: str(spec.ray.token_file)},
        "setup_commands": _setup(spec, requirements, python_version),
        "head_setup_commands": _head_setup(spec),
        "worker_setup_commands": [],
        "head_start_ray_commands": ["ray stop", _start(spec, is_head=True)],
        "worker_start_ray_commands": ["ray stop", _start(spec, is_head=False)],
    }
    return f"{_HEADER}#\n{_NOTES[ray_up.provider]}{plain_to_yaml(plain)}"


def _provider(spec: ClusterSpec) -> dict[str, Any]:
    ray_up = spec.ray_up
    if ray_up.provider == "on-premises":
        head, *workers = ray_up.hosts
        return {"type": "local", "head_ip": head, "worker_ips": workers}
    provider: dict[str, Any] = {"type": ray_up.provider, "region": ray_up.region}
    if ray_up.zone:
        provider["availability_zone"] = ray_up.zone
    if ray_up.provider == "gcp":
        provider["project_id"] = ray_up.project_id
    else:
        # A machine that has stopped still costs its disk.
        provider["cache_stopped_nodes"] = False
    return provider


def _auth(spec: ClusterSpec) -> dict[str, str]:
    auth = {"ssh_user": spec.ray_up.ssh_user}
    if spec.ray_up.ssh_private_key:
        auth["ssh_private_key"] = str(spec.ray_up.ssh_private_key)
    return auth


def _sizes(spec: ClusterSpec) -> dict[str, int]:
    """Numbers of workers; the head, which has workers of a training too, is one of the nodes."""
    num_workers = spec.nodes - 1
    if spec.ray_up.provider == "on-premises":
        return {"min_workers": num_workers, "max_workers": num_workers}
    return {"max_workers": num_workers}


def _minutes(seconds: int) -> float:
    return seconds // 60 if seconds % 60 == 0 else round(seconds / 60, 2)


def _node_types(spec: ClusterSpec) -> dict[str, Any]:
    cloud = spec.ray_up.provider
    if cloud is None or cloud == "on-premises":
        return {}
    machine = machine_for(spec, cloud)
    node = _ec2_node if cloud == "aws" else _gce_node
    # Ray finds out by itself what a machine of Amazon's has.
    resources = {} if cloud == "aws" else _resources(machine)
    types: dict[str, Any] = {
        # With the head all of the cluster is lost, so that one is never a spot machine.
        HEAD_TYPE: {"node_config": node(spec, machine, is_spot=False), "resources": resources},
    }
    if spec.nodes > 1:
        types[WORKER_TYPE] = {
            "min_workers": 0,
            "max_workers": spec.nodes - 1,
            "node_config": node(spec, machine, is_spot=spec.spot),
            "resources": dict(resources),
        }
    return {"available_node_types": types, "head_node_type": HEAD_TYPE}


def _resources(machine: Machine) -> dict[str, int]:
    resources = {"CPU": machine.cpus}
    if machine.gpus:
        resources["GPU"] = machine.gpus
    if machine.accelerator_type:
        resources[f"accelerator_type:{machine.accelerator_type}"] = 1
    return resources


def _ec2_node(spec: ClusterSpec, machine: Machine, is_spot: bool) -> dict[str, Any]:
    node: dict[str, Any] = {
        "InstanceType": machine.name,
        "ImageId": spec.ray_up.machine_image,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": _DISK_GB, "VolumeType": "gp3"}}
        ],
        "MetadataOptions": {"HttpTokens": "required"},
        # See _setup: at the end of its lifetime a machine shuts itself down.
        "InstanceInitiatedShutdownBehavior": "terminate",
    }
    if spec.ray_up.ssh_private_key:
        node["KeyName"] = spec.ray_up.ssh_private_key.stem
    if is_spot:
        node["InstanceMarketOptions"] = {"MarketType": "spot"}
    return node


def _gce_node(spec: ClusterSpec, machine: Machine, is_spot: bool) -> dict[str, Any]:
    scheduling: dict[str, Any] = {
        "provisioningModel": "SPOT" if is_spot else "STANDARD",
        "instanceTerminationAction": "DELETE",
        "maxRunDuration": {"seconds": spec.ray_up.lifetime_seconds},
        # One that was started anew would not have Ray.
        "automaticRestart": False,
    }
    if is_spot or machine.gpus:
        # They cannot move to another host while they run.
        scheduling["onHostMaintenance"] = "TERMINATE"
    disk = {
        "boot": True,
        "autoDelete": True,
        "type": "PERSISTENT",
        "initializeParams": {
            "diskSizeGb": _DISK_GB,
            "sourceImage": spec.ray_up.machine_image,
        },
    }
    return {"machineType": machine.name, "disks": [disk], "scheduling": scheduling}


def _setup(spec: ClusterSpec, requirements: str, python_version: str) -> list[str]:
    ray_up = spec.ray_up
    commands: list[str] = []
    if ray_up.provider == "aws":
        commands.append(f"sudo shutdown --poweroff +{-(-ray_up.lifetime_seconds // 60)}")
    if ray_up.python is None:
        if ray_up.provider != "on-premises":
            commands += [
                # A machine that has just started may be updating itself.
                "sudo apt-get -o DPkg::Lock::Timeout=300 update -qq",
                "sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y python3-venv",
            ]
        commands += [
            f"python3 -m venv {_UV.removesuffix('/bin')} && {_UV}/pip install --quiet uv",
            f"{_UV}/uv venv --quiet --allow-existing --python {quote(python_version)}"
            f" {_ENVIRONMENT}",
            _install(_pins(requirements)),
        ]
    # Which `ray stop` needs, as `ray down` runs it.
    line = f'export PATH={_programs(ray_up.python)}:"$PATH"'
    commands.append(
        f"grep -qsxF {quote(line)} ~/.bashrc || printf '%s\\n' {quote(line)} >> ~/.bashrc"
    )
    return commands


def _head_setup(spec: ClusterSpec) -> list[str]:
    libraries = _CLOUD_LIBRARIES.get(spec.ray_up.provider or "", [])
    return [_install(libraries)] if libraries and spec.ray_up.python is None else []


def _pins(requirements: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return [line for line in lines if line]


def _install(libraries: list[str]) -> str:
    quoted = " ".join(quote(library) for library in libraries)
    return f"{_UV}/uv pip install --quiet --python {_ENVIRONMENT} {quoted}"


def _programs(python: Path | None) -> str:
    """The folder with `ray` in it, as a shell takes it."""
    return f"{_ENVIRONMENT}/bin" if python is None else quote(str(python.parent))


def _start(spec: ClusterSpec, is_head: bool) -> str:
    variables = {
        **spec.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(_ORPHAN_SECONDS),
    }
    if is_head:
        where = [
            *("--head", f"--port={_PORT}", "--dashboard-host=127.0.0.1"),
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ]
        if spec.ray_up.provider == "on-premises":
            # The second version would start one of the workers only.
            variables["RAY_enable_autoscaler_v2"] = "0"
    else:
        where = [f'--address="$RAY_HEAD_IP":{_PORT}']
    exports = " ".join(f"{name}={quote(value)}" for name, value in variables.items())
    start = " ".join(
        [
            f"{_programs(spec.ray_up.python)}/ray start --block",
            *where,
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
        ]
    )
    return "; ".join(
        [
            # `ray up` sets them for its commands: each worker would have one thread.
            "unset OMP_NUM_THREADS PYTHONWARNINGS",
            f"export {exports}",
            "ulimit -Sn 65536 || ulimit -Sn hard",
            f"rm -f {_LOG}",
            # A session of its own, all of which ends when Ray does: it would leave some behind.
            f"setsid sh -c '\"$@\"; kill -KILL 0' sh {start} > {_LOG} 2>&1 < /dev/null &"
            f" until grep -qs 'Ray runtime started' {_LOG}",
            f"do kill -0 $! || {{ cat {_LOG}",
            "exit 1",
            "}",
            "sleep 0.5",
            "done",
        ]
    )
