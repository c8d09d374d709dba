import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from distcnn.data import fashion_mnist
from distcnn.data.cache import format_idx
from distcnn.data.fashion_mnist import DataUnavailableError, OfficialFile, load
from distcnn.errors import UserError

SHAPES = ((6, 28, 28), (6,), (3, 28, 28), (3,))
REAL = Path(os.environ.get("DISTCNN_DATA_DIR") or "missing")


def pack(array: np.ndarray) -> bytes:
    return gzip.compress(format_idx(array), mtime=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, no folder named, and no network."""
    monkeypatch.delenv("DISTCNN_DATA_DIR", raising=False)
    monkeypatch.setenv("DISTCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("http://127.0.0.1:1/",))
    return tmp_path / "cache" / "fashion-mnist"


@pytest.fixture
def originals(monkeypatch):
    """Small arrays in place of the official ones, with their pins."""
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, shape, dtype=np.uint8) for shape in SHAPES]
    files = tuple(
        OfficialFile(
            official.name,
            array.shape,
            hashlib.sha256(pack(array)).hexdigest(),
            hashlib.sha256(format_idx(array)).hexdigest(),
        )
        for official, array in zip(fashion_mnist.FILES, arrays, strict=True)
    )
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    return arrays


@pytest.fixture
def folder(originals, tmp_path):
    """A folder with the four packed files."""
    folder = tmp_path / "given"
    folder.mkdir()
    for file, array in zip(fashion_mnist.FILES, originals, strict=True):
        (folder / file.gz_name).write_bytes(pack(array))
    return folder


def assert_same(loaded, originals):
    for array, original in zip(loaded, originals, strict=True):
        np.testing.assert_array_equal(array, original)


def unexpected(message):
    raise AssertionError(message)


def test_folder_is_unpacked_into_the_cache(folder, originals, cache):
    assert_same(load(folder, unexpected), originals)
    names = {path.name for path in cache.iterdir() if not path.name.startswith(".")}
    assert names == {file.name for file in fashion_mnist.FILES}
    assert_same(load(None, unexpected), originals)


def test_environment_comes_before_the_config(folder, originals, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTCNN_DATA_DIR", str(folder))
    assert_same(load(tmp_path / "never looked at", unexpected), originals)


def test_folder_that_lacks_files_is_told_and_the_search_goes_on(folder, originals, monkeypatch):
    part = folder.with_name("part")
    part.mkdir()
    for file in fashion_mnist.FILES[:2]:
        (folder / file.gz_name).rename(part / file.gz_name)
    monkeypatch.setenv("DISTCNN_DATA_DIR", str(part))
    told = []
    assert_same(load(folder, told.append), originals)
    assert told == [
        f"DISTCNN_DATA_DIR={part} lacks t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz; "
        "looking elsewhere for what is missing."
    ]


def test_folder_that_does_not_exist_is_told(folder, originals, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTCNN_DATA_DIR", str(tmp_path / "nowhere"))
    told = []
    assert_same(load(folder, told.append), originals)
    assert "nowhere is not an existing folder" in told[0]


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def tampered(content: bytes) -> bytes:
    idx = gzip.decompress(content)
    return gzip.compress(idx[:-1] + bytes([idx[-1] ^ 1]), mtime=0)


def broken(content: bytes) -> bytes:
    return content[:-8] + bytes(8)  # the checksum and length that end a gzip file


def wrong_shape(content: bytes) -> bytes:
    array = np.frombuffer(gzip.decompress(content), dtype=np.uint8)
    return pack(array[-7 * 7 :].reshape(1, 7, 7))


def not_idx(content: bytes) -> bytes:
    return gzip.compress(b"<html>" + content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncated, r"truncated, its [\d,]+ bytes end"),
        (tampered, "content was altered, its SHA-256 is [0-9a-f]{64} and not [0-9a-f]{64}"),
        (broken, "not an intact gzip file"),
        (wrong_shape, r"shape \(1, 7, 7\), not \(6, 28, 28\)"),
        (not_idx, "not one IDX array .magic number 3c 68 74 6d"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_damaged_file_is_refused_by_name(folder, damage, reason, warm):
    if warm:  # a good cache is no excuse for a bad file that the user put in place
        load(folder, unexpected)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=reason) as caught:
        load(folder, unexpected)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, DataUnavailableError)


@pytest.mark.parametrize("index", range(4))
def test_mislabelled_file_is_refused_with_its_real_name(folder, index):
    here, other = fashion_mnist.FILES[index], fashion_mnist.FILES[index - 1]
    (folder / here.gz_name).write_bytes((folder / other.gz_name).read_bytes())
    with pytest.raises(UserError, match=f"{here.gz_name}: it is really {other.gz_name}"):
        load(folder, unexpected)


def test_file_that_cannot_be_read_is_refused(folder):
    path = folder / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read"):
        load(folder, unexpected)


def test_damaged_cache_is_replaced_with_a_notice(folder, originals, cache):
    loaded = load(folder, unexpected)
    path = cache / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()  # `loaded` still maps the old file, as another process would
    path.write_bytes(content[:-1] + b"\xff")
    told = []
    assert_same(load(folder, told.append), originals)
    assert told == [f"{path} is damaged and will be replaced."]
    assert path.read_bytes() == content
    assert_same(loaded, originals)


def test_nowhere_to_be_had_tells_all(folder, cache, monkeypatch):
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    monkeypatch.setenv("DISTCNN_DATA_DIR", "/nowhere")
    with pytest.raises(DataUnavailableError) as caught:
        load(folder, lambda _: None)
    message = str(caught.value)
    assert "Missing:\n  t10k-images-idx3-ubyte.gz\nLooked in:" in message
    for told in (
        "DISTCNN_DATA_DIR=/nowhere",
        f"data.directory={folder}",
        f"the cache {cache}",
        "http://127.0.0.1:1/: [Errno 111] Connection refused",
        "Put the four official .gz files into a folder",
    ):
        assert told in message
    assert not list(cache.glob("partial*"))


needs_real_files = pytest.mark.skipif(
    not all((REAL / file.gz_name).is_file() for file in fashion_mnist.FILES),
    reason="DISTCNN_DATA_DIR names no folder with the four official files",
)


@needs_real_files
def test_real_files():
    train_images, train_labels, test_images, test_labels = load(REAL, unexpected)
    assert train_images.shape == (60_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    np.testing.assert_array_equal(np.bincount(train_labels), [6_000] * 10)
    np.testing.assert_array_equal(np.bincount(test_labels), [1_000] * 10)
    # The mean that everybody normalizes with.
    assert train_images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    ankle_boot = fashion_mnist.CLASS_NAMES.index("Ankle boot")
    assert train_labels[0] == ankle_boot
    assert test_labels[0] == ankle_boot
