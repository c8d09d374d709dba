"""Cluster specs: from files, overrides and options, with all mistakes told at once."""

import pytest

from distcnn.cluster import spec_file
from distcnn.config_file import ConfigError


def test_options_stand_over_overrides_and_these_over_a_file(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("nodes: 2\ncpus_per_node: 8\nslurm: {partition: debug, account: me}\n")
    overrides = ["cluster.cpus_per_node=16", "cluster.slurm.partition=gpu"]
    spec = spec_file.load(file, overrides, {"target": "slurm", "nodes": 4})
    assert (spec.target, spec.nodes, spec.cpus_per_node) == ("slurm", 4, 16)
    assert (spec.slurm.partition, spec.slurm.account) == ("gpu", "me")


def test_overrides_are_told_apart_by_their_first_word():
    words = ["training.epochs=2", "cluster.nodes=2", "seed=1", "cluster.ray.address=h:1"]
    assert spec_file.split(words) == ([words[0], words[2]], [words[1], words[3]])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cluster.node=2", "node (command line): no such field; did you mean nodes?"),
        ("cluster.slurm.partition=a b", "slurm.partition"),
        ("cluster.image=x;reboot", "image"),
        ("cluster.accelerator_type=A100", "without GPUs; set gpus_per_node"),
        ("cluster.max_seconds=30", "leaves no time before the grace_seconds"),
        ("cluster.nodes=2", "target = local is one machine"),
        ("cluster.target=kuberay", "needs cluster.image"),
        ("cluster.environment={A=B: c}", "environment"),
        ("cluster.secrets=[A B]", "secrets"),
        ("cluster.environment={PYTHONPATH: /x}", "PYTHONPATH: set by distcnn itself"),
        ("cluster.secrets=[RAY_AUTH_MODE]", "RAY_AUTH_MODE: set by distcnn itself"),
        ("cluster.ray.address=ftp://head", "ray.address"),
    ],
)
def test_a_mistake_is_told_with_its_field(override, told):
    with pytest.raises(ConfigError, match="1 error in the cluster spec") as error:
        spec_file.load(None, [override], {})
    assert told in str(error.value)


def test_each_gpu_has_a_core_unless_somebody_says_otherwise():
    assert spec_file.load(None, ["cluster.gpus_per_node=8"], {}).cpus_per_node == 8
    given = ["cluster.gpus_per_node=8", "cluster.cpus_per_node=4"]
    assert spec_file.load(None, given, {}).cpus_per_node == 4


def test_a_variable_is_a_secret_or_is_not():
    with pytest.raises(ConfigError, match="in environment and in secrets"):
        spec_file.load(None, ["cluster.environment={KEY: shown}", "cluster.secrets=[KEY]"], {})
