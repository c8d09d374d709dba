"""Which values the next trial gets: from a grid, by chance, or by what the trials before gave."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from distcnn.sweep.file import Sweep
from distcnn.sweep.space import Choice, Domain, Space, Steps, Values, draw, grid, grid_size

if TYPE_CHECKING:
    import optuna

Told = tuple[Values, float | None]
"""What a trial was given, and its score; None where it has none. Less is better."""


class Search(Protocol):
    """Proposes values; the same for the same seed and the same past."""

    @property
    def num_trials(self) -> int | None:
        """How many it can propose; None for no end."""
        ...

    @property
    def learns(self) -> bool:
        """Whether what trials gave bears on what it proposes."""
        ...

    def propose(self, number: int, told: Sequence[Told]) -> Values:
        """The values of trial `number`, from 1.

        Args:
            number: of the trial.
            told: what it may learn from; each call's begins with the last one's.
        """
        ...


def search_of(sweep: Sweep) -> Search:
    """The search that a sweep asks for."""
    config, space = sweep.config, sweep.space
    if config.search == "grid":
        return GridSearch(
            {field: domain for field, domain in space.items() if isinstance(domain, Choice)},
            config.num_trials,
        )
    if config.search == "random":
        return RandomSearch(space, config.seed, config.num_trials)
    return OptunaSearch(space, config.seed, config.num_trials)


class GridSearch:
    """Every combination, in order."""

    learns = False

    def __init__(self, space: dict[str, Choice], limit: int | None) -> None:
        size = grid_size(space)
        self.num_trials = size if limit is None else min(size, limit)
        self._space = space

    def propose(self, number: int, told: Sequence[Told]) -> Values:
        """The combination of that number."""
        return next(itertools.islice(grid(self._space), number - 1, None))


class RandomSearch:
    """Independent draws."""

    learns = False

    def __init__(self, space: Space, seed: int, num_trials: int | None) -> None:
        self.num_trials = num_trials
        self._space, self._seed = space, seed

    def propose(self, number: int, told: Sequence[Told]) -> Values:
        """A draw that depends on the seed and the number alone."""
        return draw(self._space, self._seed, number)


class OptunaSearch:
    """Optuna's tree-structured Parzen estimators; without a storage, and seeded for each trial.

    So a proposal depends on the seed, the number and what has been told, and a resumed sweep
    goes on as it would have: nothing of Optuna's has to be kept.
    """

    learns = True

    def __init__(self, space: Space, seed: int, num_trials: int | None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.num_trials = num_trials
        self._space, self._seed = space, seed
        self._study = optuna.create_study()
        self._distributions = {field: _distribution(domain) for field, domain in space.items()}
        self._num_told = 0

    def propose(self, number: int, told: Sequence[Told]) -> Values:
        """What the estimators expect most of."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        for values, score in told[self._num_told :]:
            self._tell(values, score)
        self._num_told = len(told)
        own_seed = random.Random(f"{self._seed} {number}").getrandbits(32)  # noqa: S311
        self._study.sampler = TPESampler(seed=own_seed)
        trial = self._study.ask(self._distributions)
        # It is told under its values once it has ended; this one was only asked for them.
        self._study.tell(trial, state=TrialState.FAIL)
        return {field: _value(domain, trial.params[field]) for field, domain in self._space.items()}

    def _tell(self, values: Values, score: float | None) -> None:
        if score is not None:
            self._study.add_trial(frozen_trial(self._space, values, score))


def frozen_trial(space: Space, values: Values, score: float) -> optuna.trial.FrozenTrial:
    """A trial that has ended, as Optuna has them."""
    from optuna.trial import TrialState, create_trial

    return create_trial(
        state=TrialState.COMPLETE,
        params={field: _parameter(domain, values[field]) for field, domain in space.items()},
        distributions={field: _distribution(domain) for field, domain in space.items()},
        value=score,
    )


def _distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(domain, Choice):
        return CategoricalDistribution(range(len(domain.values)))  # Lists are none of its own.
    if isinstance(domain, Steps):
        return IntDistribution(0, domain.count - 1)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _value(domain: Domain, parameter: object) -> object:
    if isinstance(domain, Choice):
        return domain.values[cast(int, parameter)]
    return domain.at(cast(int, parameter)) if isinstance(domain, Steps) else parameter


def _parameter(domain: Domain, value: Any) -> object:
    if isinstance(domain, Choice):
        return domain.values.index(value)
    return domain.index(value) if isinstance(domain, Steps) else value
