"""A work of one's own: telling three spirals apart, with a network of fully connected layers."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

NUM_ARMS = 3


def spirals(config, hidden=32, noise=0.1):
    """The factory: what the config says under `parameters` comes by name."""
    # Each worker takes its part of the batch; Lightning gives it its part of the samples.
    batch_size = config.training.global_batch_size // config.workers.count
    data = Spirals(batch_size, noise, config.seed)
    return Classifier(hidden, config.optimizer.lr), data


class Classifier(pl.LightningModule):
    """As any LightningModule; `val/loss` and `val/accuracy` choose the checkpoint."""

    def __init__(self, hidden, lr):
        super().__init__()
        self.lr = lr
        self.network = nn.Sequential(
            nn.Linear(2, hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, NUM_ARMS),
        )
        self.accuracy = Accuracy("multiclass", num_classes=NUM_ARMS)

    def training_step(self, batch, batch_idx):
        points, arms = batch
        return functional.cross_entropy(self.network(points), arms)

    def validation_step(self, batch, batch_idx):
        self._evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self._evaluate(batch, "test")

    def _evaluate(self, batch, split):
        points, arms = batch
        scores = self.network(points)
        self.accuracy(scores, arms)
        self.log(f"{split}/loss", functional.cross_entropy(scores, arms), sync_dist=True)
        self.log(f"{split}/accuracy", self.accuracy, on_epoch=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
        return [optimizer], [schedule]


class Spirals(pl.LightningDataModule):
    """Points on the arms of a spiral, drawn anew on every machine, the same ones."""

    def __init__(self, batch_size, noise, seed):
        super().__init__()
        self.batch_size, self.noise = batch_size, noise
        self.source = torch.Generator().manual_seed(seed)

    def setup(self, stage):
        if not hasattr(self, "train"):
            self.train, self.val, self.test = map(self.draw, (1500, 300, 300))

    def draw(self, count):
        """So many points with the arm that each is on."""
        arms = torch.arange(count) % NUM_ARMS
        radius = torch.rand(count, generator=self.source)
        angle = 4 * radius + 2 * torch.pi / NUM_ARMS * arms
        points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
        shaken = points + self.noise * 0.3 * torch.randn(count, 2, generator=self.source)
        return TensorDataset(shaken, arms)

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, 100)

    def test_dataloader(self):
        return DataLoader(self.test, 100)
