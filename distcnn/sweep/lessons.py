"""What a search that learns is told of the trials before."""

from __future__ import annotations

import math

from distcnn.sweep.config import SweepConfig
from distcnn.sweep.search import Search, Told
from distcnn.sweep.trial import Trial

# How far the trials that a search learns from lie behind, in sets of trials at a time: the same
# ones whichever of the newer ones happen to have ended.
_LAG = 2


class Lessons:
    """The values and scores of trials that are over, in an order that chance does not decide.

    That is the order of their numbers, for which a new trial may have to wait. Where trials differ
    much in length, since some are stopped early, that would keep processes waiting: there it is the
    order of their ends.
    """

    def __init__(self, search: Search, config: SweepConfig, at_a_time: int) -> None:
        """Begin with nothing."""
        self.told: list[Told] = []
        """What the search may learn from."""
        self._is_wanted = search.learns
        self._is_in_order = config.scheduler.name == "none"
        self._config = config
        self._lag = _LAG * at_a_time
        self._over: dict[int, Trial] = {}

    def take(self, trial: Trial) -> None:
        """A trial is over."""
        if self._is_wanted:
            self._over[trial.number] = trial
            if not self._is_in_order:
                self._tell(trial.number)

    def suffice_for(self, number: int) -> bool:
        """Whether all is told that trial `number` is to learn from."""
        if not self._is_wanted or not self._is_in_order:
            return True
        while len(self.told) < number - self._lag:
            following = len(self.told) + 1
            if following not in self._over:
                return False
            self._tell(following)
        return True

    def _tell(self, number: int) -> None:
        trial = self._over.pop(number)
        score = trial.score(self._config)
        self.told.append((trial.values, score if score < math.inf else None))
