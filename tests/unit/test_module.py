import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from distcnn import onednn
from distcnn.collectives import HostCollectives
from distcnn.data.module import ImageDataModule, to_float
from distcnn.module import ImageClassifier
from distcnn.network import build_network
from distcnn.training.process import build_trainer
from distcnn.workers import Workers
from tests.worker_processes import WorkerProcesses, join

# Lightning asks torch's trees in a way that newer torch would have it not do.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")
CPU = torch.device("cpu")


class Recorder(pl.Callback):
    """Remembers what each step leaves behind, at its module's boundaries."""

    def __init__(self):
        self.batches = []
        self.losses = []
        self.gradients = []
        self.states = []
        self.rates = []

    def on_train_start(self, trainer, pl_module):
        def on_step_end(batch, loss):
            state = pl_module.network.state_dict()
            self.batches.append(batch)
            self.losses.append(loss)
            self.gradients.append(pl_module.weights.vector.grad.clone())
            self.states.append({name: value.clone() for name, value in state.items()})
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        pl_module.on_step_end = on_step_end


@pytest.fixture
def train(tiny_dataset, tiny_config):
    """Trains for one epoch, with some fields of the config replaced."""

    def train(**sections):
        config = tiny_config.with_values(**sections)
        data = ImageDataModule(tiny_dataset, config, CPU, Workers())
        module = ImageClassifier(config, num_steps=data.order.steps_per_epoch, workers=Workers())
        recorder = Recorder()
        build_trainer(config, recorder, num_epochs=1).fit(module, datamodule=data)
        return module, recorder

    return train


def fresh_network(config, dtype=torch.float32):
    network = build_network(config.model, config.seed)
    return network.to(dtype=dtype, memory_format=torch.channels_last).train()


def exact_gradient(config, batch, num_pieces=1):
    """The mean gradient over a batch in float64, batch norm seeing a piece at a time; a vector."""
    network = fresh_network(config, torch.float64)
    pieces = zip(
        to_float(batch.pixels).double().tensor_split(num_pieces),
        batch.labels.tensor_split(num_pieces),
        strict=True,
    )
    losses = [
        functional.cross_entropy(
            network(images),
            labels,
            label_smoothing=config.training.label_smoothing,
            reduction="sum",
        )
        for images, labels in pieces
    ]
    (sum(losses) / len(batch.labels)).backward()
    return torch.cat([weight.grad.reshape(-1) for weight in network.parameters()])


def assert_close(gradient, exact):
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-5)


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, 0.01, weight_decay=0.1, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.01, weight_decay=0.1, fused=True),
    "sgd": lambda weights: torch.optim.SGD(
        weights, 0.01, momentum=0.5, weight_decay=0.1, fused=True
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unsharded_steps_are_those_of_a_plain_loop_to_the_last_bit(train, name):
    module, recorded = train(
        optimizer={"name": name, "lr": 0.01, "weight_decay": 0.1, "momentum": 0.5}
    )
    network = build_network(module.config.model, module.config.seed)
    # One vector here too: the fused kernels round a tensor's last few elements otherwise.
    vector = torch.nn.Parameter(parameters_to_vector(network.parameters()).detach())
    optimizer = OPTIMIZERS[name]([vector])
    for batch in recorded.batches:
        network.zero_grad()
        scores = onednn.run(network, to_float(batch.pixels), torch.float32)
        functional.cross_entropy(scores, batch.labels).backward()
        vector.grad = parameters_to_vector([weight.grad for weight in network.parameters()])
        optimizer.step()
        vector_to_parameters(vector.detach(), network.parameters())
    for tensor_name, tensor in network.state_dict().items():
        assert torch.equal(module.network.state_dict()[tensor_name], tensor), tensor_name


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("num_shards", [1, 5])
def test_the_shards_gradients_add_up_to_the_batch_s(train, num_shards, label_smoothing):
    module, recorded = train(
        model={"batch_norm": False},
        training={
            "global_batch_size": 37,
            "num_shards": num_shards,
            "label_smoothing": label_smoothing,
        },
    )
    [batch], [gradient] = recorded.batches, recorded.gradients
    assert_close(gradient, exact_gradient(module.config, batch))


def test_batch_norm_sees_a_shard_at_a_time(train):
    module, recorded = train(training={"global_batch_size": 37, "num_shards": 5})
    [batch], [gradient] = recorded.batches, recorded.gradients
    assert_close(gradient, exact_gradient(module.config, batch, num_pieces=5))


def test_the_learning_rate_follows_the_schedule(train):
    module, recorded = train(
        optimizer={"lr": 0.1}, schedule={"name": "cosine", "warmup_fraction": 0.5}
    )
    assert recorded.rates == [module.learning_rate(step) for step in range(4)]
    assert recorded.rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.05])


def test_a_step_returns_the_mean_loss_of_the_batch(train):
    module, recorded = train(
        model={"batch_norm": False}, training={"global_batch_size": 37, "num_shards": 5}
    )
    [batch], [loss] = recorded.batches, recorded.losses
    scores = fresh_network(module.config)(to_float(batch.pixels))
    torch.testing.assert_close(loss, functional.cross_entropy(scores, batch.labels).detach())


def test_the_average_of_the_weights_follows_its_recursion(train):
    module, recorded = train(training={"average_weights": 0.75})
    average = recorded.states[0]
    for state in recorded.states[1:]:
        average = {name: 0.75 * average[name] + 0.25 * state[name] for name in state}
    kept = module.kept_network.state_dict()
    assert kept.keys() == average.keys()
    for name, tensor in kept.items():
        if tensor.is_floating_point():  # but for batch norm's count of batches
            torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6)


def test_without_an_average_the_network_itself_is_kept(tiny_config):
    module = ImageClassifier(tiny_config, num_steps=1, workers=Workers())
    assert module.average is None
    assert module.kept_network is module.network


@pytest.fixture
def images():
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_those_of_the_scores(tiny_config, images):
    module = ImageClassifier(tiny_config, num_steps=1, workers=Workers()).eval()
    with torch.no_grad():
        expected = module.network(images).softmax(dim=1)
        torch.testing.assert_close(module.probabilities(images), expected)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_scores_are_float32_in_any_precision_with_onednn_or_without(
    tiny_config, images, monkeypatch, precision
):
    module = ImageClassifier(
        tiny_config.with_values(training={"precision": precision}), 1, Workers()
    ).eval()
    with torch.no_grad():
        scores = module(images)
        monkeypatch.setattr(onednn, "supports", lambda dtype: False)
        otherwise = module(images)
    assert scores.dtype == otherwise.dtype == torch.float32
    torch.testing.assert_close(scores, otherwise, rtol=0.05, atol=0.05)


def test_flip_average_averages_the_probabilities_of_an_image_and_its_mirror(tiny_config, images):
    config = tiny_config.with_values(evaluation={"flip_average": True})
    module = ImageClassifier(config, num_steps=1, workers=Workers()).eval()
    with torch.no_grad():
        plain = module.network(images).softmax(dim=1)
        mirrored = module.network(images.flip(3)).softmax(dim=1)
        torch.testing.assert_close(module.probabilities(images), (plain + mirrored) / 2)


def test_shift_average_averages_over_the_neighbours_and_their_mirrors(tiny_config, images):
    config = tiny_config.with_values(evaluation={"flip_average": True, "shift_average": True})
    module = ImageClassifier(config, num_steps=1, workers=Workers()).eval()
    moved = [torch.zeros_like(images) for _ in range(4)]
    moved[0][..., 1:, :] = images[..., :-1, :]
    moved[1][..., :-1, :] = images[..., 1:, :]
    moved[2][..., 1:] = images[..., :-1]
    moved[3][..., :-1] = images[..., 1:]
    with torch.no_grad():
        expected = sum(
            module.network(each).softmax(dim=1) + module.network(each.flip(3)).softmax(dim=1)
            for each in (images, *moved)
        )
        torch.testing.assert_close(module.probabilities(images), expected / 10)
    assert config.evaluation.num_views == 10


def test_an_evaluation_counts_every_sample_once(tiny_config, tiny_dataset):
    module = ImageClassifier(tiny_config, num_steps=1, workers=Workers())
    data = ImageDataModule(tiny_dataset, tiny_config, CPU, Workers())
    trainer = build_trainer(tiny_config)
    trainer.validate(module, datamodule=data, verbose=False)
    assert module.measured["num_samples"] == 10
    trainer.test(module, datamodule=data, verbose=False)
    assert module.measured["num_samples"] == 1203


# Several workers, in turn in this process: what each adds, then what all make of the sum.


class InTurn:
    """Adds up for workers that come one after another; until all have been, they get their own."""

    def __init__(self):
        self.messages = []

    def add_up(self, rows, summation):
        self.messages += [row.clone() for row in rows]
        return rows[0]


class Total:
    """Gives each of them the sum of all."""

    def __init__(self, messages):
        self.messages = messages

    def add_up(self, rows, summation):
        for row in rows:
            assert any(torch.equal(row, message) for message in self.messages)
        return summation.add_all(self.messages)


@pytest.fixture
def step_of(tiny_dataset, tiny_config):
    """The loss of one step by `count` workers, and what each of them holds after it."""

    def worker(rank, count, collectives, sections):
        config = tiny_config.with_values(
            **{**sections, "workers": {"count": count, "cpus": 1, "gpus": 0}}
        )
        workers = Workers(rank, count, collectives)
        data = ImageDataModule(tiny_dataset, config, CPU, workers)
        module = ImageClassifier(config, num_steps=1, workers=workers)
        optimizer = module.configure_optimizers()
        [batches] = data.train_dataloader()
        return module, module.learn(next(iter(batches)), optimizer)

    def step_of(count, **sections):
        in_turn = InTurn()
        for rank in range(count):
            worker(rank, count, in_turn, sections)
        return [worker(rank, count, Total(in_turn.messages), sections) for rank in range(count)]

    return step_of


@pytest.mark.parametrize("batch_size", [12, 37])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_workers_step_is_that_of_one_whatever_divides_the_batch(step_of, count, batch_size):
    sections = {
        "model": {"batch_norm": False},
        "training": {"global_batch_size": batch_size, "num_shards": 2, "label_smoothing": 0.1},
        "optimizer": {"name": "sgd"},
    }
    [(alone, loss_alone)] = step_of(1, **sections)
    for module, loss in step_of(count, **sections):
        torch.testing.assert_close(loss, loss_alone)
        torch.testing.assert_close(
            module.weights.vector.grad, alone.weights.vector.grad, rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(module.weights.vector, alone.weights.vector)


@pytest.mark.parametrize("average_weights", [0.0, 0.75])
def test_after_a_step_all_workers_hold_the_same_state(step_of, average_weights):
    """Batch norm's statistics too, of which each saw its own part."""
    training = {"global_batch_size": 37, "average_weights": average_weights}
    (first, loss), *others = step_of(3, training=training)
    for module, its_loss in others:
        assert torch.equal(its_loss, loss)
        states = module.state_dict(), first.state_dict()
        assert states[0].keys() == states[1].keys()
        for name, tensor in states[0].items():
            assert torch.equal(tensor, states[1][name]), name


def test_the_statistics_are_averaged_by_the_workers_shares(step_of):
    """One step from zero means: a tenth of the batch's mean, which is that of the parts' means."""
    training = {"global_batch_size": 5}  # Parts of 2, 2 and 1.
    [(alone, _)] = step_of(1, training=training)
    [(module, _), *_] = step_of(3, training=training)
    torch.testing.assert_close(
        module.network.norm1.running_mean,
        alone.network.norm1.running_mean,
        rtol=1e-5,
        atol=1e-7,
    )
    assert module.network.norm1.num_batches_tracked == 1


def measured_by(rank, count, config, dataset, split):
    """One worker's part in an evaluation, by Lightning's own loop."""
    together = join(HostCollectives, rank, count) if count > 1 else None
    workers = Workers(rank, count, together)
    module = ImageClassifier(config, num_steps=1, workers=workers)
    data = ImageDataModule(dataset, config, CPU, workers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        evaluate = getattr(build_trainer(config), {"val": "validate", "test": "test"}[split])
        evaluate(module, datamodule=data, verbose=False)
    return module.measured


@pytest.fixture(scope="module", params=[2, 3, 8])
def group(request, tmp_path_factory):
    with WorkerProcesses(request.param, tmp_path_factory.mktemp("group")) as group:
        yield group


@pytest.mark.parametrize("split", ["val", "test"])
def test_any_number_of_workers_measures_the_same(group, tiny_config, tiny_dataset, split):
    """There are 1 and 3 evaluation batches, so that some have nothing to evaluate."""
    alone = measured_by(0, 1, tiny_config, tiny_dataset, split)
    assert alone["num_samples"] == {"val": 10, "test": 1203}[split]
    every = group.call(measured_by, tiny_config, tiny_dataset, split)
    assert every == [alone] * group.count
