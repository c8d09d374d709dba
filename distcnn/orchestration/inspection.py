"""Which nodes are fit for a run's workers: those that come while it goes on are looked at first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distcnn.cluster.request import Node, Request
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.orchestration.preflight import Look, unanswered, why_unfit
from distcnn.orchestration.session import alive_nodes
from distcnn.training.provenance import Ground

# For a node to answer: it has to start Python, from a slow disk perhaps.
_ANSWER_SECONDS = 60.0
# Then what is unfit is looked at again: storage that was away may be back.
_UNFIT_FOR_SECONDS = 60.0


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
    node: Node
    since: float


class Inspection:
    """Looks at nodes from a worker's place, without waiting for their answers.

    Args:
        standard: see there.
        fit: the nodes that have been looked at, by their id.
        on_unfit: told a node's host, and why none of its workers can be there.
    """

    def __init__(
        self, standard: Standard, fit: Iterable[str], on_unfit: Callable[[str, str], None]
    ) -> None:
        self._standard = standard
        self._resources = Request.of(standard.config.workers).resources
        self._on_unfit = on_unfit
        self.fit = set(fit)
        self._unfit: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        self._asked: dict[Any, _Asked] = {}
        self._look: Look | None = None

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

    @property
    def asked(self) -> frozenset[str]:
        """The nodes whose answer is waited for, by their id."""
        return frozenset(asked.node.id for asked in self._asked.values())

    @property
    def unfit(self) -> frozenset[str]:
        """The nodes that no worker can be on for now, by their id."""
        now = time.monotonic()
        return frozenset(node_id for node_id, until in self._unfit.items() if now < until)

    def ask(self, node: Node, place: Any = None) -> None:
        """Begin to look at a node that nothing is known of.

        Args:
            node: which.
            place: Ray's scheduling strategy, where a place is held there; else there has to be room
                for one.

        Raises:
            UserError: the driver cannot write to the storage.
        """
        if node.id in self.fit | self.unfit | self.asked:
            return
        self._look = self._look or Look(self._standard.config, self._standard.storage)
        where = place or NodeAffinitySchedulingStrategy(node.id, soft=False)
        answer = self._look.at(node, where, self._resources)
        self._asked[answer] = _Asked(node, time.monotonic())

    def doubt(self, nodes: Iterable[str]) -> None:
        """Look again at nodes that were fit."""
        self.fit.difference_update(nodes)
        for node in alive_nodes():
            if node.id in set(nodes):
                self.ask(node)

    def take_answers(self) -> None:
        """Learn what has been seen by now."""
        for answer, asked in list(self._asked.items()):
            if ray.wait([answer], timeout=0)[0]:
                self._judge(asked.node, self._why_unfit(asked.node, answer))
            elif time.monotonic() - asked.since > _ANSWER_SECONDS:
                ray.cancel(answer, force=True)
                self._judge(asked.node, f"no answer within {_ANSWER_SECONDS:.0f} s")
            else:
                continue
            del self._asked[answer]

    def _judge(self, node: Node, reason: str) -> None:
        if not reason:
            self.fit.add(node.id)
            return
        self._unfit[node.id] = time.monotonic() + _UNFIT_FOR_SECONDS
        is_new = (node.id, reason) not in self._told
        if is_new and node.id in {alive.id for alive in alive_nodes()}:
            self._told.add((node.id, reason))
            self._on_unfit(node.host, reason)

    def _why_unfit(self, node: Node, answer: Any) -> str:
        assert self._look is not None
        standard = self._standard
        try:
            facts = self._look.facts(node, answer)
            return why_unfit(standard.config, facts, standard.ground, standard.storage)
        except RayError as error:
            return unanswered(error)
        except (OSError, UserError) as error:
            return f"what it wrote to {standard.storage} cannot be looked for: {error}"
