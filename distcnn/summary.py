"""The tables that commands end with: one run, one evaluation, all runs of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.run_directory.lease import Holder
from distcnn.run_directory.run import RunDirectory
from distcnn.wording import duration


def print_summary(path: Location, results: dict[str, Any]) -> None:
    """How a run ended, and what to do next."""
    table = Table(title=f"Run {results['status']}", title_justify="left", show_header=False)
    for split in ("val", "test"):
        if "accuracy" in results.get(split, {}):
            table.add_row(f"{split}/accuracy", _accuracy(results[split]))
    table.add_row("epochs", str(results["epochs"]))
    table.add_row("training time", duration(results["train_seconds"]))
    digest = results["data"]["sha256"][:12]
    trained = "images" if digest else "samples"  # A workload's own have no digest.
    table.add_row("throughput", f"{results['images_per_second']:,.0f} {trained}/s")
    table.add_row("data", results["data"]["name"] + (f" ({digest})" if digest else ""))
    table.add_row("precision", results["precision"])
    console = Console(highlight=False)
    console.print(table)
    if results["reason"]:
        console.print(results["reason"], markup=False, soft_wrap=True)
    console.print(f"Run directory: {path}", markup=False, soft_wrap=True)
    if (report := RunDirectory(path).report_path).exists():
        console.print(f"Report: {report}", markup=False, soft_wrap=True)
    if results["status"] == "stopped":
        console.print(f"Go on with: distcnn resume {path}", markup=False, soft_wrap=True)


def print_measured(
    split: str, epoch: int, class_names: Sequence[str], measured: dict[str, Any]
) -> None:
    """One evaluation, with each class."""
    table = Table(
        title=f"Best checkpoint (epoch {epoch}) on {measured['num_samples']:,} {split} images",
        title_justify="left",
        show_header=False,
    )
    table.add_row("accuracy", _accuracy(measured))
    table.add_row("loss", f"{measured['loss']:.4f}")
    table.add_row("macro F1", f"{measured['macro_f1']:.4f}")
    table.add_row("calibration error", f"{measured['calibration_error']:.4f}")
    table.add_section()
    for name, accuracy in zip(class_names, measured["per_class_accuracy"], strict=True):
        table.add_row(name, _share(accuracy))
    Console(highlight=False).print(table)


def print_logged(epoch: int, logged: dict[str, float]) -> None:
    """One evaluation of a workload, which logs what it likes."""
    table = Table(title=f"Best checkpoint (epoch {epoch})", title_justify="left", show_header=False)
    for name, value in logged.items():
        table.add_row(name, f"{value:.4f}")
    Console(highlight=False).print(table)


def _accuracy(measured: dict[str, Any]) -> str:
    accuracy = f"{measured['accuracy']:.4f}"
    if "accuracy_interval_95" not in measured:  # Of a workload, nobody knows of how many samples.
        return accuracy
    low, high = measured["accuracy_interval_95"]
    return f"{accuracy}  (95 % interval {low:.4f} to {high:.4f})"


def summarize_run(run: RunDirectory) -> dict[str, Any]:
    """A run's place in the list: what it is, how it stands, how good it is."""
    try:
        return _summarize(run)
    except UserError as error:  # A damaged file, or one of an earlier version.
        return {"run": str(run.path), "status": "damaged", "reason": str(error)}


def _summarize(run: RunDirectory) -> dict[str, Any]:
    results = run.read_results() or {}
    holder = run.read_holder()
    checkpoints = run.read_checkpoints()
    validated = [record.val_accuracy for record in checkpoints if record.val_accuracy is not None]
    return {
        "run": str(run.path),
        "status": _status(run.read_last_results(), holder, has_checkpoints=bool(checkpoints)),
        "epochs": checkpoints[-1].epoch if checkpoints else 0,
        "val_accuracy": max(validated, default=None),
        "test_accuracy": results.get("test", {}).get("accuracy"),
        "train_seconds": results.get("train_seconds"),
        "data": results.get("data", {}).get("name"),
    }


def _status(last: dict[str, Any] | None, holder: Holder | None, has_checkpoints: bool) -> str:
    """How a run stands, by what its last attempt has told, and by who holds it."""
    if last is not None and last["status"] == "completed":
        return "completed"
    if holder is not None and holder.is_alive_here:
        return "running"
    if holder is not None and not holder.released:
        return "killed" if holder.is_here else f"held by {holder.host}"
    if last is not None:
        return str(last["status"])
    return "interrupted" if has_checkpoints else "not started"


def print_runs(folder: Location, rows: Sequence[dict[str, Any]]) -> None:
    """One line a run, the newest last; named as seen from the folder."""
    prefix = f"{folder.absolute()}/"
    table = Table(box=None, pad_edge=False)
    table.add_column("Run", no_wrap=True)  # Whole, on one line: it is what people copy.
    table.add_column("Status", overflow="fold")
    for heading in ("Epochs", "Val acc", "Test acc", "Time", "Data"):
        table.add_column(heading, justify="right")
    for row in rows:
        seconds = row.get("train_seconds")
        table.add_row(
            row["run"].removeprefix(prefix),
            row["status"],
            str(row.get("epochs", "")),
            _share(row.get("val_accuracy")),
            _share(row.get("test_accuracy")),
            "" if seconds is None else duration(seconds),
            row.get("data") or "",
        )
    console = Console(highlight=False)
    console.print(table)
    for row in rows:
        if row["status"] == "damaged":
            console.print(row["reason"], markup=False, soft_wrap=True)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
