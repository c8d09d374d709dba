"""Deciding, once and before training, whatever a config leaves to the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from distcnn import workload
from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset, load, unknown
from distcnn.data.order import divide
from distcnn.errors import UserError
from distcnn.progress import Watcher
from distcnn.training import precision
from distcnn.training.trackers import check_installed


def resolve(config: RunConfig, watcher: Watcher) -> tuple[RunConfig, Dataset]:
    """Decide by this machine, on which all workers will run; load the data.

    Raises:
        UserError: the data cannot be had, or GPUs or trackers are asked for that are not here.
    """
    check_installed(config)
    dataset = load_data(config, watcher.note)
    if config.workload is None:
        divide(dataset.train_labels, config)  # What does not fit is told before a run is made.
    workers = config.workers
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = int(num_gpus >= workers.least) if workers.gpus is None else workers.gpus
    if gpus * workers.least > num_gpus:
        found = f"{num_gpus} GPU(s)" if num_gpus else "no GPU"
        asked = f"workers.{'min' if workers.is_elastic else 'count'} = {workers.least}"
        raise UserError(
            f"workers.gpus = {gpus} for {asked}, but torch finds {found} on"
            " this machine; `distcnn doctor` says more"
        )
    chosen = config.training.precision
    if chosen == "auto":
        device = torch.device("cuda" if gpus else "cpu")
        chosen, reason = precision.decide(config, device)
        watcher.note(f"Precision: {chosen}, since {reason}")
    cpus = workers.cpus or _share_by_default(config)
    source = config.data.source if config.workload else dataset.name
    return with_decisions(config, source, chosen, cpus, gpus), dataset


def load_data(config: RunConfig, notify: Callable[[str], None]) -> Dataset:
    """The data of a run; of a workload, which loads its own, their name alone.

    Raises:
        UserError: they cannot be had, or there is no such workload.
    """
    if config.workload is not None:
        workload.find(config.workload)
        return unknown(config.workload)
    return load(config.data.source, config.data.directory, notify)


def _share_by_default(config: RunConfig) -> float:
    # With as many threads, and so with the same bits, however many workers share the cores.
    one = config.training.is_same_on_any_workers
    return 1.0 if one else share_of_cores(config.workers.count)


def share_of_cores(num_workers: int) -> float:
    """The CPUs of this machine for each of its workers, rounded down to hundredths.

    One hundredth at least: more workers than that are refused with how many would fit.
    """
    cores = torch.get_num_threads()
    if cores >= num_workers:
        return float(cores // num_workers)
    return max(1, 100 * cores // num_workers) / 100


def with_decisions(
    config: RunConfig, data_source: str, precision: str, cpus: float, gpus: float
) -> RunConfig:
    """The config with nothing left open."""
    directory = config.data.directory
    storage = config.storage.directory
    if isinstance(storage, Path):
        storage = storage.expanduser().absolute()
    return config.with_values(
        data={
            "source": data_source,
            "directory": directory and str(directory.expanduser().absolute()),
        },
        training={"precision": precision, "num_shards": config.training.shards},
        workers={"cpus": cpus, "gpus": gpus},
        storage={"directory": str(storage)},
    )
