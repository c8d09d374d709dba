import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.metrics import EvaluationMetrics

NUM_CLASSES = 4


def draw(seed, num_samples=200):
    """Class probabilities that are right more often than not, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, num_samples)
    scores = rng.normal(size=(num_samples, NUM_CLASSES)) + 1.5 * np.eye(NUM_CLASSES)[labels]
    exponentials = np.exp(scores)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


def measure(probabilities, labels, cuts=()):
    metrics = EvaluationMetrics(NUM_CLASSES)
    for batch, batch_labels in zip(
        np.split(probabilities, cuts), np.split(labels, cuts), strict=True
    ):
        metrics.update(torch.from_numpy(batch), torch.from_numpy(batch_labels))
    return metrics.compute()


def confusion_matrix(predicted, labels):
    """Rows are the true classes, columns the predicted ones."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=int)
    for truth, prediction in zip(labels, predicted, strict=True):
        counts[truth, prediction] += 1
    return counts


def macro_f1(counts):
    """Mean F1 over the classes that occur or are predicted."""
    correct = counts.diagonal()
    occurrences = counts.sum(axis=1) + counts.sum(axis=0)
    return np.mean(2 * correct[occurrences > 0] / occurrences[occurrences > 0])


def calibration_error(probabilities, labels):
    """Expected calibration error over 15 bins of equal width, 1.0 in the last one."""
    confidences = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidences * 15).astype(int), 14)
    gaps = [
        (bins == number).mean()
        * abs(is_correct[bins == number].mean() - confidences[bins == number].mean())
        for number in np.unique(bins)
    ]
    return sum(gaps)


@pytest.mark.parametrize("seed", range(5))
def test_all_measures_agree_with_plain_computations(seed):
    probabilities, labels = draw(seed)
    predicted = probabilities.argmax(axis=1)
    counts = confusion_matrix(predicted, labels)
    measured = measure(probabilities, labels, cuts=[64, 128])
    assert measured["num_samples"] == 200
    assert measured["confusion"] == counts.tolist()
    assert measured["accuracy"] == (predicted == labels).mean()
    assert measured["per_class_accuracy"] == [
        (predicted[labels == label] == label).mean() for label in range(NUM_CLASSES)
    ]
    assert measured["macro_f1"] == pytest.approx(macro_f1(counts), rel=1e-6)
    assert measured["loss"] == pytest.approx(
        -np.log(probabilities[np.arange(200), labels]).mean(), rel=1e-5
    )
    assert measured["calibration_error"] == pytest.approx(
        calibration_error(probabilities, labels), rel=1e-4
    )


@settings(max_examples=15)
@given(
    seed=st.integers(0, 100),
    cuts=st.lists(st.integers(1, 199), unique=True, max_size=8).map(sorted),
)
def test_the_cut_into_batches_changes_no_count(seed, cuts):
    probabilities, labels = draw(seed)
    whole, cut = measure(probabilities, labels), measure(probabilities, labels, cuts)
    assert cut.pop("loss") == pytest.approx(whole.pop("loss"), rel=1e-5)
    assert cut == whole


def test_a_class_that_does_not_occur_leaves_the_macro_average_alone():
    probabilities, labels = draw(0)
    present = (labels < 2) & (probabilities.argmax(axis=1) < 2)
    probabilities, labels = probabilities[present], labels[present]
    counts = confusion_matrix(probabilities.argmax(axis=1), labels)
    assert measure(probabilities, labels)["macro_f1"] == pytest.approx(macro_f1(counts), rel=1e-6)


def test_a_certain_mistake_costs_much_but_not_infinitely_much():
    measured = measure(np.eye(NUM_CLASSES, dtype=np.float32)[[0]], np.array([1]))
    assert 80 < measured["loss"] < 100


def test_certainty_shares_the_last_bin():
    confidences = np.array([1.0, 0.95, 0.95, 0.95], dtype=np.float32)
    probabilities = np.zeros((4, NUM_CLASSES), dtype=np.float32)
    probabilities[:, 0], probabilities[:, 1] = confidences, 1 - confidences
    labels = np.array([1, 0, 0, 0])
    assert measure(probabilities, labels)["calibration_error"] == pytest.approx(
        calibration_error(probabilities, labels), rel=1e-4
    )


def test_reset_forgets_everything():
    metrics = EvaluationMetrics(NUM_CLASSES)
    first, second = draw(1), draw(2)
    metrics.update(*map(torch.from_numpy, first))
    metrics.compute()
    metrics.reset()
    metrics.update(*map(torch.from_numpy, second))
    assert metrics.compute() == measure(*second)
