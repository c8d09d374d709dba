"""From a cluster file, `cluster.field=value` overrides and options to a `ClusterSpec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distcnn import config_file
from distcnn.cluster.spec import ClusterSpec
from distcnn.config_file import COMMAND_LINE, Draft
from distcnn.location import Location

_PREFIX = "cluster."


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of a job's config, and those of its cluster, which begin with `cluster.`."""
    of_cluster = [override for override in overrides if override.startswith(_PREFIX)]
    return [override for override in overrides if override not in of_cluster], of_cluster


def load(
    path: Location | None, overrides: Sequence[str], options: Mapping[str, Any]
) -> ClusterSpec:
    """The spec that a file, overrides and options give; all of them may be left out.

    Args:
        path: a YAML file with the spec's fields.
        overrides: `cluster.field=value`, `cluster.section.field=value`.
        options: fields that were given by options of their own, which win.

    Raises:
        ConfigError: with everything that is wrong.
    """
    draft = Draft(ClusterSpec)
    if path is not None:
        draft.merge(config_file.read_yaml(path), str(path))
    for override in overrides:
        field = override.removeprefix(_PREFIX)
        draft.merge(config_file.parse_override(field), COMMAND_LINE)
    draft.merge(options, COMMAND_LINE)
    gpus = draft.values.get("gpus_per_node")
    if "cpus_per_node" not in draft.values and isinstance(gpus, int):
        # Each GPU has a worker, which has a core.
        draft.values["cpus_per_node"] = max(ClusterSpec().cpus_per_node, gpus)
    checked = draft.check()
    if isinstance(checked, list):
        return config_file.refuse(checked, "cluster spec")
    return checked
