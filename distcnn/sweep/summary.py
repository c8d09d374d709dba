"""The table that a sweep ends with."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from distcnn import config_file
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.space import describe
from distcnn.wording import duration


def print_sweep(directory: SweepDirectory, results: dict[str, Any]) -> None:
    """How a sweep ended, and what to do next."""
    table = Table(title=f"Sweep {results['status']}", title_justify="left", show_header=False)
    statuses = ", ".join(f"{count} {status}" for status, count in results["statuses"].items())
    table.add_row("trials", f"{results['num_trials']}" + (f" ({statuses})" if statuses else ""))
    table.add_row("time", duration(results["elapsed_seconds"]))
    table.add_row("training time", duration(results["train_seconds"]))
    best = results["best"]
    if best is not None:
        table.add_row("best", f"trial {best['trial']}, epoch {best['epoch']}")
        table.add_row("values", describe(best["values"]))
        table.add_row("val/accuracy", f"{best['val']['accuracy']:.4f}")
        if "accuracy" in best.get("test", {}):
            epoch = best["chosen"]["epoch"]
            table.add_row("test/accuracy", f"{best['test']['accuracy']:.4f} (epoch {epoch})")
    console = Console(highlight=False)
    console.print(table)
    lines = [results["reason"], f"Sweep directory: {directory.path}"]
    if directory.report_path.exists():
        lines.append(f"Report: {directory.report_path}")
    if results["status"] == "completed" and best is not None:
        config = config_file.load(str(directory.best_path))
        lines.append(f"Train its config: {config_file.command(config, directory.best_path)}")
    elif results["can_go_on"]:
        lines.append(f"Go on with: distcnn resume {directory.path}")
    for line in lines:
        if line:
            console.print(line, markup=False, soft_wrap=True)
