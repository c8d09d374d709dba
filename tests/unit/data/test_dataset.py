import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from distcnn.data import dataset, fashion_mnist, synthetic
from distcnn.data.cache import format_idx
from distcnn.data.fashion_mnist import DataUnavailableError
from distcnn.errors import UserError

REAL = Path(os.environ.get("DISTCNN_DATA_DIR") or "missing")
DRAWN = tuple(
    np.random.default_rng(0).integers(0, 10, shape, dtype=np.uint8)
    for shape in ((6, 28, 28), (6,), (3, 28, 28), (3,))
)


class Draws:
    """Stands in for `synthetic.draw`, and counts."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return DRAWN


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The synthetic set's folder in a cache of its own; no folder named, no network."""
    monkeypatch.delenv("DISTCNN_DATA_DIR", raising=False)
    monkeypatch.setenv("DISTCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("http://127.0.0.1:1/",))
    return tmp_path / "cache" / f"synthetic-{synthetic.VERSION}"


@pytest.fixture(autouse=True)
def draws(monkeypatch):
    draws = Draws()
    monkeypatch.setattr(synthetic, "draw", draws)
    return draws


def arrays_of(loaded):
    return (loaded.train_images, loaded.train_labels, loaded.test_images, loaded.test_labels)


def assert_drawn(loaded):
    assert loaded.name == "synthetic"
    assert len(loaded.class_names) == 10
    for array, original in zip(arrays_of(loaded), DRAWN, strict=True):
        np.testing.assert_array_equal(array, original)


def unexpected(message):
    raise AssertionError(message)


def test_synthetic_is_drawn_once_and_kept(draws):
    first = dataset.load("synthetic", None, unexpected)
    second = dataset.load("synthetic", None, unexpected)
    assert draws.count == 1
    assert_drawn(first)
    assert_drawn(second)
    assert first.sha256 == second.sha256


def test_sha256_can_be_computed_by_hand():
    digests = [hashlib.sha256(format_idx(array)).hexdigest() for array in DRAWN]
    by_hand = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert dataset.load("synthetic", None, unexpected).sha256 == by_hand


def test_new_version_is_drawn_anew(draws, monkeypatch):
    dataset.load("synthetic", None, unexpected)
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    dataset.load("synthetic", None, unexpected)
    assert draws.count == 2


@pytest.mark.parametrize("name", ["train-images", "train-labels", "test-images", "test-labels"])
def test_damaged_synthetic_set_is_drawn_again_with_a_notice(folder, name):
    dataset.load("synthetic", None, unexpected)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    told = []
    assert_drawn(dataset.load("synthetic", None, told.append))
    assert told == [f"The synthetic set in {folder} is damaged and will be drawn again."]
    assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("record", ["", "[]", "{}", json.dumps({"train-images": 1}), "\xff"])
def test_damaged_record_is_drawn_again(folder, record):
    dataset.load("synthetic", None, unexpected)
    (folder / "digests.json").write_text(record, encoding="latin-1")
    told = []
    assert_drawn(dataset.load("synthetic", None, told.append))
    assert len(told) == 1


def test_auto_falls_back_loudly():
    told = []
    assert_drawn(dataset.load("auto", None, told.append))
    (banner,) = told
    assert banner.count("\n") > 5
    for part in ("NOT REAL DATA", "Connection refused", "DISTCNN_DATA_DIR", "data.source"):
        assert part in banner


def test_fashion_mnist_never_falls_back(draws):
    with pytest.raises(DataUnavailableError):
        dataset.load("fashion-mnist", None, unexpected)
    assert draws.count == 0


@pytest.mark.parametrize("source", ["auto", "fashion-mnist"])
def test_wrong_file_is_an_error_even_for_auto(draws, tmp_path, source):
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is not the official"):
        dataset.load(source, tmp_path, unexpected)
    assert draws.count == 0


needs_real_files = pytest.mark.skipif(
    not all((REAL / file.gz_name).is_file() for file in fashion_mnist.FILES),
    reason="DISTCNN_DATA_DIR names no folder with the four official files",
)


@needs_real_files
@pytest.mark.parametrize("source", ["auto", "fashion-mnist"])
def test_real_files_are_taken(source):
    loaded = dataset.load(source, REAL, unexpected)
    assert loaded.name == "fashion-mnist"
    assert loaded.train_images.shape == (60_000, 28, 28)
    assert loaded.sha256 == "d1fd84a877f3b78fa9a171b3de73f93e7b6f69ed94bada3feae9d96821401f5c"


def test_torch_takes_the_arrays_without_a_warning():
    torch = pytest.importorskip("torch")
    for array in arrays_of(dataset.load("synthetic", None, unexpected)):
        assert torch.from_numpy(array).dtype == torch.uint8
