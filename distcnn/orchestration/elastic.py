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
# For a node to answer: it has to start Python, from a slow disk perhaps.
_ANSWER_SECONDS = 60.0
# For nodes whose workers are gone: Ray itself may take 15 s to learn that one is gone with them.
_SIGN_OF_LIFE_SECONDS = 6.0
# Room for more workers has to be seen twice: others may be about to take it.
_LOOK_FOR_MORE_EVERY_SECONDS = 3.0
# Where it was gone once the workers had stopped, it is looked for less and less often.
_PAUSES_GROW_BY = 4.0
_LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True)
class Standard:
    """What a run's nodes are measured by."""

    config: RunConfig
    """Resolved."""
    ground: Ground
    storage: Location
    """Where the run is kept."""


@dataclass(frozen=True)
class _Asked:
    """A node that is being looked at."""

    node: Node
    since: float
    has_room: bool
    """Whether a place is held there: no answer is then one too."""


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
        self._asked: dict[Any, _Asked] = {}
        self._look: Look | None = None
        self._watcher = watcher
        self._on_unfit = on_unfit
        self._num_waits = 0
        self._last_count = 0
        self._wanted_more = False
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
        self._num_waits += 1
        while True:
            self._hear_as_many_as_are_needed(check)
            # Ray Train reserves it again, for the workers themselves.
            with reserved(
                self._without(self._unfit | self._asked_ids),
                limit_seconds,
                check,
                self._watcher,
                has_run=self._num_waits > 1,
            ) as places:
                if not self._workers.is_elastic:
                    return config
                if self._are_fit(places, check):
                    count = self._settled(check)
                    self._pause_until_more_is_looked_for(count)
                    return self._config_with(count)

    def has_lost_one_of(self, nodes: set[str]) -> bool:
        """Look again at nodes whose workers are gone; whether one of them gives no sign of life.

        Where workers do not come and go with the nodes, nobody asks.
        """
        if not self._workers.is_elastic:
            return False
        self._fit -= nodes
        for node in alive_nodes():
            if node.id in nodes:
                self._ask(node)
        deadline = time.monotonic() + _SIGN_OF_LIFE_SECONDS
        while self._asked and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_SECONDS)
            self._take_answers()
        return not self._fit.issuperset(nodes)

    def wants_more_than(self, count: int) -> bool:
        """Whether there has been room for more workers twice in a row."""
        now = time.monotonic()
        if not self._workers.is_elastic or count >= self._workers.count:
            return False
        if now < self._look_again_at:
            return False
        self._look_again_at = now + _LOOK_FOR_MORE_EVERY_SECONDS
        had_room, self._has_seen_room = self._has_seen_room, self._num_more() > 0
        self._wanted_more = had_room and self._has_seen_room
        return self._wanted_more

    def _pause_until_more_is_looked_for(self, count: int) -> None:
        if self._wanted_more and count <= self._last_count:
            self._pause = min(self._pause * _PAUSES_GROW_BY, _LONGEST_PAUSE_SECONDS)
        else:
            self._pause = _LOOK_FOR_MORE_EVERY_SECONDS
        self._last_count = count
        self._look_again_at = time.monotonic() + self._pause
        self._wanted_more = self._has_seen_room = False

    def _num_more(self) -> int:
        """How many further workers there is room for, on nodes that are known to be fit."""
        self._take_answers()
        free = free_nodes()
        for node in free:
            if self._is_new(node.id) and capacity(self._request, [node]):
                self._ask(node)
        return capacity(self._request, [node for node in free if node.id in self._fit])

    def _settled(self, check: Callable[[], None]) -> int:
        """How many there is room for, beside the least, which is reserved."""
        most, least = self._workers.count, self._workers.least
        silent = self._asked_ids
        gone = draining_nodes() | self._unfit | silent
        staying = [node for node in alive_nodes() if node.id not in gone]
        hoped_for = min(most, capacity(self._request, staying))
        deadline = time.monotonic() + _SETTLE_SECONDS
        count = 0
        while True:
            before, count = count, min(most, least + self._num_more())
            # What Ray tells is a little late: only what it tells twice is believed.
            is_late = time.monotonic() > deadline
            is_waiting = count < hoped_for or not self._asked_ids <= silent
            if count == before and (is_late or not is_waiting):
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
        while self._asked_ids.intersection(where.values()):
            check()
            time.sleep(_LOOK_EVERY_SECONDS)
            self._take_answers()
        return self._fit.issuperset(where.values())

    def _hear_as_many_as_are_needed(self, check: Callable[[], None]) -> None:
        """Wait for those that have been asked, where the run cannot go on without them."""
        while self._asked:
            fit = [node for node in alive_nodes() if node.id in self._fit]
            if capacity(self._request, fit) >= self._workers.least:
                return
            check()
            time.sleep(_LOOK_EVERY_SECONDS)
            self._take_answers()

    @property
    def _asked_ids(self) -> set[str]:
        return {asked.node.id for asked in self._asked.values()}

    def _is_new(self, node_id: str) -> bool:
        return node_id not in self._fit | self._unfit | self._asked_ids

    def _ask(self, node: Node, place: PlacementGroupSchedulingStrategy | None = None) -> None:
        self._look = self._look or Look(self._standard.config, self._standard.storage)
        where = place or NodeAffinitySchedulingStrategy(node.id, soft=False)
        answer = self._look.at(node, where, self._request.resources)
        self._asked[answer] = _Asked(node, time.monotonic(), has_room=place is not None)

    def _take_answers(self) -> None:
        for answer, asked in list(self._asked.items()):
            has_answered = bool(ray.wait([answer], timeout=0)[0])
            if has_answered or time.monotonic() - asked.since > _ANSWER_SECONDS:
                del self._asked[answer]
                if has_answered or asked.has_room:
                    self._judge(asked.node, self._why_unfit(asked.node, answer))
                else:  # Others have taken the room: it is asked again once there is some.
                    ray.cancel(answer)

    def _judge(self, node: Node, reason: str) -> None:
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
        return replace(self._request, without=frozenset(nodes))

    def _config_with(self, count: int) -> RunConfig:
        strangers = {node.id for node in alive_nodes()} - self._fit
        selector = self._without(strangers).selector
        return self._standard.config.with_values(
            workers={"count": count, "min": None, "max": None, "label_selector": selector}
        )
