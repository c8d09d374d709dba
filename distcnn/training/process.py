"""What holds for a whole training process, and the one place that builds a Trainer."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment

from distcnn.config import RunConfig


def build_trainer(
    config: RunConfig, callback: pl.Callback | None = None, num_epochs: int | None = None
) -> pl.Trainer:
    """A bare Trainer: saving, logging and progress are the callback's."""
    with warnings.catch_warnings():
        # A machine with a GPU may be told to use its CPU.
        warnings.filterwarnings("ignore", "GPU available but not used")
        return pl.Trainer(
            accelerator="gpu" if config.workers.gpus else "cpu",
            devices=1,
            # Inside a Slurm allocation Lightning would take its tasks for ours.
            plugins=[LightningEnvironment()],
            max_epochs=num_epochs,
            callbacks=[OurSignalHandlers(), *([callback] if callback else [])],
            # Each epoch asks for its own loader, which begins where training stands.
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


class OurSignalHandlers(pl.Callback):
    """Puts the process's own SIGTERM handler back where Lightning has set one of its own.

    Lightning's would end the process in the middle of an evaluation, with exit code 0.
    """

    def __init__(self) -> None:
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def _restore(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of `fit`."""
        self._restore()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of `validate`, and within `fit`."""
        self._restore()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of `test`."""
        self._restore()


def prepare_process(config: RunConfig) -> torch.device:
    """Set what holds for a whole process: threads, memory, determinism; the device to use."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Lightning 2.6 asks torch's trees in a way that newer torch would have it not do.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
    # On a machine of a Slurm cluster, whenever a Trainer fits: our workers are no tasks of Slurm's.
    warnings.filterwarnings("ignore", "The `srun` command is available")
    torch.set_num_threads(config.workers.threads)
    keep_freed_memory()
    if not config.workers.gpus:
        return torch.device("cpu")
    # Has to be set before the first use of cuBLAS; the value is one of the two it knows.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda", 0)


def keep_freed_memory() -> None:
    """Have glibc keep memory that a step frees for the next step.

    By default it hands blocks of a few megabytes back to the system and takes them anew, zeroed
    page by page: 2,800 page faults and a quarter of the time of each step of the article's
    network on a CPU. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold = -1, -3  # The names' numbers in malloc.h.
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
