"""Files for `ray up`: Ray's own validator takes them, and user text stays text in them."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from distcnn.cluster.machines import machine_for
from distcnn.cluster.ray_up import render_ray_up
from distcnn.cluster.ray_up_rules import violations
from distcnn.cluster.spec import ClusterSpec
from distcnn.errors import UsageError

REQUIREMENTS = "# exact\nray[default]==2.60.0  # say\ntorch==2.13.0\n"
PROVIDERS: dict[str, dict[str, Any]] = {
    "aws": {"region": "eu-west-1", "machine_image": "ami-0123456789abcdef0"},
    "gcp": {
        "region": "europe-west4",
        "zone": "europe-west4-a",
        "project_id": "p",
        "machine_image": "projects/p/global/images/family/f",
    },
    "on-premises": {"hosts": ("a", "b", "10.0.0.3"), "ssh_private_key": "~/.ssh/key"},
}
# No variable and no path has a NUL.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
NASTY = st.one_of(
    TEXT, st.sampled_from(["$(id)", "`id`", "it's", 'a "b"', "a\nb", "\\", "; id", "- x: {}", "~"])
)


def spec_of(provider: str, ray_up: dict[str, Any] | None = None, **fields: Any) -> ClusterSpec:
    section = {"provider": provider, **PROVIDERS[provider], **(ray_up or {})}
    plain = {"target": "ray", "nodes": 3, "ray": {"token_file": "~/.distcnn/t"}, "ray_up": section}
    return ClusterSpec.model_validate({**plain, **fields})


def rendered(spec: ClusterSpec) -> str:
    return render_ray_up(spec, REQUIREMENTS, "3.11")


def plain_of(spec: ClusterSpec) -> dict[str, Any]:
    return yaml.safe_load(rendered(spec))


def validated(plain: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does, before it asks a cloud."""
    prepared = prepare_config(copy.deepcopy(plain))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("spot", [False, True])
def test_ray_and_the_rules_take_what_is_rendered(provider: str, nodes: int, spot: bool) -> None:
    text = rendered(spec_of(provider, nodes=nodes, spot=spot))
    assert violations(text) == []
    prepared = validated(yaml.safe_load(text))
    types = prepared["available_node_types"].values()
    assert prepared["max_workers"] == nodes - 1
    assert sum(each["max_workers"] for each in types) == nodes - 1


def test_a_cloud_grows_from_its_head_and_only_workers_are_spot_machines() -> None:
    aws = plain_of(spec_of("aws", spot=True))["available_node_types"]
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert aws["worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert aws["worker"]["min_workers"] == 0
    gcp = plain_of(spec_of("gcp", spot=True))["available_node_types"]
    models = {
        name: each["node_config"]["scheduling"]["provisioningModel"] for name, each in gcp.items()
    }
    assert models == {"head": "STANDARD", "worker": "SPOT"}


def test_hosts_are_kept_and_the_first_one_is_the_head() -> None:
    plain = plain_of(spec_of("on-premises", idle_seconds=90))
    assert plain["provider"] == {"type": "local", "head_ip": "a", "worker_ips": ["b", "10.0.0.3"]}
    assert plain["min_workers"] == plain["max_workers"] == 2
    assert plain["idle_timeout_minutes"] == 1.5


@pytest.mark.parametrize("gpus", [0, 1])
def test_amazon_takes_the_fields_of_a_machine(gpus: int) -> None:
    spec = spec_of("aws", {"ssh_private_key": "~/keys/mine.pem"}, spot=True, gpus_per_node=gpus)
    for each in plain_of(spec)["available_node_types"].values():
        assert each["node_config"]["KeyName"] == "mine"
        call = get_session().get_service_model("ec2").operation_model("RunInstances")
        given = {"MinCount": 1, "MaxCount": 1, **each["node_config"]}
        report = ParamValidator().validate(given, call.input_shape)
        assert not report.has_errors(), report.generate_report()


def test_exact_versions_are_installed_unless_a_python_has_them() -> None:
    [install] = [line for line in plain_of(spec_of("gcp"))["setup_commands"] if "torch" in line]
    assert "'ray[default]==2.60.0' torch==2.13.0" in install
    ready = plain_of(spec_of("gcp", {"python": "/opt/p/bin/python"}))
    [path] = ready["setup_commands"]
    assert ".bashrc" in path
    assert ready["head_setup_commands"] == []


@pytest.mark.parametrize(
    ("asked", "aws", "gcp"),
    [
        ({"cpus_per_node": 2, "memory_gib_per_node": 4}, "c7i.large", "n2-standard-2"),
        ({"cpus_per_node": 3, "memory_gib_per_node": 16}, "m7i.xlarge", "n2-standard-4"),
        ({"gpus_per_node": 1}, "g4dn.xlarge", "g2-standard-4"),
        ({"gpus_per_node": 1, "accelerator_type": "L4"}, "g6.xlarge", "g2-standard-4"),
        ({"gpus_per_node": 2, "accelerator_type": "L4"}, "g6.12xlarge", "g2-standard-24"),
        ({"gpus_per_node": 8, "accelerator_type": "H100"}, "p5.48xlarge", "a3-highgpu-8g"),
    ],
)
def test_the_smallest_machine_that_fits_is_chosen(
    asked: dict[str, Any], aws: str, gcp: str
) -> None:
    assert machine_for(spec_of("aws", **asked), "aws").name == aws
    assert machine_for(spec_of("gcp", **asked), "gcp").name == gcp


def test_a_machine_that_is_not_known_is_to_be_named() -> None:
    asked = {"gpus_per_node": 1, "accelerator_type": "B300"}
    with pytest.raises(UsageError, match=r"1 B300 GPUs; ask for less, .* ray_up\.machine_type"):
        rendered(spec_of("gcp", **asked))
    plain = plain_of(spec_of("gcp", {"machine_type": "new-1"}, **asked))
    worker = plain["available_node_types"]["worker"]
    assert worker["node_config"]["machineType"] == "new-1"
    assert worker["resources"] == {"CPU": 2, "GPU": 1, "accelerator_type:B300": 1}


@pytest.mark.parametrize(
    ("provider", "ray_up", "fields", "said"),
    [
        ("aws", {"region": None}, {}, "provider = aws needs region"),
        ("gcp", {"zone": None, "project_id": None}, {}, "needs zone and project_id"),
        ("on-premises", {"hosts": ()}, {}, "needs hosts"),
        ("on-premises", {"hosts": ("a", "b", "a")}, {}, "hosts has a twice"),
        ("on-premises", {}, {"nodes": 4}, r"nodes = 4, and ray_up\.hosts has 3"),
        ("on-premises", {"hosts": ("a", "-oProxyCommand=id")}, {}, "hosts"),
        ("on-premises", {"ssh_user": "-oProxyCommand=id"}, {}, "ssh_user"),
        ("on-premises", {"cluster_name": "a b"}, {}, "cluster_name"),
        ("on-premises", {"python": "bin/python"}, {}, "has to be absolute"),
        ("on-premises", {"python": "/a:b/python"}, {}, "without ':'"),
        ("aws", {}, {"ray": {}}, r"needs ray\.token_file"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(
    provider: str, ray_up: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of(provider, ray_up, **fields)


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        *way, last = path
        for name in way:
            plain = plain[name]
        del plain[last]

    return change


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        *way, last = path
        for name in way:
            plain = plain[name]
        plain[last] = value

    return change


def instead(old: str, new: str, place: str = "head") -> Callable[[dict[str, Any]], None]:
    def change(plain: dict[str, Any]) -> None:
        commands = plain[f"{place}_start_ray_commands"]
        assert any(old in command for command in commands)
        plain[f"{place}_start_ray_commands"] = [each.replace(old, new) for each in commands]

    return change


WORKER = ("available_node_types", "worker")
NODE = (*WORKER, "node_config")


@pytest.mark.parametrize(
    ("provider", "change", "said"),
    [
        ("aws", without("cluster_name"), "no cluster_name"),
        ("aws", without("idle_timeout_minutes"), "no idle_timeout_minutes"),
        ("aws", put("azure", "provider", "type"), r"provider\.type = azure"),
        ("aws", without("provider", "region"), r"provider\.region is missing"),
        ("gcp", without("provider", "project_id"), r"provider\.project_id is missing"),
        ("aws", without("available_node_types"), "no available_node_types"),
        ("aws", put("boss", "head_node_type"), "head_node_type = boss"),
        ("aws", put(5, *WORKER, "min_workers"), "worker: min_workers is more than max_workers"),
        ("aws", put(9, *WORKER, "max_workers"), "worker: max_workers is more than the 2"),
        ("aws", without(*NODE, "InstanceType"), r"worker: no node_config\.InstanceType"),
        ("aws", without(*NODE, "ImageId"), r"worker: no node_config\.ImageId"),
        ("aws", put("key.pem", "auth", "ssh_private_key"), "head: .*KeyName"),
        ("aws", without(*NODE, "InstanceInitiatedShutdownBehavior"), "would be kept"),
        ("gcp", without(*NODE, "machineType"), r"worker: no node_config\.machineType"),
        ("gcp", without(*NODE, "disks"), "needs one disk with boot"),
        ("gcp", put([{"boot": True}], *NODE, "disks"), "sourceImage"),
        ("gcp", put([{"boot": True}], *NODE, "disks"), "autoDelete"),
        ("gcp", without(*NODE, "scheduling"), "maxRunDuration"),
        ("on-premises", put(["b", "b"], "provider", "worker_ips"), "b is named twice"),
        ("on-premises", put(["a", "b"], "provider", "worker_ips"), "a is named twice"),
        ("on-premises", put(1, "max_workers"), "min_workers is more than max_workers"),
        ("on-premises", put(3, "max_workers"), "name more hosts"),
        ("on-premises", instead("autoscaler_v2=0", "autoscaler_v2=1"), "one of the workers only"),
        ("aws", put({}, "file_mounts"), "no token"),
        ("aws", instead("AUTH_MODE=token", "X=y"), "token in head_start"),
        ("aws", instead("AUTH_MODE=token", "X=y", "worker"), "token in worker_start"),
        ("aws", without("worker_start_ray_commands"), "token in worker_start"),
        ("aws", instead("--head", ""), "no `ray start --head`"),
        ("aws", instead("--autoscaling-config", "--no"), "start no workers"),
        ("aws", instead("RAY_HEAD_IP", "HEAD", "worker"), "do not know the head"),
        ("aws", instead("host=127.0.0.1", "host=0.0.0.0"), r"listen on 0\.0\.0\.0"),
        ("aws", instead("host=127.0.0.1", "host '::'"), "listen on ::"),
        ("aws", instead("unset OMP_NUM_THREADS", "true", "worker"), "one thread"),
    ],
)
def test_what_ray_does_not_see_is_found(
    provider: str, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    plain = plain_of(spec_of(provider))
    change(plain)
    found = violations(yaml.safe_dump(plain))
    assert any(re.search(said, line) for line in found), found


@pytest.mark.parametrize("text", ["", "[]", "a: [", "- a"])
def test_what_is_no_file_of_that_kind_is_told(text: str) -> None:
    [line] = violations(text)
    assert line.startswith("no ")


@settings(max_examples=100, deadline=None)
@given(key=NASTY, token=NASTY, value=NASTY)
def test_paths_and_values_reach_ray_as_they_are(key: str, token: str, value: str) -> None:
    spec = spec_of(
        "on-premises",
        {"ssh_private_key": f"/keys/{key}"},
        ray={"token_file": f"/tokens/{token}"},
        environment={"ASKED": value},
    )
    text = rendered(spec)
    assert violations(text) == []
    plain = validated(yaml.safe_load(text))
    assert plain["auth"]["ssh_private_key"] == str(Path(f"/keys/{key}"))
    assert plain["file_mounts"] == {"~/.ray/auth_token": str(Path(f"/tokens/{token}"))}


@settings(max_examples=40, deadline=None)
@given(
    value=NASTY,
    folder=st.text(st.characters(codec="utf-8", exclude_characters="\0\n:"), max_size=20),
)
def test_a_shell_sees_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, value: str, folder: str
) -> None:
    """The start command in a real bash, up to where it would start Ray; then the PATH it set."""
    python = Path("/opt") / f"x{folder.replace('/', '')}" / "python"
    spec = spec_of("on-premises", {"python": python}, environment={"ASKED": value})
    plain = plain_of(spec)
    start = plain["worker_start_ray_commands"][1]
    before, _, after = start.rpartition("; rm -f ")
    home = tmp_path_factory.mktemp("home")
    [path] = plain["setup_commands"]
    # Twice, as `ray up` does on hosts that are up: the line is there once.
    script = f'{path}\n{path}\n. ~/.bashrc\n{before}\nprintf \'%s\\0\' "$ASKED" "$PATH"'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    seen, path_seen, _ = done.stdout.split(b"\0")
    assert seen == value.encode()
    assert path_seen == f"{python.parent}:/usr/bin:/bin".encode()
    assert (home / ".bashrc").read_bytes().count(b"\n") == 1
    # The program is one word, whatever its folder is called.
    words = after.partition("KILL 0' sh ")[2].partition(" --block")[0]
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True
    )
    assert done.stdout == f"{python.parent}/ray\0start\0".encode()
