"""What people write first for several workers: Ray Train's guide for PyTorch, as it stands there.

Dataset + DataLoader, `prepare_model`, `prepare_data_loader`, TorchTrainer, the article's recipe in
float32, 64 images of each of two workers a step. The first worker writes a JSON line a milestone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.plain_loop import FashionDataset, article_network
from benchmarks.plain_loop import test_accuracy as measure
from distcnn.data import dataset

NUM_WORKERS = 2
GLOBAL_BATCH_SIZE = 128


def main() -> None:
    """Train until an epoch's test accuracy exceeds a goal, or for so many steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-epochs", type=int, default=8)
    parser.add_argument("--max-steps", type=int, default=0, help="stop after so many (0: never)")
    parser.add_argument("--goal", type=float, default=1.0, help="stop above this test accuracy")
    parser.add_argument("--milestones", type=Path, required=True, help="file to write them to")
    options = parser.parse_args()
    settings = {**vars(options), "started": psutil.Process().create_time()}
    settings["milestones"] = str(options.milestones.absolute())
    with tempfile.TemporaryDirectory() as storage:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=NUM_WORKERS, use_gpu=False),
            run_config=RunConfig(storage_path=storage),
        )
        trainer.fit()


def train_worker(settings: dict[str, Any]) -> None:
    """The guide's training function."""
    torch.manual_seed(settings["seed"])
    data = dataset.load("fashion-mnist", None, print)
    train = FashionDataset(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    test = FashionDataset(torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels))
    batch_size = GLOBAL_BATCH_SIZE // ray.train.get_context().get_world_size()
    train_loader = DataLoader(train, batch_size=batch_size, shuffle=True)
    train_loader = ray.train.torch.prepare_data_loader(train_loader)
    test_loader = DataLoader(test, batch_size=1000)
    model = ray.train.torch.prepare_model(article_network())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    for epoch in range(1, settings["max_epochs"] + 1):
        train_loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        model.train()
        for step, (images, labels) in enumerate(train_loader, start=1):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if epoch == step == 1:
                _tell(settings, "first_step")
            if step == settings["max_steps"]:
                return
        accuracy = measure(model, test_loader)
        _tell(settings, "epoch", epoch=epoch, test_accuracy=accuracy)
        ray.train.report({"epoch": epoch, "test_accuracy": accuracy})
        if accuracy > settings["goal"]:
            break


def _tell(settings: dict[str, Any], milestone: str, **more: float) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        seconds = time.time() - settings["started"]
        line = json.dumps({"milestone": milestone, "seconds_since_start": seconds, **more})
        with Path(settings["milestones"]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
