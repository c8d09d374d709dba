"""What a sweep is: the typed, frozen content of a sweep file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distcnn.config import Name, Positive, Section, Seed

Metric = Literal["val/accuracy", "val/loss"]
Search = Literal["grid", "random", "optuna"]
ClaimName = Literal[
    "activation-speed",
    "saturated-gradients",
    "zig-zag",
    "dead-units",
    "initialisation",
    "translation",
]

_MODES = {"val/accuracy": "max", "val/loss": "min"}


class SchedulerConfig(Section):
    """Which trials train on, and as what. Written as a word, its fields have their defaults."""

    name: Literal["none", "asha", "pbt"] = "none"
    """`none`: all to the end; `asha`: the better ones at each rung; `pbt`: a population, in which
    the worst go on as perturbed copies of the best."""
    grace_epochs: Positive = 1
    """`asha`: the first rung; no trial is stopped before."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """`asha`: of the trials that reach a rung, one in so many goes on; and by how much the next
    rung is further."""
    interval_epochs: Positive = 1
    """`pbt`: the population is compared each time all have trained for so many epochs more."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """`pbt`: the share of the population that is replaced, and that is copied."""
    perturbation: Annotated[float, Field(gt=1)] = 1.25
    """`pbt`: a copy's learning rate, and whatever else it perturbs, is multiplied by this or
    divided by it."""


class SweepConfig(Section):
    """A search over run configs."""

    name: Annotated[Name, Field(max_length=90)] = "sweep"
    """The first part of the sweep directory's name, and of its trials' names."""
    base: str = "local"
    """The run config that trials vary: a file beside the sweep file, another file, or the name of
    a shipped config."""
    space: Annotated[dict[str, Any], Field(min_length=1)]
    """By dotted field: `{uniform: [low, high]}`, `loguniform`, `{quniform: [low, high, step]}`,
    `randint` (without its upper bound), `{choice: [a, b]}` or `{grid: [a, b]}`."""
    metric: Metric = "val/accuracy"
    """What trials are compared by, at their best epoch. Within a trial the checkpoint is chosen by
    validation accuracy, as in every run."""
    mode: Literal["max", "min"] | None = None
    """The better direction; the metric's own by default."""
    num_trials: Positive | None = None
    """How many trials; with `pbt`, how many at a time in the population. All of a grid by
    default."""
    time_budget_seconds: Annotated[float, Field(gt=0)] | None = None
    """End the search after this time, resumed parts included, with what there is."""
    search: Search = "random"
    """`grid`: all combinations; `random`: independent draws; `optuna`: tree-structured Parzen
    estimators, which learn from the trials before."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """A word, or a section: `{name: asha, grace_epochs: 2}`."""
    seed: Seed = 0
    """Start of the search's random choices; a run's own seed is a field of the base."""
    claim: ClaimName | None = None
    """The claim of the article that the trials put to the test: what they are measured by, and the
    verdict in the report."""
    max_failures_alike: Positive = 5
    """So many trials that fail one after another with the same cause stop the sweep."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a sweep that has begun cannot be without; the rest may be changed on the way."""
        changeable = {"time_budget_seconds", "max_failures_alike"}
        if self.scheduler.name != "pbt":
            changeable.add("num_trials")
        return self.model_dump(mode="json", exclude=changeable | {"base"})

    @property
    def is_maximized(self) -> bool:
        """Whether more of the metric is better."""
        return _MODES[self.metric] == "max"

    @model_validator(mode="after")
    def _mode_is_the_metrics(self) -> Self:
        mode = _MODES[self.metric]
        if self.mode not in (None, mode):
            raise ValueError(f"mode = {self.mode} would choose the worst {self.metric}: set {mode}")
        return self

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.num_trials is None and self.time_budget_seconds is None and self.search != "grid":
            raise ValueError(
                f"search = {self.search} has no end: set num_trials or time_budget_seconds"
            )
        return self

    @model_validator(mode="after")
    def _a_population_can_be_compared(self) -> Self:
        if self.scheduler.name != "pbt":
            return self
        if self.num_trials is None or self.num_trials < 2:
            raise ValueError("scheduler = pbt needs num_trials, the size of its population, >= 2")
        if self.search != "random":
            raise ValueError(
                "scheduler = pbt goes on from where its members are, which search ="
                f" {self.search} knows nothing of: set search to random"
            )
        return self
