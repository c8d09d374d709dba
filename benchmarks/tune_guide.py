"""What people write first for a sweep: Ray Tune's guide for PyTorch, as it stands there.

A function trainable, Dataset + DataLoader, `tune.report` an epoch, the article's recipe in float32;
a CPU for each trial. Prints one JSON line: seconds, and each trial's last validation accuracy.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from ray import tune
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, random_split

from benchmarks.plain_loop import FashionDataset
from benchmarks.plain_loop import test_accuracy as measure
from distcnn.data import dataset

NUM_VAL = 5000


def network(channels: list[int]) -> nn.Sequential:
    """The article's network with other channel counts."""
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 7 * 7, 10),
    )


def train(space: dict[str, Any]) -> None:
    """The guide's training function."""
    config = space["trial"]
    torch.manual_seed(0)
    data = dataset.load("fashion-mnist", None, print)
    whole = FashionDataset(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    training, validation = random_split(whole, [len(whole) - NUM_VAL, NUM_VAL])
    train_loader = DataLoader(training, batch_size=128, shuffle=True, drop_last=True)
    val_loader = DataLoader(validation, batch_size=1000)
    model = network(config["channels"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for _ in range(config["epochs"]):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        tune.report({"accuracy": measure(model, val_loader)})


def main() -> None:
    """Run the trials that are given as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--trials", type=json.loads, required=True, help="[[lr, channels], ...]")
    options = parser.parse_args()
    started = time.perf_counter()
    trials = [
        {"lr": lr, "channels": channels, "epochs": options.epochs}
        for lr, channels in options.trials
    ]
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        # A grid of one field, whose values are whole configs: the same trials as the others run.
        param_space={"trial": tune.grid_search(trials)},
    )
    results = tuner.fit()
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "accuracies": [(result.metrics or {})["accuracy"] for result in results],
            }
        )
    )


if __name__ == "__main__":
    main()
