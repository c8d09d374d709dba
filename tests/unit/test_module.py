import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional

from distcnn.data.module import ImageDataModule, to_float
from distcnn.module import ImageClassifier
from distcnn.network import build_network
from distcnn.training.process import build_trainer

# Lightning asks torch's trees in a way that newer torch would have it not do.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")
CPU = torch.device("cpu")


class WeightsAfterEachStep(pl.Callback):
    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        state = pl_module.network.state_dict()
        self.states.append({name: tensor.clone() for name, tensor in state.items()})


@pytest.fixture
def train(tiny_dataset, tiny_config):
    """Trains for one epoch, with some fields of the config replaced."""

    def train(callback=None, **sections):
        config = tiny_config.with_values(**sections)
        data = ImageDataModule(tiny_dataset, config, CPU)
        module = ImageClassifier(config, num_steps=data.order.steps_per_epoch)
        build_trainer(config, callback, num_epochs=1).fit(module, datamodule=data)
        return module, list(data.train_dataloader())

    return train


def fresh_network(config, dtype=torch.float32):
    network = build_network(config.model, config.seed)
    return network.to(dtype=dtype, memory_format=torch.channels_last).train()


def gradient_of_whole(config, batch, label_smoothing=0.0):
    """The mean gradient over a batch as float64 arithmetic has it."""
    network = fresh_network(config, torch.float64)
    scores = network(to_float(batch.pixels).double())
    functional.cross_entropy(scores, batch.labels, label_smoothing=label_smoothing).backward()
    return [weight.grad for weight in network.parameters()]


OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, 0.01, weight_decay=0.1, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.01, weight_decay=0.1, fused=True),
    "sgd": lambda weights: torch.optim.SGD(
        weights, 0.01, momentum=0.5, weight_decay=0.1, fused=True
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unsharded_steps_are_those_of_a_plain_loop_to_the_last_bit(train, name):
    module, batches = train(
        optimizer={"name": name, "lr": 0.01, "weight_decay": 0.1, "momentum": 0.5}
    )
    network = fresh_network(module.config)
    optimizer = OPTIMIZERS[name](network.parameters())
    for batch in batches:
        optimizer.zero_grad()
        functional.cross_entropy(network(to_float(batch.pixels)), batch.labels).backward()
        optimizer.step()
    for tensor_name, tensor in network.state_dict().items():
        assert torch.equal(module.network.state_dict()[tensor_name], tensor), tensor_name


@pytest.mark.parametrize("num_shards", [1, 5, 12])
def test_the_shards_gradients_add_up_to_the_batch_s(train, num_shards):
    module, [batch] = train(
        model={"batch_norm": False},
        training={"global_batch_size": 37, "num_shards": num_shards},
    )
    expected = gradient_of_whole(module.config, batch)
    for weight, gradient in zip(module.network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad.double(), gradient, rtol=1e-5, atol=1e-7)


def test_targets_are_smoothed(train):
    module, [batch] = train(
        model={"batch_norm": False},
        training={"global_batch_size": 37, "num_shards": 4, "label_smoothing": 0.3},
    )
    expected = gradient_of_whole(module.config, batch, label_smoothing=0.3)
    for weight, gradient in zip(module.network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad.double(), gradient, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_follows_the_schedule(train):
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module, _ = train(
        Rates(), optimizer={"lr": 0.1}, schedule={"name": "cosine", "warmup_fraction": 0.5}
    )
    assert rates == [module.learning_rate(step) for step in range(4)]
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.05])


def test_a_step_returns_the_mean_loss_of_the_batch(train):
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            losses.append(outputs["loss"])

    module, [batch] = train(
        Losses(), model={"batch_norm": False}, training={"global_batch_size": 37, "num_shards": 5}
    )
    scores = fresh_network(module.config)(to_float(batch.pixels))
    torch.testing.assert_close(losses[0], functional.cross_entropy(scores, batch.labels).detach())


def test_the_average_of_the_weights_follows_its_recursion(train):
    steps = WeightsAfterEachStep()
    module, _ = train(steps, training={"average_weights": 0.75})
    average = steps.states[0]
    for state in steps.states[1:]:
        average = {name: 0.75 * average[name] + 0.25 * state[name] for name in state}
    kept = module.kept_network.state_dict()
    assert kept.keys() == average.keys()
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name], rtol=1e-5, atol=1e-6)


def test_without_an_average_the_network_itself_is_kept(tiny_config):
    module = ImageClassifier(tiny_config, num_steps=1)
    assert module.average is None
    assert module.kept_network is module.network


@pytest.fixture
def images():
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_those_of_the_scores(tiny_config, images):
    module = ImageClassifier(tiny_config, num_steps=1).eval()
    with torch.no_grad():
        expected = module.network(images).softmax(dim=1)
        torch.testing.assert_close(module.probabilities(images), expected)


def test_flip_average_averages_the_probabilities_of_an_image_and_its_mirror(tiny_config, images):
    config = tiny_config.with_values(evaluation={"flip_average": True})
    module = ImageClassifier(config, num_steps=1).eval()
    with torch.no_grad():
        plain = module.network(images).softmax(dim=1)
        mirrored = module.network(images.flip(3)).softmax(dim=1)
        torch.testing.assert_close(module.probabilities(images), (plain + mirrored) / 2)


def test_an_evaluation_counts_every_sample_once(tiny_config, tiny_dataset):
    module = ImageClassifier(tiny_config, num_steps=1)
    data = ImageDataModule(tiny_dataset, tiny_config, CPU)
    trainer = build_trainer(tiny_config)
    trainer.validate(module, datamodule=data, verbose=False)
    assert module.measured["num_samples"] == 10
    trainer.test(module, datamodule=data, verbose=False)
    assert module.measured["num_samples"] == 1203
