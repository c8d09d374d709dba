"""The page of a sweep, from its directory alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from distcnn.charts import axis
from distcnn.charts.axis import Axis
from distcnn.charts.chart import Chart, Figure
from distcnn.claims.claim import Seen, Verdict, find, judge
from distcnn.report.page import accuracy_axis, are_shares, interval, render
from distcnn.report.parallel import parallel_coordinates
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.importance import importances
from distcnn.sweep.ledger import read_ledger
from distcnn.sweep.space import Choice, Domain, Space, Uniform, describe, value_text, varied
from distcnn.sweep.study import Study
from distcnn.sweep.trial import Trial
from distcnn.wording import accuracy_text, counted, duration

# What the article names first; where a sweep has others, its first ones stand in their place.
_ACROSS, _SERIES = "optimizer.lr", "model.channels"
_NUM_BINS = 6
_MOST_SERIES = 6
_MOST_LISTED = 25


def render_sweep(directory: SweepDirectory) -> str:
    """The page, as HTML."""
    sweep = directory.read_sweep()
    study = Study(sweep, 1, lambda event: None, read_ledger(directory.ledger_path))
    results = directory.read_last_results() or {}
    tried = [_Tried.of(study, trial) for trial in study.ranking if trial.reports]
    space = varied(sweep.space) or sweep.space
    across, series = _fields(space)
    return render(
        "sweep.html.j2",
        title=f"{sweep.config.name}: {counted(len(study.trials), 'trial')}",
        directory=directory.path,
        space=space,
        results=results,
        best=results.get("best"),
        claim=find(sweep.config.claim).CLAIM if sweep.config.claim else None,
        verdict=_verdict(directory, study),
        figures=_figures(study, results),
        across=_name(across),
        series=_name(series),
        charts=_charts(study, tried, across, series),
        heat=_heat_map(tried, across, series, space),
        parallel=parallel_coordinates(space, [(each.values, each.accuracy) for each in tried]),
        importances=importances(study),
        listed=study.ranking[:_MOST_LISTED],
        num_trials=len(study.trials),
        config=sweep.config,
        describe=describe,
    )


def _verdict(directory: SweepDirectory, study: Study) -> Verdict | None:
    """On the claim that the sweep puts to the test, by the trials that have trained to the end."""
    if study.sweep.config.claim is None:
        return None
    seen = [
        Seen(
            values=trial.values,
            accuracies=[report.val_accuracy for report in trial.reports],
            measures=directory.trial(trial.number).read_measures(),
        )
        for trial in study.trials.values()
        if trial.status == "completed"
    ]
    return judge(study.sweep.config.claim, seen)


@dataclass(frozen=True)
class _Tried:
    """A trial that has told of an epoch at least."""

    trial: Trial
    values: dict[str, Any]
    accuracy: float
    """At the epoch that counts."""
    num_parameters: int
    train_seconds: float

    @classmethod
    def of(cls, study: Study, trial: Trial) -> _Tried:
        """What the charts show of it."""
        best = trial.best_report(study.sweep.config)
        assert best is not None
        return cls(
            trial=trial,
            values=trial.values,
            accuracy=best.val_accuracy,
            num_parameters=study.sweep.run_config(trial.values).model.num_parameters,
            train_seconds=trial.reports[-1].train_seconds,
        )

    @property
    def told(self) -> str:
        """What a pointer that rests on it is told."""
        return f"trial {self.trial.number}: {accuracy_text(self.accuracy)}, {describe(self.values)}"


def _fields(space: Space) -> tuple[str, str | None]:
    """Which field goes across, and which tells series apart."""
    ordered = [field for field, domain in space.items() if _is_ordered(domain)]
    across = _ACROSS if _ACROSS in space else (ordered or list(space))[0]
    others = [field for field in space if field != across]
    few = [field for field in others if isinstance(space[field], Choice)]
    series = _SERIES if _SERIES in others else (few or [None])[0]
    return across, series


def _is_ordered(domain: Any) -> bool:
    return not isinstance(domain, Choice) or all(
        isinstance(value, (int, float)) for value in domain.values
    )


def _name(field: str | None) -> str:
    """A field as people say it: without its section."""
    names = {"optimizer.lr": "learning rate", "model.channels": "channels"}
    return "" if field is None else names.get(field, field.rpartition(".")[2].replace("_", " "))


def _text(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else value_text(value)


def _kind(series: str, value: object) -> str:
    """A series by its value, and by its field too where the value alone tells nothing."""
    is_bare = isinstance(value, (int, float))
    return f"{_name(series)} {_text(value)}" if is_bare else _text(value)


def _figures(study: Study, results: dict[str, Any]) -> list[tuple[str, str, str]]:
    figures: list[tuple[str, str, str]] = []
    best = results.get("best")
    if best and "accuracy" in best.get("test", {}):
        remark = ", ".join(filter(None, ["the winner's", interval(best["test"])]))
        figures.append(("Test accuracy", accuracy_text(best["test"]["accuracy"]), remark))
    if best:
        remark = f"trial {best['trial']}, epoch {best['epoch']}"
        figures.append(("Best validation accuracy", accuracy_text(best["val"]["accuracy"]), remark))
    counts = ", ".join(f"{count} {status}" for status, count in study.counts.items() if count)
    figures.append(("Trials", f"{len(study.trials)}", counts))
    figures.append(
        ("Time", duration(study.elapsed_seconds), f"{duration(study.train_seconds)} of training")
    )
    return figures


def _charts(study: Study, tried: Sequence[_Tried], across: str, series: str | None) -> list[Figure]:
    if not tried:
        return []
    kinds = list(dict.fromkeys(_kind(series, t.values[series]) for t in tried)) if series else []
    kinds = sorted(kinds, key=lambda kind: [len(kind), kind])
    if len(kinds) > _MOST_SERIES:
        kinds = [*kinds[: _MOST_SERIES - 1], "others"]

    def number(each: _Tried) -> int:
        kind = _kind(series, each.values[series]) if series else ""
        return kinds.index(kind) if kind in kinds else max(0, len(kinds) - 1)

    dots = _Dots([(each, number(each)) for each in tried], kinds)
    charts = [_curves(study, tried)]
    if _is_ordered(study.sweep.space[across]):
        charts.insert(0, _over_field(dots, across, study.sweep.space))
    sizes = {each.num_parameters for each in tried}
    if study.sweep.base.workload is None and len(sizes) > 1:
        charts.append(_over_cost(dots, "trainable parameters", lambda each: each.num_parameters))
    return [*charts, _over_cost(dots, "seconds of training", lambda each: each.train_seconds)]


@dataclass(frozen=True)
class _Dots:
    """Trials with the series that each is in."""

    trials: Sequence[tuple[_Tried, int]]
    kinds: Sequence[str]

    @property
    def accuracies(self) -> Axis:
        """Of all; what is far below the rest is at the bottom edge."""
        return _accuracy_axis([each.accuracy for each, _ in self.trials], depth=0.15)

    def drawn(self, chart: Chart, where: Callable[[_Tried], float]) -> list[Markup]:
        """A dot for each trial."""
        return [
            chart.dot(
                (where(each), max(each.accuracy, chart.y.low)),
                number,
                each.told,
                "" if each.trial.status == "completed" else "open",
            )
            for each, number in self.trials
        ]


def _accuracy_axis(values: Sequence[float], depth: float) -> Axis:
    """From so far below the median, at the lowest: what is lower would press the rest flat."""
    low = max(min(values), median(values) - depth) if are_shares(values) else min(values)
    return accuracy_axis([low, max(values)])


def _over_field(dots: _Dots, field: str, space: Space) -> Figure:
    values = [float(each.values[field]) for each, _ in dots.trials]
    domain = space[field]
    is_log = (isinstance(domain, Uniform) and domain.log) or (
        min(values) > 0 and max(values) / min(values) > 20
    )
    label = _name(field)
    is_whole = all(value.is_integer() for value in values)
    along = (
        axis.logarithmic(label, values) if is_log else axis.linear(label, values, is_whole=is_whole)
    )
    chart = Chart(along, dots.accuracies)
    caption = f"Each trial at its best epoch, against its {label}; hollow: ended early."
    marks = dots.drawn(chart, lambda each: float(each.values[field]))
    return Figure(f"By {label}", chart.drawn(caption, marks), caption, dots.kinds, has_dots=True)


def _curves(study: Study, tried: Sequence[_Tried]) -> Figure:
    accuracies = [report.val_accuracy for each in tried for report in each.trial.reports]
    epochs = [each.trial.epoch for each in tried]
    chart = Chart(
        axis.linear("epoch", epochs, low=0, is_whole=True), _accuracy_axis(accuracies, depth=0.3)
    )
    marks: list[Markup] = []
    for each in reversed(tried):
        is_best = each is tried[0]
        points = [
            (report.epoch, report.val_accuracy if report.val_accuracy >= chart.y.low else math.nan)
            for report in each.trial.reports
        ]
        marks.append(chart.line(points, 1 if is_best else 0, "solid" if is_best else "thin"))
        if each.trial.status == "stopped" and math.isfinite(points[-1][1]):
            marks.append(chart.cross(points[-1], 0, f"{each.told}; {each.trial.headline}"))
        elif len(points) == 1:
            marks.append(chart.dot(points[0], 1 if is_best else 0, each.told))
    caption = "Every trial, epoch by epoch; the best one is set off, and a cross ends one early."
    return Figure("As they learned", chart.drawn(caption, marks), caption)


def _over_cost(dots: _Dots, label: str, cost: Callable[[_Tried], float]) -> Figure:
    chart = Chart(axis.logarithmic(label, [cost(each) for each, _ in dots.trials]), dots.accuracies)
    front = _pareto([(cost(each), each.accuracy) for each, _ in dots.trials])
    steps = [front[0]]
    for point in front[1:]:
        steps += [(point[0], steps[-1][1]), point]
    marks = [chart.line([(x, max(y, chart.y.low)) for x, y in steps], 4, "ideal")]
    marks += dots.drawn(chart, cost)
    caption = f"Accuracy against {label}; no trial is better for less along the dashed line."
    return Figure(
        f"Against {label}", chart.drawn(caption, marks), caption, dots.kinds, has_dots=True
    )


def _pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats at less cost, by cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


@dataclass(frozen=True)
class _HeatMap:
    """The best accuracy by two fields."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, float, int]]]]
    """Each with its cells: text, shade from 0 to 1, number of trials."""
    is_in_percent: bool


def _heat_map(
    tried: Sequence[_Tried], across: str, series: str | None, space: Space
) -> _HeatMap | None:
    if series is None or not tried:
        return None
    columns, column_of = _binned([each.values[across] for each in tried], space[across])
    kinds = sorted(
        {_text(each.values[series]) for each in tried}, key=lambda kind: [len(kind), kind]
    )
    cells: dict[tuple[str, int], list[float]] = {}
    for each in tried:
        place = _text(each.values[series]), column_of(each.values[across])
        cells.setdefault(place, []).append(each.accuracy)
    best = {place: max(accuracies) for place, accuracies in cells.items()}
    most, middle = max(best.values()), median(best.values())
    least = max(min(best.values()), 2 * middle - most - 1e-9)
    is_in_percent = are_shares([*best.values()])

    def cell(place: tuple[str, int]) -> tuple[str, float, int]:
        if place not in best:
            return "", 0.0, 0
        shade = (best[place] - least) / (most - least) if most > least else 1.0
        text = f"{100 * best[place]:.2f}" if is_in_percent else accuracy_text(best[place])
        return text, 0.08 + 0.82 * max(0.0, shade), len(cells[place])

    rows = [(kind, [cell((kind, index)) for index in range(len(columns))]) for kind in kinds]
    return _HeatMap(columns, rows, is_in_percent)


def _binned(values: Sequence[Any], domain: Domain) -> tuple[list[str], Callable[[Any], int]]:
    """The columns' names, and the function from a value to its column."""
    distinct = (
        sorted(set(values)) if _is_ordered(domain) else list(dict.fromkeys(map(_text, values)))
    )
    if not _is_ordered(domain) or len(distinct) <= _NUM_BINS + 2:
        names = [_text(value) for value in distinct]
        return names, lambda value: names.index(_text(value))
    is_log = isinstance(domain, Uniform) and domain.log
    scale: Any = math.log if is_log else float
    back: Any = math.exp if is_log else float
    low, high = scale(distinct[0]), scale(distinct[-1])
    width = (high - low) / _NUM_BINS
    names = [f"{back(low + (index + 0.5) * width):.2g}" for index in range(_NUM_BINS)]
    return names, lambda value: min(_NUM_BINS - 1, int((scale(value) - low) / width))
