"""The LightningModule: one `learn` is one optimizer step over one global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distcnn import onednn
from distcnn.config import NUM_CLASSES, OptimizerConfig, RunConfig
from distcnn.data.module import Batch, Shard
from distcnn.flat_weights import FlatWeights
from distcnn.metrics import EvaluationMetrics
from distcnn.network import build_network
from distcnn.schedule import learning_rate_factor
from distcnn.workers import Workers


class ImageClassifier(pl.LightningModule):
    """The CNN, its loss and its optimizer.

    Attributes:
        network: what is trained.
        average: a running average of its weights, where the config asks for one.
        weights: the network's, as the vector that is optimized; made with the optimizer, once
            the network is on its device.
        on_step_end: called after each optimizer step with its batch and its loss, as `learn`
            returns it.
        measured: what the last evaluation measured, as plain numbers.
    """

    weights: FlatWeights

    def __init__(self, config: RunConfig, num_steps: int, workers: Workers) -> None:
        """Build the network with fresh weights.

        Args:
            config: the run's, resolved.
            num_steps: optimizer steps of the whole run, for the schedule.
            workers: which train or evaluate it together.
        """
        super().__init__()
        # A step may consist of several backward passes; it has to be ours from end to end.
        self.automatic_optimization = False
        self.config = config
        self.num_steps = num_steps
        self.workers = workers
        self.network = build_network(config.model, config.seed)
        self.average = _running_average(self.network, config.training.average_weights)
        self.metrics = EvaluationMetrics(NUM_CLASSES)
        self.on_step_end: Callable[[Batch, torch.Tensor], None] = lambda batch, loss: None
        self.measured: dict[str, Any] = {}
        self._counted: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def kept_network(self) -> nn.Sequential:
        """The network that is evaluated and kept: the average where there is one."""
        if self.average is None:
            return self.network
        assert isinstance(self.average.module, nn.Sequential)
        return self.average.module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores `(N, 10)` of images `(N, 1, 28, 28)` in [0, 1], by the kept network."""
        return self._run(self.kept_network, images)

    def setup(self, stage: str) -> None:
        """Lay out the weights as convolutions on a GPU are fastest with; oneDNN has its own way."""
        if self.trainer.strategy.root_device.type != "cpu":
            for network in {self.network, self.kept_network}:
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over the network's weights; its learning rate is set at every step."""
        self.weights = FlatWeights(self.network)
        return build_optimizer(self.weights.vector, self.config.optimizer)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from the start of the run."""
        factor = learning_rate_factor(self.config.schedule, step, self.num_steps)
        return self.config.optimizer.lr * factor

    def training_step(self, batches: Iterator[Batch], batch_idx: int) -> None:
        """Learn from batch after batch to the end of the epoch.

        Lightning's way from one training step to the next took 0.4 ms of the 6 of a step of the
        article's network, measured on 2 cores; so it is gone once an epoch.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for batch in batches:
            self.on_step_end(batch, self.learn(batch, optimizer))

    def learn(self, batch: Batch, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """One optimizer step over one global batch; its mean loss, a scalar, detached."""
        loss, self.weights.vector.grad = self._combined(batch, *self._loss_and_gradient(batch))
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(batch.step)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def _combined(
        self, batch: Batch, loss: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up what each worker adds to the loss and to the gradient: the one place that does.

        The running statistics of batch norm are averaged on the way, so that after every step all
        workers hold the same state.
        """
        if self.workers.count > 1:
            statistics = self.weights.statistics
            parts = [gradient, statistics * batch.share, loss]
            gradient, average, loss = self.workers.add_up(parts)
            statistics.copy_(average)
        return loss, gradient

    def _loss_and_gradient(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What this worker adds to the batch's mean loss, a scalar, and to its gradient."""
        parts = map(self._part_of_shard, batch.shards())
        loss, gradient = next(parts)
        for shard_loss, shard_gradient in parts:
            loss += shard_loss
            gradient += shard_gradient
        return loss, gradient

    def _part_of_shard(self, shard: Shard) -> tuple[torch.Tensor, torch.Tensor]:
        """What a shard adds to its batch's mean loss and to its gradient."""
        scores = self._run(self.network, shard.images)
        smoothing = self.config.training.label_smoothing
        loss = functional.cross_entropy(scores, shard.labels, label_smoothing=smoothing)
        return loss.detach() * shard.share, self.weights.gradient(loss).mul_(shard.share)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Evaluate one batch; it is counted with those of all workers."""
        images, labels = batch
        if len(labels):  # A worker may have nothing to evaluate.
            self._counted.append((self.probabilities(images), labels))

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Evaluate one batch; it is counted with those of all workers."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Count all workers' samples, in the order in which one worker would: `measured`."""
        device = self.device
        probabilities = [torch.empty(0, NUM_CLASSES, device=device)]
        labels = [torch.empty(0, dtype=torch.int64, device=device)]
        for batch_probabilities, batch_labels in self._counted:
            probabilities.append(batch_probabilities)
            labels.append(batch_labels)
        self._counted.clear()
        everything = (self.workers.gather(torch.cat(rows)) for rows in (probabilities, labels))
        self.metrics.update(*everything)
        self.measured = self.metrics.compute()
        self.metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Count all workers' samples: `measured`."""
        self.on_validation_epoch_end()

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Class probabilities `(N, 10)`, averaged with the mirror image's where so configured."""
        probabilities = self(images).softmax(dim=1)
        if self.config.evaluation.flip_average:
            mirrored = self(images.flip(-1)).softmax(dim=1)
            probabilities = (probabilities + mirrored) / 2
        return probabilities

    def _run(self, network: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
        """The network's float32 scores, in the precision of the config on the way."""
        is_mixed = self.config.training.precision == "bf16-mixed"
        dtype = torch.bfloat16 if is_mixed else torch.float32
        if images.device.type == "cpu" and onednn.supports(dtype):
            return onednn.run(network, images, dtype)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_mixed):
            return network(images).float()


def build_optimizer(vector: nn.Parameter, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names, over the vector of all weights, in its fused form."""
    match config.name:
        case "adam":
            return torch.optim.Adam(
                [vector], config.lr, weight_decay=config.weight_decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                [vector], config.lr, weight_decay=config.weight_decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                [vector],
                config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                fused=True,
            )


def _running_average(network: nn.Module, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    # Batch norm's running statistics belong to the weights they were seen with.
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)
