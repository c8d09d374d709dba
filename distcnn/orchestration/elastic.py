"""How many workers a run has, and on which nodes: those of an elastic one come and go with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from distcnn.config import RunConfig
from distcnn.location import Location
from distcnn.orchestration.preflight import Look, unanswered, why_unfit
from distcnn.orchestration.request import Node, Request, capacity
from distcnn.orchestration.room import reserved
from distcnn.orchestration.session import alive_nodes, draining_nodes, free_nodes
from distcnn.progress import Watcher
from distcnn.training.provenance import Ground

# Ray learns so late, at most, that what ended workers had is free again.
_SETTLE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.5
# For a node to answer: it has to start Python, from a slow disk perhaps. One that does not, or
# whose room others took meanwhile, is left out.
_ANSWER_SECONDS = 60.0
# Room for more workers has to be seen twice: others may be about to take it.
_LOOK_FOR_MORE_EVERY_SECONDS = 3.0
# Where it was gone once the workers had stopped, it is looked for less and less often.
_PAUSES_GROW_BY = 4.0
_NODE_ID = "ray.io/node-id"


@dataclass(frozen=True)
class Standard:
    """What a run's nodes are measured by."""

    config: RunConfig
    """Resolved."""
    ground: Ground
    storage: Location
    """Where the run is kept."""


class Roster:
    """The nodes on which a run's workers may be; how many there is room for.

    A node that comes is looked at before it gets a worker, from such a worker's place: a run that
    trains is not interrupted for a node on which it would fail.

    Args:
        standard: see there.
        fit: the nodes that have been looked at, by their id.
        watcher: told that workers are waited for.
        on_unfit: told a node's host, and why none of its workers can be there.
    """

    def __init__(
        self,
        standard: Standard,
        fit: Iterable[str],
        watcher: Watcher,
        on_unfit: Callable[[str, str], None],
    ) -> None:
        self._standard = standard
        self._workers = standard.config.workers
        self._request = Request.of(self._workers)
        self._fit = set(fit)
        self._unfit: set[str] = set()
        self._asked: dict[Any, tuple[Node, float]] = {}
        self._look: Look | None = None
        self._watcher = watcher
        self._on_unfit = on_unfit
        self._num_waits = 0
        self._last_count = 0
        self._pause = _LOOK_FOR_MORE_EVERY_SECONDS
        self._look_again_at = 0.0
        self._has_seen_room = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._look is not None:
            self._look.close()

    def wait_for_room(self, limit_seconds: float, check: Callable[[], None]) -> RunConfig:
        """Wait until there is room for as many workers as the run needs.

        Args:
            limit_seconds: how long to wait.
            check: called while waiting; what it raises ends that.

        Returns:
            The config of those that are to be started.

        Raises:
            NoRoomError: it did not become free in time.
            UserError: it never can, as the cluster's autoscaler says.
        """
        config = self._standard.config
        deadline = time.monotonic() + limit_seconds
        self._num_waits += 1
        while True:
            # Ray Train reserves it again, for the workers themselves.
            with reserved(
                self._without(self._unfit),
                max(0.0, deadline - time.monotonic()),
                check,
                self._watcher,
                has_run=self._num_waits > 1,
            ) as places:
                if not self._workers.is_elastic:
                    return config
                if self._are_fit(places, check):
                    count = self._settled(check)
                    self._slow_down(has_grown=count > self._last_count)
                    self._last_count = count
                    return self._config_with(count)

    def wants_more_than(self, count: int) -> bool:
        """Whether there has been room for more workers twice in a row."""
        now = time.monotonic()
        if not self._workers.is_elastic or count >= self._workers.count:
            return False
        if now < self._look_again_at:
            return False
        self._look_again_at = now + _LOOK_FOR_MORE_EVERY_SECONDS
        had_room, self._has_seen_room = self._has_seen_room, self._num_more() > 0
        return had_room and self._has_seen_room

    def _slow_down(self, *, has_grown: bool) -> None:
        first = _LOOK_FOR_MORE_EVERY_SECONDS
        self._pause = first if has_grown else self._pause * _PAUSES_GROW_BY
        self._look_again_at = time.monotonic() + self._pause
        self._has_seen_room = False

    def _num_more(self) -> int:
        """How many further workers there is room for, on nodes that are known to be fit."""
        self._take_answers()
        free = free_nodes()
        for node in free:
            if self._is_new(node.id) and capacity(self._request, [node]):
                self._ask(node, NodeAffinitySchedulingStrategy(node.id, soft=False))
        return capacity(self._request, [node for node in free if node.id in self._fit])

    def _settled(self, check: Callable[[], None]) -> int:
        """How many there is room for, beside the least, which is reserved."""
        most, least = self._workers.count, self._workers.least
        gone = draining_nodes() | self._unfit
        staying = [node for node in alive_nodes() if node.id not in gone]
        hoped_for = min(most, capacity(self._request, staying))
        deadline = time.monotonic() + _SETTLE_SECONDS
        count = 0
        while True:
            before, count = count, min(most, least + self._num_more())
            # What Ray tells is a little late: only what it tells twice is believed.
            is_sure = count == before and not self._asked
            if is_sure and (count >= hoped_for or time.monotonic() > deadline):
                return count
            check()
            time.sleep(_LOOK_EVERY_SECONDS)

    def _are_fit(self, places: PlacementGroup, check: Callable[[], None]) -> bool:
        """Whether all nodes of the places are; those that are new are looked at."""
        nodes = {node.id: node for node in alive_nodes()}
        where: dict[int, str] = placement_group_table(places)["bundles_to_node_id"]
        for index, node_id in where.items():
            if self._is_new(node_id) and node_id in nodes:
                place = PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=index)
                self._ask(nodes[node_id], place)
        while self._asked:
            check()
            time.sleep(_LOOK_EVERY_SECONDS)
            self._take_answers()
        return self._fit.issuperset(where.values())

    def _is_new(self, node_id: str) -> bool:
        asked = {node.id for node, _ in self._asked.values()}
        return node_id not in self._fit | self._unfit | asked

    def _ask(self, node: Node, where: Any) -> None:
        self._look = self._look or Look(self._standard.config, self._standard.storage)
        answer = self._look.at(node, where, self._request.resources)
        self._asked[answer] = node, time.monotonic()

    def _take_answers(self) -> None:
        for answer, (node, since) in list(self._asked.items()):
            is_late = time.monotonic() - since > _ANSWER_SECONDS
            if is_late or ray.wait([answer], timeout=0)[0]:
                del self._asked[answer]
                reason = self._why_unfit(node, answer)
                (self._unfit if reason else self._fit).add(node.id)
                if reason and node.id in {alive.id for alive in alive_nodes()}:
                    self._on_unfit(node.host, reason)

    def _why_unfit(self, node: Node, answer: Any) -> str:
        assert self._look is not None
        try:
            facts = self._look.facts(node, answer)
        except RayError as error:
            return unanswered(error)
        standard = self._standard
        return why_unfit(standard.config, facts, standard.ground, standard.storage)

    def _without(self, nodes: set[str]) -> Request:
        if not nodes:
            return self._request
        others = {_NODE_ID: f"!in({','.join(sorted(nodes))})"}
        return replace(self._request, labels={**self._request.labels, **others})

    def _config_with(self, count: int) -> RunConfig:
        strangers = {node.id for node in alive_nodes()} - self._fit
        return self._standard.config.with_values(
            workers={
                **{"count": count, "min": None, "max": None},
                "label_selector": dict(self._without(strangers).labels),
            }
        )
