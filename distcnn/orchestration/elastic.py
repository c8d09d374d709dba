"""How many workers a run has, and on which nodes: those of an elastic one come and go with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distcnn.cluster.request import NODE_ID, Request, capacity
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.orchestration.inspection import Inspection
from distcnn.orchestration.room import reserved
from distcnn.orchestration.session import alive_nodes, draining_nodes, free_nodes
from distcnn.progress import Watcher

_LOOK_EVERY_SECONDS = 0.5
# Ray learns so late, at most, that what ended workers had is free again.
_SETTLE_SECONDS = 5.0
# For nodes whose workers are gone: Ray itself may take 15 s to learn that one is gone with them.
_SIGN_OF_LIFE_SECONDS = 6.0


class Roster:
    """The nodes on which a run's workers may be; how many there is room for.

    A node that comes is looked at before it gets a worker: a run that trains is not interrupted for
    a node on which it would fail.

    Args:
        config: resolved.
        nodes: which of them are fit.
        watcher: told that workers are waited for.
    """

    def __init__(self, config: RunConfig, nodes: Inspection, watcher: Watcher) -> None:
        self._config = config
        self._workers = config.workers
        self._request = Request.of(config.workers)
        self._nodes = nodes
        self._watcher = watcher
        self._growth = _Growth()
        self._is_first_wait = True

    def wait_for_room(self, limit_seconds: float, check: Callable[[], None]) -> RunConfig:
        """Wait until there is room for as many workers as the run needs.

        Args:
            limit_seconds: how long to wait.
            check: called while waiting; what it raises ends that.

        Returns:
            The config of those that are to be started.

        Raises:
            NoRoomError: it did not become free in time.
            UserError: it never can, as the cluster's autoscaler says; the driver cannot write to
                the storage.
        """
        began = time.monotonic()
        while True:
            left_out = self._left_out()
            try:
                # Ray Train reserves it again, for the workers themselves.
                with reserved(
                    replace(self._request, without=left_out),
                    limit_seconds,
                    partial(self._check_nodes, left_out, check),
                    self._watcher,
                    has_run=not self._is_first_wait,
                    waited_seconds=time.monotonic() - began,
                ) as places:
                    if not self._workers.is_elastic:
                        self._is_first_wait = False
                        return self._config
                    if self._are_fit(places, check):
                        count = self._settle(check)
                        self._growth.begin(count)
                        self._is_first_wait = False
                        return self._config_with(count)
            except _NodesChangedError:
                continue
            time.sleep(_LOOK_EVERY_SECONDS)  # A node of theirs is unfit, or gone.

    def look_for_losses(self, nodes: set[str]) -> bool:
        """Look again at nodes whose workers are gone; whether one of them gives no sign of life.

        Where workers do not come and go with the nodes, nobody looks.

        Args:
            nodes: by their id; empty where it is not known which they were.
        """
        if not self._workers.is_elastic:
            return False
        doubted = nodes or set(self._nodes.fit)
        self._nodes.doubt(doubted)
        deadline = time.monotonic() + _SIGN_OF_LIFE_SECONDS
        while self._nodes.asked & doubted and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_SECONDS)
            self._nodes.take_answers()
        return not self._nodes.fit.issuperset(doubted)

    def wants_more_than(self, count: int) -> bool:
        """Whether there has been room for more workers twice in a row."""
        if not self._workers.is_elastic or not self._growth.is_time_to_look():
            return False
        try:
            has_room = self._num_more() > 0
        except (OSError, UserError) as error:  # Those that train go on: they may be better off.
            self._watcher.note(f"New nodes cannot be looked at for now: {error}")
            return False
        return count < self._workers.count and self._growth.is_to_come(has_room=has_room)

    def _left_out(self) -> frozenset[str]:
        return self._nodes.unfit | self._nodes.asked

    def _check_nodes(self, left_out: frozenset[str], check: Callable[[], None]) -> None:
        check()
        self._nodes.take_answers()
        if self._left_out() != left_out:
            raise _NodesChangedError

    def _num_more(self) -> int:
        """How many further workers there is room for, on nodes that are known to be fit."""
        self._nodes.take_answers()
        free = free_nodes()
        for node in free:
            if capacity(self._request, [node]):
                self._nodes.ask(node)
        return capacity(self._request, [node for node in free if node.id in self._nodes.fit])

    def _settle(self, check: Callable[[], None]) -> int:
        """How many there is room for, beside the least, which is reserved."""
        most, least = self._workers.count, self._workers.least
        silent = self._left_out()
        gone = draining_nodes() | silent
        staying = [node for node in alive_nodes() if node.id not in gone]
        hoped_for = min(most, capacity(self._request, staying))
        deadline = time.monotonic() + _SETTLE_SECONDS
        count = 0
        while True:
            before, count = count, min(most, least + self._num_more())
            is_late = time.monotonic() > deadline
            # At the start of a run all nodes are heard; later on, those that train wait for nobody.
            is_listening = not self._nodes.asked <= silent and (self._is_first_wait or not is_late)
            # What Ray tells is a little late: only what it tells twice is believed.
            if not is_listening and (is_late or hoped_for <= count == before):
                return min(before, count)
            check()
            time.sleep(_LOOK_EVERY_SECONDS)

    def _are_fit(self, places: PlacementGroup, check: Callable[[], None]) -> bool:
        """Look at those nodes of the places that are new; whether all are fit."""
        nodes = {node.id: node for node in alive_nodes()}
        where: dict[int, str] = placement_group_table(places)["bundles_to_node_id"]
        for index, node_id in where.items():
            if node_id in nodes:
                place = PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=index)
                self._nodes.ask(nodes[node_id], place)
        while self._nodes.asked.intersection(where.values()):
            check()
            time.sleep(_LOOK_EVERY_SECONDS)
            self._nodes.take_answers()
        return self._nodes.fit.issuperset(where.values())

    def _config_with(self, count: int) -> RunConfig:
        # A node that comes from now on has not been looked at.
        fit = sorted(node.id for node in alive_nodes() if node.id in self._nodes.fit)
        selector = {**self._workers.label_selector, NODE_ID: f"in({','.join(fit)})"}
        return self._config.with_values(
            workers={"count": count, "min": None, "max": None, "label_selector": selector}
        )


class _NodesChangedError(Exception):
    """What is waited for has to be asked for anew: other nodes are left out by now."""


class _Growth:
    """When to look for more room: less often once the room that was seen was gone again."""

    _FIRST_PAUSE_SECONDS = 3.0
    _LONGEST_PAUSE_SECONDS = 24.0

    def __init__(self) -> None:
        self._pause = self._FIRST_PAUSE_SECONDS
        self._next_look = 0.0
        self._has_seen_room = False
        self._is_expected = False
        self._count = 0

    def is_time_to_look(self) -> bool:
        """Whether as much time as there should be has gone by since the last look."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + self._FIRST_PAUSE_SECONDS
        return True

    def is_to_come(self, *, has_room: bool) -> bool:
        """Take what a look has seen; room counts when it is seen twice, others may take it."""
        self._is_expected = has_room and self._has_seen_room
        self._has_seen_room = has_room
        return self._is_expected

    def begin(self, count: int) -> None:
        """Begin anew, with so many workers."""
        came_to_nothing = self._is_expected and count <= self._count
        longer = min(2 * self._pause, self._LONGEST_PAUSE_SECONDS)
        self._pause = longer if came_to_nothing else self._FIRST_PAUSE_SECONDS
        self._next_look = time.monotonic() + self._pause
        self._has_seen_room = self._is_expected = False
        self._count = count
