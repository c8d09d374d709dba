"""From a sweep file and overrides to a `Sweep`, each bound and choice tried, all errors at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distcnn import config_file
from distcnn.config import RunConfig
from distcnn.config_file import COMMAND_LINE, ConfigError, Draft
from distcnn.location import Location
from distcnn.sweep.config import SweepConfig
from distcnn.sweep.space import Choice, Domain, Space, SpaceError, Values, describe, parse_domain

_WHAT = "sweep"
# All trials stand on the same ground, which is decided once; and where they are kept is no choice.
_SETTLED = ("name", "workers", "recovery", "storage", "data.source", "data.directory")
# Of the ends of all domains; what is refused beyond these fails as a trial.
_MOST_COMBINATIONS = 1000
# What a copy may go on with from another's checkpoint.
_PERTURBABLE = ("optimizer.", "training.label_smoothing")


_OF_RUNS = {"extends", *RunConfig.model_fields} - set(SweepConfig.model_fields)


@dataclass(frozen=True)
class Sweep:
    """A sweep that can be run: all of it has been checked."""

    config: SweepConfig
    space: Space
    base: RunConfig

    def run_config(self, values: Values) -> RunConfig:
        """The config of the trial that has these values."""
        return _with_values(self.base, values).validated()


def load(sweep: str, overrides: Sequence[str] = (), num_trials: int | None = None) -> Sweep:
    """Read a sweep by its path or shipped name, apply overrides, try the space on the base.

    Args:
        sweep: a YAML file, or the name of a shipped one.
        overrides: of the sweep's own fields (`num_trials=4`), else of the base config's.
        num_trials: replaces the sweep's.

    Raises:
        ConfigError: with everything that is wrong.
    """
    path = config_file.find(sweep)
    draft = Draft(SweepConfig)
    content = config_file.read_yaml(path)
    if "space" not in content and not set(content).isdisjoint(_OF_RUNS):
        raise ConfigError(
            f"{path} is a run config, not a sweep; name it as the base of one (base: {path}), or"
            f" override that of the shipped one: distcnn tune tune base={path}"
        )
    _merge(draft, content, str(path))
    for_base: list[str] = []
    for override in overrides:
        values = config_file.parse_override(override)
        if next(iter(values)) in SweepConfig.model_fields:
            _merge(draft, values, COMMAND_LINE)
        else:
            for_base.append(override)
    if num_trials is not None:
        _merge(draft, {"num_trials": num_trials}, COMMAND_LINE)
    config = draft.check()
    named = draft.values.get("base", SweepConfig.model_fields["base"].default)
    base = _read_base(_find_base(str(named), path), for_base)
    errors = [
        *(config if isinstance(config, list) else ()),
        *(base if isinstance(base, list) else ()),
    ]
    space = dict(_parse_space(draft, errors))
    if isinstance(base, RunConfig):
        errors += _refusals(base, space, f"space, {draft.origin_of('space')}")
    if isinstance(config, SweepConfig):
        errors += [f"  {each}" for each in _misfits(config, space)]
    if isinstance(config, SweepConfig) and isinstance(base, RunConfig):
        if config.claim and base.workload:
            errors.append("  claim: is about the article's network, and the base has a workload")
        if config.scheduler.name == "pbt" and base.training.early_stopping:
            errors.append(
                "  training.early_stopping: scheduler = pbt needs members of equal length"
            )
        if base.workers.is_elastic:
            errors.append(
                "  workers.min, workers.max: trials are compared, with as many workers each; set"
                " workers.count"
            )
        if errors:
            return config_file.refuse(errors, _WHAT)
        return Sweep(config, space, base)
    return config_file.refuse(errors, _WHAT)


def _merge(draft: Draft[SweepConfig], values: dict[str, Any], origin: str) -> None:
    scheduler = values.get("scheduler")
    if isinstance(scheduler, str):
        values = {**values, "scheduler": {"name": scheduler}}
    draft.merge(values, origin)


def _read_base(base: str, overrides: Sequence[str]) -> RunConfig | list[str]:
    try:
        return config_file.draft(base, overrides).check()
    except ConfigError as error:
        return [f"  base: {error}"]


def _find_base(base: str, sweep: Location) -> str:
    beside = sweep.parent / base
    return str(beside) if beside.is_file() else base


def _parse_space(draft: Draft[SweepConfig], errors: list[str]) -> Iterator[tuple[str, Domain]]:
    space: object = draft.values.get("space")
    if not isinstance(space, dict):
        return  # The config's own check has told.
    for field, plain in space.items():
        where = f"space: {field} ({draft.origin_of('space')})"
        if not config_file.is_field(str(field)):
            errors.append(
                f"  {where}: no such field{config_file.suggest_field(RunConfig, str(field))}"
            )
            continue
        if field in _SETTLED or field.partition(".")[0] in _SETTLED:
            errors.append(f"  {where}: is the same for all trials; set it in the base")
            continue
        try:
            domain = parse_domain(plain)
        except SpaceError as error:
            errors.append(f"  {where}: {error}")
            continue
        if "auto" in domain.extremes():
            errors.append(f"  {where}: auto is decided once, for all trials; set it in the base")
        yield field, domain


def _refusals(base: RunConfig, space: Space, origin: str) -> list[str]:
    """What of the space the run config does not take: a value, or else values together."""
    alone = [
        line
        for field, domain in space.items()
        for value in domain.extremes()
        for line in _refused(base, {field: value}, origin)
    ]
    if alone:
        return list(dict.fromkeys(alone))
    together = itertools.product(*(domain.extremes() for domain in space.values()))
    return list(
        dict.fromkeys(
            f"{line}, with {describe(values)}"
            for combination in itertools.islice(together, _MOST_COMBINATIONS)
            for values in [dict(zip(space, combination, strict=True))]
            for line in _refused(base, values, origin)
        )
    )


def _refused(base: RunConfig, values: Values, origin: str) -> list[str]:
    checked = _with_values(base, values, origin).check()
    return checked if isinstance(checked, list) else []


def _with_values(base: RunConfig, values: Values, origin: str = "trial") -> Draft[RunConfig]:
    draft = Draft(RunConfig)
    draft.merge(base.to_plain(), "base")
    for field, value in values.items():
        section, _, name = field.rpartition(".")
        draft.merge({section: {name: value}} if section else {name: value}, origin)
    return draft


def _misfits(config: SweepConfig, space: Space) -> Iterator[str]:
    """What of the space does not go with the search or the scheduler."""
    for field, domain in space.items():
        is_choice = isinstance(domain, Choice)
        if config.search == "grid" and not is_choice:
            yield f"space: {field}: search = grid takes grid or choice, whose values can be counted"
        if config.search != "grid" and is_choice and domain.is_grid:
            yield f"space: {field}: grid goes with search = grid; use choice"
        if config.scheduler.name != "none" and field == "training.epochs":
            yield f"space: {field}: scheduler = {config.scheduler.name} compares equal epochs"
        if config.scheduler.name == "pbt" and not (
            field.startswith(_PERTURBABLE) and field != "optimizer.name"
        ):
            yield (
                f"space: {field}: scheduler = pbt copies weights between trials, so they may differ"
                " in optimizer.lr and its like alone; use asha"
            )


def to_plain(config: SweepConfig, base: str) -> dict[str, Any]:
    """The sweep as a file that `load` takes, with another base."""
    return {**config.model_dump(mode="json"), "base": base}
