"""The page of a run, from its run directory alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import numpy as np
from markupsafe import Markup

from distcnn import config_file
from distcnn.charts import axis
from distcnn.charts.chart import Chart, Figure, bar_sample
from distcnn.config import RunConfig
from distcnn.report.page import accuracy_axis, interval, render
from distcnn.report.picture import png
from distcnn.report.walk_section import WalkSection
from distcnn.run_directory.metrics_log import Row, read_rows
from distcnn.run_directory.predictions import Predictions
from distcnn.run_directory.run import RunDirectory
from distcnn.wording import accuracy_text, counted, duration, percent

_NUM_CONFIDENCE_BINS = 10


def render_run(run: RunDirectory) -> str:
    """The page, as HTML."""
    config, results = run.read_config(), run.read_last_results() or {}
    # Without results, what was predicted is not of a run that has ended.
    predictions = run.read_predictions() if "test" in results else None
    names = (results.get("data") or {}).get("class_names", [])
    rows = list(read_rows(run.metrics_path))
    return render(
        "run.html.j2",
        title=f"{config.name}: {_headline(results, rows)}",
        directory=run.path,
        config=config,
        config_text=config_file.to_yaml(config),
        again=config_file.command(config, run.config_path),
        results=results,
        figures=_figures(config, results, rows),
        facts=_facts(config, results, run.read_provenance() or {}),
        curves=_curves(config, rows, results),
        samples=[bar_sample(0), bar_sample(1)],
        attempts=_attempts(run.read_events()),
        tested=_Tested.of(predictions, results["test"], names) if predictions else None,
        walk=WalkSection.of(run, config, predictions, names) if predictions else None,
    )


def _headline(results: dict[str, Any], rows: Sequence[Row]) -> str:
    if "accuracy" in results.get("test", {}):
        return f"{accuracy_text(results['test']['accuracy'])} on the test split"
    best = _best_accuracy(rows)
    return "not validated yet" if best is None else f"{accuracy_text(best)} on the validation split"


def _best_accuracy(rows: Sequence[Row]) -> float | None:
    return max(
        (row["val/accuracy"] for row in rows if row["val/accuracy"] is not None), default=None
    )


def _figures(
    config: RunConfig, results: dict[str, Any], rows: Sequence[Row]
) -> list[tuple[str, str, str]]:
    """The numbers at the top, each with its name and a remark."""
    figures: list[tuple[str, str, str]] = []
    for split, name in (("test", "Test accuracy"), ("val", "Validation accuracy")):
        if "accuracy" in results.get(split, {}):
            remark = interval(results[split])
            figures.append((name, accuracy_text(results[split]["accuracy"]), remark))
    if not figures and (best := _best_accuracy(rows)) is not None:
        figures.append(("Best validation accuracy", accuracy_text(best), "so far"))
    if results:
        count = results["workers"]["count"]
        workers = counted(count, "worker")
        figures += [
            ("Training time", duration(results["train_seconds"]), f"on {workers}"),
            (
                "Throughput",
                f"{results['images_per_second']:,.0f}",
                f"{_unit(config)} per second, in training",
            ),
        ]
    if config.workload is None:
        cost = f"{config.model.multiply_adds / 1e6:,.1f} million multiply-adds per image"
        figures.append(("Parameters", f"{config.model.num_parameters:,}", cost))
    return figures


def _facts(
    config: RunConfig, results: dict[str, Any], provenance: dict[str, Any]
) -> list[tuple[str, str]]:
    """What ran on what."""
    data = results.get("data") or provenance.get("data") or {}
    hardware = results.get("hardware") or provenance.get("hardware") or {}
    git = provenance.get("git") or {}
    facts = [
        ("Data", _data(data)),
        ("Machine", _machine(hardware)),
        ("Workers", _workers(results)),
        ("Precision", results.get("precision", config.training.precision)),
        ("Versions", ", ".join(f"{k} {v}" for k, v in provenance.get("versions", {}).items())),
        ("Started", str(provenance.get("started", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("Command", provenance.get("command", "")),
        ("Revision", _revision(git)),
    ]
    return [(name, value) for name, value in facts if value]


def _data(data: dict[str, Any]) -> str:
    digest = data.get("sha256")
    return data.get("name", "unknown") + (f", SHA-256 {digest[:16]}…" if digest else "")


def _machine(hardware: dict[str, Any]) -> str:
    if not hardware:
        return ""
    parts = [hardware["gpu"]] if hardware.get("gpu") else []
    parts += [hardware["cpu"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB"]
    return ", ".join([*parts, hardware["system"]])


def _workers(results: dict[str, Any]) -> str:
    workers = results.get("workers")
    if not workers:
        return ""
    hosts = sorted(set(workers["hosts"]))
    each = f"{workers['cpus']:g} CPU{'' if workers['cpus'] == 1 else 's'}"
    each += f" and {workers['gpus']:g} GPU" if workers["gpus"] else ""
    where = f" on {', '.join(hosts)}" if len(hosts) > 1 else ""
    return f"{workers['count']}, each with {each}{where}"


def _revision(git: dict[str, Any]) -> str:
    if not git.get("revision"):
        return ""
    return git["revision"][:12] + (", with changes not committed" if git.get("modified") else "")


def _unit(config: RunConfig) -> str:
    return "samples" if config.workload else "images"


def _curves(config: RunConfig, rows: Sequence[Row], results: dict[str, Any]) -> list[Figure]:
    if all(row["val/loss"] is None for row in rows):
        return []
    chosen = results.get("chosen", {}).get("epoch")
    loss = "loss" if config.workload else "cross entropy"
    learned = [_loss_curves(rows, chosen, loss), _accuracy_curve(rows, chosen)]
    return [*learned, _rate_curve(rows), _pace_curve(rows, _unit(config))]


def _values(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """That measure of each row that has it, by how many epochs have passed."""
    ends = [(row["epoch"], row["step"]) for row in rows if row["val/loss"] is not None]
    epochs, steps = ends[-1] if ends else (None, None)
    if not epochs or not steps:
        return []
    measured = [(row["step"], row[name]) for row in rows]
    return [
        (step * epochs / steps, value) for step, value in measured if step and value is not None
    ]


def _epochs(rows: Sequence[Row]) -> axis.Axis:
    return axis.linear("epoch", [row["epoch"] or 0 for row in rows], low=0, is_whole=True)


def _loss_curves(rows: Sequence[Row], chosen: int | None, label: str) -> Figure:
    training, validation = _values(rows, "train/loss"), _values(rows, "val/loss")
    losses = [loss for _, loss in [*training, *validation]]
    chart = Chart(_epochs(rows), axis.linear(label, losses))
    marks = [chart.line(training, 1), chart.line(validation, 0), *_chosen(chart, chosen)]
    caption = "Of training as it goes, of validation after each epoch."
    return Figure("Loss", chart.drawn(caption, marks), caption, ["validation", "training"])


def _accuracy_curve(rows: Sequence[Row], chosen: int | None) -> Figure:
    values = _values(rows, "val/accuracy")
    accuracies = [y for _, y in values]
    chart = Chart(_epochs(rows), accuracy_axis(accuracies))
    dots = [chart.dot(each, 0, f"epoch {each[0]:g}: {accuracy_text(each[1])}") for each in values]
    marks = [chart.line(values, 0), *(dots if len(dots) <= 40 else []), *_chosen(chart, chosen)]
    best = max(accuracies, default=0)
    caption = f"Of the validation split, after each epoch; {accuracy_text(best)} at best."
    return Figure("Accuracy", chart.drawn(caption, marks), caption)


def _rate_curve(rows: Sequence[Row]) -> Figure:
    values = _values(rows, "lr")
    chart = Chart(_epochs(rows), axis.linear("lr", [y for _, y in values], low=0))
    caption = "The factor of the optimizer's steps, as its schedule has it."
    return Figure("Learning rate", chart.drawn(caption, [chart.line(values, 2)]), caption)


def _pace_curve(rows: Sequence[Row], unit: str) -> Figure:
    values = _values(rows, "images_per_second")
    chart = Chart(_epochs(rows), axis.linear(f"{unit} per second", [y for _, y in values], low=0))
    middle = median([y for _, y in values]) if values else 0
    caption = f"Training alone, over all workers; the median is {middle:,.0f} {unit} per second."
    return Figure("Pace", chart.drawn(caption, [chart.line(values, 3, "solid")]), caption)


def _chosen(chart: Chart, epoch: int | None) -> list[Markup]:
    return [] if epoch is None else [chart.rule(epoch, "chosen")]


@dataclass(frozen=True)
class _Tested:
    """What the chosen network makes of the test split."""

    names: Sequence[str]
    confusion: list[list[tuple[int, float]]]
    """By class, then by what it was taken for: how many, and which share of the class."""
    classes: list[tuple[str, float, float]]
    """Each class with its recall and its precision."""
    reliability: Figure
    mistakes: list[tuple[str, str, str, str]]
    """Each with its picture, its number, what it was taken for, and what it is."""
    num_mistakes: int
    num_images: int

    @classmethod
    def of(
        cls, predictions: Predictions, measured: dict[str, Any], names: Sequence[str]
    ) -> _Tested:
        """Counted from the stored predictions, and what was measured of them."""
        counts = np.array(measured["confusion"])
        of_class, taken = counts.sum(axis=1), counts.sum(axis=0)
        shares = counts / np.maximum(of_class, 1)[:, None]
        recall, precision = np.diag(shares), np.diag(counts) / np.maximum(taken, 1)
        return cls(
            names=names,
            confusion=[
                list(zip(row, share, strict=True))
                for row, share in zip(counts.tolist(), shares.tolist(), strict=True)
            ],
            classes=list(zip(names, recall.tolist(), precision.tolist(), strict=True)),
            reliability=_reliability(predictions, measured["calibration_error"]),
            mistakes=_mistakes(predictions, names),
            num_mistakes=int(counts.sum() - np.trace(counts)),
            num_images=int(counts.sum()),
        )


def _reliability(predictions: Predictions, calibration_error: float) -> Figure:
    confidence = predictions.probabilities.max(axis=1)
    is_right = predictions.probabilities.argmax(axis=1) == predictions.labels
    bins = np.minimum((confidence * _NUM_CONFIDENCE_BINS).astype(int), _NUM_CONFIDENCE_BINS - 1)
    ends = np.array([0.0, 1.0])
    chart = Chart(
        axis.linear("confidence", ends, low=0, high=1, is_share=True),
        axis.linear("recognised", ends, low=0, high=1, is_share=True),
    )
    marks = [chart.line([(0, 0), (1, 1)], 4, "ideal")]
    for number in range(_NUM_CONFIDENCE_BINS):
        inside = bins == number
        if inside.any():
            low, high = number / _NUM_CONFIDENCE_BINS, (number + 1) / _NUM_CONFIDENCE_BINS
            right = float(is_right[inside].mean())
            told = f"{low:.0%} to {high:.0%}: {inside.sum():,} pictures, {right:.1%} recognised"
            marks.append(chart.bar(low, high, right, 0, told))
    caption = (
        "Of the pictures that the network is so sure of, this share is recognised; on the dashed"
        f" line it would know exactly how sure to be. Expected calibration error"
        f" {percent(calibration_error)}."
    )
    return Figure("Reliability", chart.drawn(caption, marks), caption)


def _mistakes(predictions: Predictions, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    shown: list[tuple[str, str, str, str]] = []
    for number, image in zip(predictions.mistakes, predictions.mistake_images, strict=True):
        probabilities = predictions.probabilities[number]
        taken_for = names[int(probabilities.argmax())]
        label = names[int(predictions.labels[number])]
        taken_for += f", {100 * probabilities.max():.1f}\N{NO-BREAK SPACE}%"
        shown.append((png(image), f"{number}", taken_for, label))
    return shown


@dataclass
class _Attempt:
    """One go at the run, as the page tells it."""

    number: int
    began: str
    workers: str
    ended: str = ""
    """Empty while nobody has said: it goes on, or was killed."""


def _attempts(events: Iterable[dict[str, Any]]) -> list[_Attempt]:
    """Each attempt, with how it ended; empty where there was one that nothing happened to."""
    attempts: dict[int, _Attempt] = {}
    for event in events:
        number = event["attempt"]
        if event["event"] == "attempt":
            began = datetime.fromisoformat(event["time"]).strftime("%Y-%m-%d %H:%M:%S")
            hosts = [worker["host"] for worker in event.get("workers", [])]
            workers = f"{len(hosts)} on {', '.join(sorted(set(hosts)))}" if hosts else "1"
            attempts[number] = _Attempt(number, began, workers)
        elif number in attempts and event["event"] in _ENDS:
            headline = event.get("reason", "").partition("\n")[0]
            attempts[number].ended = _ENDS[event["event"]].format(headline)
    told = list(attempts.values())
    for earlier in told[:-1]:
        earlier.ended = earlier.ended or "killed"
    return told if len(told) > 1 else []


_ENDS = {
    "completed": "trained to the end",
    "stopped": "stopped: {}",
    "failed": "failed: {}",
    "attempt_failed": "failed: {}",
}
