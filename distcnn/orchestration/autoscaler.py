"""What the autoscaler of a cluster tells: whether it may add nodes, and what it can never add.

Ray has two. The newer one (that of `ray up`, by default) names the placement groups that it
can never make room for; it also runs on clusters that do not scale, and names them there. The older
one only tells how it calls the kinds of its nodes; what it cannot add is waited for in vain.
"""

from __future__ import annotations

import json
from typing import Any

from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.worker import global_worker
from ray.core.generated import autoscaler_pb2
from ray.util.placement_group import PlacementGroup

# How the older one calls the kind of a node where there is nothing that it could add.
_NOT_ITS_OWN = "node_"


def may_add_nodes() -> bool:
    """Whether the cluster may grow, as far as can be told before something waits for it."""
    return _state().autoscaler_state_version > 0 or _older_may_add_nodes()


def can_never_place(group: PlacementGroup) -> bool:
    """Whether the autoscaler has found that there can be no room for what waits."""
    name = f"{group.id.hex()}:"
    return any(each.details.startswith(name) for each in _state().infeasible_gang_resource_requests)


def _gcs() -> Any:
    worker: Any = global_worker
    return worker.gcs_client


def _state() -> Any:
    """The newer one's `AutoscalingState`; its version is 0 where there is none."""
    messages: Any = autoscaler_pb2
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(_gcs().get_cluster_status())
    return reply.autoscaling_state


def _older_may_add_nodes() -> bool:
    status = _gcs().internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode())
    report = json.loads(status).get("autoscaler_report") if status else None
    kinds = (report or {}).get("node_type_mapping") or {}
    return any(not kind.startswith(_NOT_ITS_OWN) for kind in kinds.values())
