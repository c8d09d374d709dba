import numpy as np
import pytest
from hypothesis import settings

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from tests.worker_processes import WorkerProcesses

# A machine that is busy with something else is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="module", params=[2, 3, 4])
def group(request, tmp_path_factory):
    """So many worker processes that have met."""
    with WorkerProcesses(request.param, tmp_path_factory.mktemp("group")) as group:
        yield group


@pytest.fixture(scope="session")
def tiny_dataset():
    """Noise with 6 training images a class, and more test images than are evaluated at once."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="synthetic",
        class_names=tuple("abcdefghij"),
        sha256="0" * 64,
        train_images=rng.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        train_labels=rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 6)),
        test_images=rng.integers(0, 256, (1203, 28, 28), dtype=np.uint8),
        test_labels=rng.integers(0, 10, 1203, dtype=np.uint8),
    )


@pytest.fixture
def tiny_config():
    """Resolved, for `tiny_dataset`: an epoch is 4 steps of 12 images, with 2 left over."""
    return RunConfig().with_values(
        data={"source": "synthetic", "num_val": 10},
        model={"channels": [3, 4]},
        training={"epochs": 1, "global_batch_size": 12, "precision": "32-true"},
        workers={"cpus": 1, "gpus": 0},
    )
