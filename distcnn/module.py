"""The LightningModule: one `learn` is one optimizer step over one global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distcnn import onednn
from distcnn.config import NUM_CLASSES, OptimizerConfig, RunConfig
from distcnn.data.augmentation import views
from distcnn.data.module import Batch, Piece, Shard
from distcnn.errors import UsageError
from distcnn.flat_weights import FlatWeights
from distcnn.metrics import EvaluationMetrics
from distcnn.network import build_network
from distcnn.schedule import learning_rate_factor
from distcnn.summation import InTurn, OverTree, Summation
from distcnn.workers import Workers

_BEYOND_A_SHARD: dict[type[nn.Module], str] = {
    nn.SyncBatchNorm: "normalises over what all workers have at the moment",
    nn.modules.dropout._DropoutNd: "draws from the random state of its process",  # pyright: ignore
}


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
        predicted: of the last evaluation, the class probabilities `(N, 10)` and labels `(N,)` of
            all images, in their order.
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
        self.predicted = torch.empty(0, NUM_CLASSES), torch.empty(0, dtype=torch.int64)
        self._summation = _summation(config)
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
        optimizer = build_optimizer(self.weights.vector, self.config.optimizer)
        if self.config.training.is_same_on_any_workers:
            refuse_what_depends_on_workers(self.network, optimizer)
        return optimizer

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
        loss, self.weights.vector.grad = self._combined(list(batch.pieces()))
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(batch.step)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def _combined(self, pieces: Sequence[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
        """All workers' pieces, added up to the batch's mean loss and gradient: here alone.

        The running statistics of batch norm are averaged on the way, so that after every step all
        workers hold the same state.
        """
        if pieces[0].share == 1:  # It is the batch: there is nothing to add.
            return self._sum_over_shards(pieces[0])
        parts = self._parts(pieces)
        gradient, statistics, loss = self.workers.add_up(parts, self._summation)
        self.weights.statistics.copy_(statistics)
        return loss.clone(), gradient  # Who keeps a loss does not keep the whole sum.

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[list[torch.Tensor]]:
        """What each piece adds to its batch's gradient, running statistics and mean loss.

        Each begins with the statistics of the step before.
        """
        before = self.weights.seen() if len(pieces) > 1 else None
        for piece in pieces:
            if before is not None:
                self.weights.forget_since(before)
            loss, gradient = self._sum_over_shards(piece)
            yield [gradient, self.weights.statistics * piece.share, loss]

    def _sum_over_shards(self, piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
        """What a piece adds to its batch's mean loss, a scalar, and to its gradient."""
        parts = map(self._part_of_shard, piece.shards)
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
        """Count all workers' samples, in the order in which one worker would."""
        device = self.device
        probabilities = [torch.empty(0, NUM_CLASSES, device=device)]
        labels = [torch.empty(0, dtype=torch.int64, device=device)]
        for batch_probabilities, batch_labels in self._counted:
            probabilities.append(batch_probabilities)
            labels.append(batch_labels)
        self._counted.clear()
        everything = self.workers.gather(torch.cat(probabilities))
        self.predicted = everything, self.workers.gather(torch.cat(labels))
        self.metrics.update(*self.predicted)
        self.measured = self.metrics.compute()
        self.metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Count all workers' samples."""
        self.on_validation_epoch_end()

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Class probabilities `(N, 10)`, averaged over the views that the config asks for."""
        evaluation = self.config.evaluation
        seen = views(images, evaluation.flip_average, evaluation.shift_average)
        total = self(seen[0]).softmax(dim=1)
        for view in seen[1:]:
            total = total + self(view).softmax(dim=1)
        return total / len(seen)

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


def refuse_what_depends_on_workers(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Make sure that a step is decided by its shards alone, each computed by itself.

    Raises:
        UsageError: a layer, or the optimizer, asks for more.
    """
    reasons = [
        f"layer {name!r} ({type(layer).__name__}) {why}"
        for name, layer in network.named_modules()
        for kind, why in _BEYOND_A_SHARD.items()
        if isinstance(layer, kind)
    ]
    if isinstance(optimizer, torch.optim.LBFGS):
        reasons.append("the optimizer (LBFGS) computes the loss of the whole batch again")
    if reasons:
        raise UsageError(
            f"training.reproducible=across-workers cannot hold, since {'; '.join(reasons)}: leave"
            " that out, or set training.reproducible=same-workers"
        )


def _summation(config: RunConfig) -> Summation:
    if config.training.is_same_on_any_workers:
        return OverTree(config.training.shards, config.workers.count)
    return InTurn(config.workers.count)


def _running_average(network: nn.Module, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    # Batch norm's running statistics belong to the weights they were seen with.
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return average.requires_grad_(False)
