"""Verdicts on made-up trials: what held, what held in part, what did not, what is not decided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn.claims.activation_speed import epochs_to
from distcnn.claims.claim import Seen, judge
from distcnn.config_file import shipped_configs
from distcnn.sweep import file
from distcnn.sweep.config import ClaimName

STUDIES = sorted(
    path for path in (shipped_configs() / "studies").glob("*.yaml") if "space:" in path.read_text()
)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_varies_what_its_claim_is_judged_by(path: Path):
    from distcnn.claims.claim import find

    sweep = file.load(str(path))
    assert sweep.config.claim is not None
    assert set(find(sweep.config.claim).FIELDS) <= set(sweep.space)
    assert "seed" in sweep.space, "a spread needs seeds"


def reaching(epochs: int) -> list[float]:
    """A curve that is at 80 % after so many epochs."""
    return [0.1 + 0.7 * epoch / epochs for epoch in range(1, epochs + 3)]


def speeds(**epochs: int) -> list[Seen]:
    return [
        Seen(
            {"model.activation": name, "optimizer.lr": rate, "seed": seed}, reaching(number * slow)
        )
        for name, number in epochs.items()
        for rate, slow in ((0.1, 3), (0.01, 1))
        for seed in range(3)
    ]


def saturated(left: float, accuracy: float) -> list[Seen]:
    return [
        Seen(
            {"model.activation": "sigmoid", "model.initial_scale": scale, "seed": seed},
            [reached],
            {"gradient_norms": {"conv1": norm}, "tails": [0.5]},
        )
        for scale, norm, reached in ((1, 1.0, 0.8), (100, left, accuracy))
        for seed in range(3)
    ]


def zig_zags(agreement: float, turns: float, rate: float = 0.1) -> list[Seen]:
    return [
        Seen(
            {"model.activation": name, "optimizer.lr": rate, "seed": seed},
            [0.5],
            {"agreement": share, "turns": turned},
        )
        for name, share, turned in (("sigmoid", agreement, turns), ("tanh", 0.3, 0.1))
        for seed in range(3)
    ]


def test_steps_are_compared_at_one_learning_rate():
    at_both = zig_zags(agreement=0.9, turns=0.4) + zig_zags(0.9, 0.4, rate=0.3)
    assert judge("zig-zag", at_both).holds == "yes"
    at_one = zig_zags(agreement=0.9, turns=0.4) + zig_zags(0.9, 0.0, rate=0.3)
    assert judge("zig-zag", at_one).holds == "partly"


def dead(share: float) -> list[Seen]:
    return [
        Seen(
            {"optimizer.lr": rate, "seed": seed},
            [0.8],
            {"dead": {"block 1": found, "block 2": found}},
        )
        for rate, found in ((0.001, 0.0), (0.1, share))
        for seed in range(3)
    ]


def initialised(without: float) -> list[Seen]:
    return [
        Seen({"model.batch_norm": norm, "model.initial_scale": scale, "seed": seed}, [reached])
        for norm, scale, reached in (
            (True, 1, 0.8),
            (True, 100, 0.78),
            (False, 1, 0.8),
            (False, 100, without),
        )
        for seed in range(3)
    ]


def shifted(**kept: float) -> list[Seen]:
    return [
        Seen(
            {"model.pooling": kind, "model.pool_size": size, "seed": seed},
            [0.8],
            {"shifts": [0, 1, 2, 3, 4], "accuracy": [0.8, 0.7, 0.8 * left, 0.3, 0.2]},
        )
        for kind, pooled in kept.items()
        for size, left in ((1, 0.5), (3, pooled))
        for seed in range(3)
    ]


CASES: dict[ClaimName, tuple[Callable[[], list[Seen]], ...]] = {
    "activation-speed": (
        lambda: speeds(relu=1, tanh=6, sigmoid=8),
        lambda: speeds(relu=2, tanh=3, sigmoid=8),
        lambda: speeds(relu=4, tanh=3, sigmoid=4),
    ),
    "saturated-gradients": (
        lambda: saturated(left=0.01, accuracy=0.1),
        lambda: saturated(left=0.01, accuracy=0.8),
        lambda: saturated(left=2.0, accuracy=0.8),
    ),
    "zig-zag": (
        lambda: zig_zags(agreement=0.9, turns=0.4),
        lambda: zig_zags(agreement=0.9, turns=0.1),
        lambda: zig_zags(agreement=0.3, turns=0.0),
    ),
    "dead-units": (lambda: dead(0.9), lambda: dead(0.1), lambda: dead(0.0)),
    "initialisation": (
        lambda: initialised(without=0.1),
        lambda: initialised(without=0.75),
        lambda: initialised(without=0.79),
    ),
    "translation": (
        lambda: shifted(max=0.8, average=0.9),
        lambda: shifted(max=0.8, average=0.4),
        lambda: shifted(max=0.4, average=0.5),
    ),
}


@pytest.mark.parametrize("claim", CASES)
def test_each_verdict_can_be_reached(claim: ClaimName):
    verdicts = [judge(claim, case()) for case in CASES[claim]]
    assert [verdict.holds for verdict in verdicts] == ["yes", "partly", "no"]
    assert all(verdict.sentence and verdict.figures for verdict in verdicts)


@pytest.mark.parametrize("claim", CASES)
def test_too_little_decides_nothing(claim: ClaimName):
    some = CASES[claim][0]()[:1]
    assert judge(claim, some).holds == "open"
    assert judge(claim, []).holds == "open"
    other: dict[str, Any] = {"data.num_train": 5}
    verdict = judge(claim, [Seen(other, [0.5])])
    assert verdict.holds == "open"
    assert "has to vary" in verdict.sentence


def test_a_network_without_pooling_counts_once_for_each_seed():
    verdict = judge("translation", shifted(max=0.8, average=0.9))
    assert "50.0 % (50.0 to 50.0, n = 3) without pooling" in verdict.sentence


def test_scales_that_only_one_kind_has_trained_at_are_not_compared():
    trials = initialised(without=0.1)
    assert judge("initialisation", [t for t in trials if t.accuracies != [0.78]]).holds == "open"


def test_epochs_are_counted_between_two_epochs():
    assert epochs_to(Seen({}, [0.45, 0.9]), target=0.675) == pytest.approx(1.5)
    assert epochs_to(Seen({}, [0.9]), target=0.5) == pytest.approx(0.5)
    assert epochs_to(Seen({}, [0.3, 0.4]), target=0.5) == float("inf")


def test_a_study_of_lists_is_not_judged():
    trials = [
        Seen({"model.pooling": pooling, "model.pool_size": 2}, [0.5])
        for pooling in ("max", ["max", "average"])
    ]
    verdict = judge("translation", trials)
    assert verdict.holds == "open"
    assert "model.pooling has to be the same for all blocks" in verdict.sentence
