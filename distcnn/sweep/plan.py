"""What a sweep will do: which trials, how many at a time, about how long."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from distcnn.config import RunConfig
from distcnn.config_file import ConfigError, plain_to_yaml, to_yaml
from distcnn.sweep.config import SchedulerConfig
from distcnn.sweep.file import Sweep, to_plain
from distcnn.sweep.search import search_of
from distcnn.sweep.space import Values, describe
from distcnn.wording import counted, duration

_FORWARD_SHARE = 0.25  # What an image costs in validation, of what it costs in training.
# Beyond that, trials are like these on average.
_MOST_LOOKED_AT = 200


@dataclass(frozen=True)
class Plan:
    """How many trials, and how many of them at a time."""

    num_trials: int | None
    at_a_time: int
    seconds: float | None
    """All of it, about; None where nothing tells."""

    def __str__(self) -> str:
        trials = "trials until the time is spent"
        if self.num_trials is not None:
            trials = counted(self.num_trials, "trial")
        about = "" if self.seconds is None else f", about {rounded(self.seconds)}"
        return f"{trials}, {self.at_a_time} at a time{about}"


def rounded(seconds: float) -> str:
    """A time that is not known exactly: `14 minutes`."""
    minutes = round(seconds / 60)
    if minutes >= 100:
        return duration(60 * minutes)
    if minutes <= 1:
        return "a minute" if minutes == 1 else "half a minute or less"
    return f"{minutes} minutes"


def timed_configs(sweep: Sweep) -> list[RunConfig]:
    """The configs whose pace tells that of all trials: of the smallest and the largest network."""
    configs = sorted(_configs(sweep), key=lambda config: config.model.multiply_adds)
    smallest, largest = configs[0], configs[-1]
    return (
        [smallest, largest]
        if smallest.model.multiply_adds < largest.model.multiply_adds
        else [smallest]
    )


def plan(sweep: Sweep, at_a_time: int, seconds_per_image: Sequence[float]) -> Plan:
    """The plan.

    Args:
        sweep: what is searched.
        at_a_time: how many trials there is room for.
        seconds_per_image: what an image costs each of the `timed_configs`, see `pace`; empty if
            that is not known.
    """
    num_trials, budget = search_of(sweep).num_trials, sweep.config.time_budget_seconds
    if num_trials is None:
        return Plan(None, at_a_time, budget)
    together = min(at_a_time, num_trials)
    if not seconds_per_image:
        return Plan(num_trials, together, None)
    timed = [config.model.multiply_adds for config in timed_configs(sweep)]
    trials = [
        num_images(config) * float(np.interp(config.model.multiply_adds, timed, seconds_per_image))
        for config in _configs(sweep)
    ]
    trials += [sum(trials) / len(trials)] * (num_trials - len(trials))
    scheduler, num_epochs = sweep.config.scheduler, sweep.base.training.epochs
    if scheduler.name == "asha":
        share = _share_trained(scheduler, num_epochs, num_trials)
        # The last one trains alone, to its end; large networks are often the better ones.
        seconds = sum(trials) * share / together + max(trials) * (1 - 1 / together)
    else:
        seconds = _seconds_packed(trials, together)
    return Plan(num_trials, together, min(seconds, budget or math.inf))


def _seconds_packed(trials: Sequence[float], at_a_time: int) -> float:
    """Until the last trial ends, where each begins as soon as there is a place."""
    free_at = [0.0] * at_a_time
    for seconds in trials:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def _configs(sweep: Sweep) -> list[RunConfig]:
    """The trials' as far as they are known; the base's where none is."""
    configs: list[RunConfig] = []
    for values in known_trials(sweep, _MOST_LOOKED_AT):
        with suppress(ConfigError):  # It will fail as a trial.
            configs.append(sweep.run_config(values))
    return configs or [sweep.base]


def known_trials(sweep: Sweep, most: int) -> list[Values]:
    """The trials that a grid or a seed gives; none where the search learns."""
    search = search_of(sweep)
    if search.learns:
        return []
    count = most if search.num_trials is None else min(most, search.num_trials)
    return [search.propose(number, ()) for number in range(1, count + 1)]


def num_images(config: RunConfig) -> float:
    """How many images a run or a trial trains to its end; validation counts by what it costs."""
    num_trained = config.data.num_images_per_epoch
    num_evaluated = config.data.num_val * config.evaluation.num_views
    return (num_trained + _FORWARD_SHARE * num_evaluated) * config.training.epochs


def _share_trained(scheduler: SchedulerConfig, num_epochs: int, num_trials: int) -> float:
    """Of all epochs of all trials, about, where ASHA stops some."""
    factor, rung = scheduler.reduction_factor, float(scheduler.grace_epochs)
    # The first to come to a rung have little to be compared with, and mostly go on.
    unrivalled = sum(1 / place - 1 / factor for place in range(1, math.ceil(factor)))
    trained, left, epoch = 0.0, float(num_trials), 0.0
    while epoch < num_epochs:
        until = min(rung, float(num_epochs))
        trained += left * (until - epoch)
        epoch, rung, left = until, rung * factor, min(left, left / factor + unrivalled)
    return trained / (num_epochs * num_trials)


def render(sweep: Sweep) -> str:
    """What would be run: the sweep, its base, and the trials that a grid or a seed gives."""
    search = search_of(sweep)
    trials = known_trials(sweep, _MOST_LOOKED_AT)
    number = search.num_trials
    lines = ["# " + (counted(number, "trial") if number else "trials until the time is spent")]
    if search.learns:
        lines.append("# their values are proposed by what the trials before gave")
    lines += [f"# trial {n}: {describe(values)}" for n, values in enumerate(trials, start=1)]
    if number is not None and len(trials) < number and not search.learns:
        lines.append(f"# and {number - len(trials)} more")
    epochs, cpus = sweep.base.training.epochs, sweep.base.workers.cpus or 1
    count = sweep.base.workers.count
    lines.append(
        f"# each up to {counted(epochs, 'epoch')} on {counted(count, 'worker')} of {cpus:g} CPU;"
        " as many at a time as the cluster has room for"
    )
    plain = to_plain(sweep.config, sweep.config.base)
    return "\n".join(lines) + f"\n{plain_to_yaml(plain)}---\n{to_yaml(sweep.base)}"
