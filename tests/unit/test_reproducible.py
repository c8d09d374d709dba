"""A run that is reproducible across workers: the same bits, whoever computes which shard."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
import torch

from distcnn.collectives import GroupCollectives, HostCollectives
from distcnn.config import RunConfig
from distcnn.data import module as data_module
from distcnn.data.dataset import Dataset
from distcnn.data.module import ImageDataModule
from distcnn.data.order import Part, part_of
from distcnn.errors import UsageError
from distcnn.module import ImageClassifier, refuse_what_depends_on_workers
from distcnn.training.snapshot import weights_sha256
from distcnn.workers import Workers
from tests.worker_processes import WorkerProcesses, join

CPU = torch.device("cpu")
NUM_SHARDS = 4
COUNTS = [2, 3, 4]


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    """Three epochs of four steps; shards of 3 images, flipped and shifted, with an average."""
    return tiny_config.with_values(
        data={"flip": True, "shift": 2},
        optimizer={"name": "adamw", "lr": 0.05, "weight_decay": 0.1},
        training={
            "epochs": 3,
            "reproducible": "across-workers",
            "num_shards": NUM_SHARDS,
            "average_weights": 0.9,
            "label_smoothing": 0.1,
        },
    )


def digest(workers: Workers, config: RunConfig, dataset: Dataset) -> str:
    """Of all weights, running statistics and averages, after training with one thread."""
    torch.set_num_threads(1)
    config = config.with_values(workers={"count": workers.count})
    data = ImageDataModule(dataset, config, CPU, workers)
    num_steps = config.training.epochs * data.order.steps_per_epoch
    module = ImageClassifier(config, num_steps, workers)
    optimizer = module.configure_optimizers()
    for epoch in range(config.training.epochs):
        data.position.epoch = epoch
        [batches] = data.train_dataloader()
        for batch in batches:
            module.learn(batch, optimizer)
    return weights_sha256(module.state_dict())


def digest_together(rank: int, count: int, way: type, config: RunConfig, dataset: Dataset) -> str:
    return digest(Workers(rank, count, join(way, rank, count)), config, dataset)


@pytest.fixture(scope="module", params=COUNTS)
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[WorkerProcesses]:
    with WorkerProcesses(request.param, tmp_path_factory.mktemp("group")) as group:
        yield group


@pytest.mark.parametrize("way", [GroupCollectives, HostCollectives])
@pytest.mark.parametrize("batch_size", [12, 10])
def test_any_number_of_workers_ends_with_the_same_bits(
    group: WorkerProcesses,
    way: type,
    batch_size: int,
    config: RunConfig,
    tiny_dataset: Dataset,
) -> None:
    """With 10 images, the shards are not of one size."""
    config = config.with_values(training={"global_batch_size": batch_size})
    alone = digest(Workers(), config, tiny_dataset)
    assert group.call(digest_together, way, config, tiny_dataset) == [alone] * group.count


def test_in_the_ordinary_mode_they_do_not(
    group: WorkerProcesses, config: RunConfig, tiny_dataset: Dataset
) -> None:
    """Else the test above would show nothing."""
    config = config.with_values(training={"reproducible": "same-workers"})
    alone = digest(Workers(), config, tiny_dataset)
    [together, *others] = group.call(digest_together, GroupCollectives, config, tiny_dataset)
    assert together != alone
    assert others == [together] * len(others)


# One thing goes wrong, in one shard.


def in_another_order(part: Part) -> Part:
    """The third shard takes the second one's place in the tree. (Beside it, a + b is b + a.)"""
    first, second, third, *others = part.pieces
    return Part(part.images, (first, third, second, *others))


def in_another_group(part: Part) -> Part:
    """An image is normalised with those of the shard beside its own."""
    [[first], [second], *others] = part.pieces
    moved = slice(first.start, first.stop + 1), slice(second.stop - 2, second.stop)
    return Part(part.images, ((moved[0],), (moved[1],), *others))


@pytest.mark.parametrize("mutation", [in_another_order, in_another_group])
def test_a_shard_in_another_order_or_group_gives_other_bits(
    mutation: Callable[[Part], Part],
    config: RunConfig,
    tiny_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = digest(Workers(), config, tiny_dataset)
    monkeypatch.setattr(
        data_module, "part_of", lambda config, rank: mutation(part_of(config, rank))
    )
    assert digest(Workers(), config, tiny_dataset) != alone


def test_a_shard_with_another_random_state_gives_other_bits(
    config: RunConfig, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = digest(Workers(), config, tiny_dataset)
    right = data_module.sample_bits

    def wrong_in_the_first_shard(seed: int, epoch: int, ids: torch.Tensor) -> torch.Tensor:
        shard = len(ids) // NUM_SHARDS
        wrong = right(seed, epoch + 1, ids[:shard])
        return torch.cat([wrong, right(seed, epoch, ids[shard:])])

    monkeypatch.setattr(data_module, "sample_bits", wrong_in_the_first_shard)
    assert digest(Workers(), config, tiny_dataset) != alone


class Unfit(torch.nn.Sequential):
    """Two layers that look beyond their shard."""

    def __init__(self) -> None:
        super().__init__(torch.nn.SyncBatchNorm(3), torch.nn.Dropout(), torch.nn.Linear(3, 1))


def test_what_looks_beyond_a_shard_is_refused_with_the_reason() -> None:
    network = Unfit()
    with pytest.raises(UsageError) as refused:
        refuse_what_depends_on_workers(network, torch.optim.LBFGS(network.parameters()))
    for words in ("layer '0' (SyncBatchNorm) normalises over", "layer '1' (Dropout)", "LBFGS"):
        assert words in str(refused.value)
    fit = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 1))
    refuse_what_depends_on_workers(fit, torch.optim.SGD(fit.parameters()))
