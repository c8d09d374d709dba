"""(a) What people write first: Dataset + DataLoader, the article's recipe, float32.

One Python call per sample, as every tutorial has it; no Lightning. Prints one JSON line an epoch.
"""

from __future__ import annotations

import argparse
import json
import time

import psutil
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from distcnn.data import dataset


class FashionDataset(Dataset[tuple[torch.Tensor, int]]):
    """One sample at a time, as float32 in [0, 1]."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index].unsqueeze(0).float() / 255
        return image, int(self.labels[index])


def article_network() -> nn.Sequential:
    """The article's network, 29,034 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def main() -> None:
    """Train until an epoch's test accuracy exceeds a goal, or for so many epochs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-epochs", type=int, default=1)
    parser.add_argument("--goal", type=float, default=1.0, help="stop above this test accuracy")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    data = dataset.load("fashion-mnist", None, print)
    train = FashionDataset(torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels))
    test = FashionDataset(torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels))
    train_loader = DataLoader(train, batch_size=128, shuffle=True)
    test_loader = DataLoader(test, batch_size=1000)
    network = article_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)

    for epoch in range(1, options.max_epochs + 1):
        started = time.perf_counter()
        network.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        train_seconds = time.perf_counter() - started
        accuracy = test_accuracy(network, test_loader)
        report = {
            "epoch": epoch,
            "images_per_second": len(train) / train_seconds,
            "test_accuracy": accuracy,
            "seconds_since_start": time.time() - psutil.Process().create_time(),
        }
        print(json.dumps(report), flush=True)
        if accuracy > options.goal:
            break


@torch.no_grad()
def test_accuracy(network: nn.Module, loader: DataLoader[tuple[torch.Tensor, int]]) -> float:
    """Share of the loader's images that the network gets right."""
    network.eval()
    correct = sum(int((network(images).argmax(dim=1) == labels).sum()) for images, labels in loader)
    return correct / len(loader.dataset)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
