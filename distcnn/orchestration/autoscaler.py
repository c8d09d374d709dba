"""What the autoscaler of a cluster tells: whether it may add nodes, and what it can never add.

Ray has two. The newer one (that of `ray up`, by default) names the placement groups that it
can never make room for; it also runs on clusters that do not scale, and names them there. The older
one only tells how it calls the kinds of its nodes; what it cannot add is waited for in vain.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.worker import global_worker
from ray.core.generated import autoscaler_pb2
from ray.util.placement_group import PlacementGroup

# How the older one calls the kind of a node where there is nothing that it could add.
_NOT_ITS_OWN = re.compile(r"node_[0-9a-f]{40,}")
# In which the autoscaler of a cluster that has just been started makes its first report.
_FIRST_REPORT_SECONDS = 15.0
_PAUSE_SECONDS = 0.5
# Ray's own, which a node always has some part of in use.
_ALWAYS_IN_USE = ("memory", "object_store_memory")


def may_add_nodes() -> bool:
    """Whether the cluster may grow, as far as can be told before something waits for it."""
    deadline = time.monotonic() + _FIRST_REPORT_SECONDS
    while time.monotonic() < deadline:
        if _status().autoscaling_state.autoscaler_state_version > 0:
            return True
        kinds = _kinds_of_the_older_one()
        if kinds:
            return not all(_NOT_ITS_OWN.fullmatch(kind) for kind in kinds.values())
        time.sleep(_PAUSE_SECONDS)
    return False


def can_never_place(group: PlacementGroup) -> bool:
    """Whether the autoscaler has found that there can be no room for what waits.

    What others hold, or wait for too, may become free: as long as they do, nothing is impossible.
    """
    name = f"{group.id.hex()}:"
    status = _status()
    now = status.cluster_resource_state
    others_wait = bool(now.pending_resource_requests) or any(
        not each.details.startswith(name) for each in now.pending_gang_resource_requests
    )
    refused = status.autoscaling_state.infeasible_gang_resource_requests
    return (
        not others_wait
        and not any(_is_in_use(node) for node in now.node_states)
        and any(each.details.startswith(name) for each in refused)
    )


def _is_in_use(node: Any) -> bool:
    free = node.available_resources
    return any(
        free.get(name, 0) < amount
        for name, amount in node.total_resources.items()
        if name not in _ALWAYS_IN_USE
    )


def _gcs() -> Any:
    worker: Any = global_worker
    return worker.gcs_client


def _status() -> Any:
    """What the newer one has told last; its version is 0 where there is none."""
    messages: Any = autoscaler_pb2
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(_gcs().get_cluster_status())
    return reply


def _kinds_of_the_older_one() -> Mapping[str, str]:
    """What it calls the kinds of the nodes; empty where there is none, or no report of it yet."""
    status = _gcs().internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode())
    report = json.loads(status).get("autoscaler_report") if status else None
    return (report or {}).get("node_type_mapping") or {}
