"""Sweep files: all that is wrong is told at once, before anything starts."""

from __future__ import annotations

import pytest

from distcnn.config_file import ConfigError, plain_to_yaml
from distcnn.sweep import file
from tests.unit.sweep.conftest import PLAIN


@pytest.fixture
def load(tmp_path):
    def load(*overrides, **fields):
        path = tmp_path / "sweep.yaml"
        path.write_text(plain_to_yaml(PLAIN | fields))
        return file.load(str(path), overrides)

    return load


def test_the_shipped_sweep_searches_learning_rate_and_channels():
    sweep = file.load("tune")
    assert set(sweep.space) == {"optimizer.lr", "model.channels"}
    assert sweep.base.name == "trial"
    config = sweep.run_config({"optimizer.lr": 0.5, "model.channels": [4, 8]})
    assert (config.optimizer.lr, config.model.channels) == (0.5, (4, 8))


def test_a_run_config_is_no_sweep():
    with pytest.raises(ConfigError, match="is a run config, not a sweep"):
        file.load("local")


def test_everything_wrong_is_told_at_once(load):
    with pytest.raises(ConfigError) as error:
        load(
            "training.epochs=0",
            base="local",
            space={
                "optimzer.lr": {"uniform": [0, 1]},
                "optimizer.lr": {"loguniform": [0, 1]},
                "workers.count": {"choice": [1, 2]},
            },
            metric="val/acc",
            nmu_trials=3,
        )
    message = str(error.value)
    assert message.startswith("6 errors in the sweep")
    for part in (
        "metric = 'val/acc'",
        "nmu_trials",
        "did you mean num_trials?",
        "training.epochs = 0 (command line)",
        "optimzer.lr",
        "did you mean optimizer.lr?",
        "both above 0",
        "workers.count",
        "set it in the base",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"model.channels": {"choice": [[16, 32], [0, 32]]}}, "model.channels[0] = 0"),
        ({"model.kernel_size": {"randint": [1, 41]}}, "leaves nothing"),
        ({"optimizer.lr": {"uniform": [-1, 1]}}, "optimizer.lr = -1.0"),
        ({"training.global_batch_size": {"uniform": [32, 64]}}, "a whole number"),
        ({"model.kernel_size": {"choice": [[5, 5, 5]]}}, "3 values for 2 blocks"),
        ({"model.pool_size": {"choice": ["two"]}}, "model.pool_size = 'two'"),
        ({"model.stride": {"randint": [1, 5]}}, "is not a whole number"),
    ],
)
def test_each_bound_and_choice_is_tried_on_the_base(load, space, told):
    with pytest.raises(ConfigError, match="in the sweep") as error:
        load(space=space)
    assert told in str(error.value)


def test_values_that_are_refused_together_are_told_with_what_they_go_with(load):
    space = {
        "training.global_batch_size": {"choice": [128, 4]},
        "training.num_shards": {"choice": [1, 8]},
    }
    with pytest.raises(ConfigError) as error:
        load(space=space)
    assert "num_shards = 8 exceeds global_batch_size = 4" in str(error.value)
    assert "with global_batch_size 4, num_shards 8" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"search": "grid"}, "search = grid takes grid or choice"),
        ({"space": {"optimizer.lr": {"grid": [0.1]}}}, "use choice"),
        ({"num_trials": None}, "has no end"),
        ({"mode": "min"}, "would choose the worst"),
        ({"scheduler": "pbt"}, "copies weights"),
        ({"scheduler": "pbt", "search": "optuna"}, "set search to random"),
        (
            {"scheduler": "asha", "space": {"training.epochs": {"randint": [1, 4]}}},
            "compares equal epochs",
        ),
        ({"scheduler": "ahsa"}, "did you mean 'asha'?"),
        ({"space": {}}, "one entry at least"),
        ({"base": "locl"}, "did you mean 'local'?"),
        ({"space": {"training.precision": {"choice": ["auto", "32-true"]}}}, "decided once"),
        ({"name": "n" * 95}, "name = "),
    ],
)
def test_what_does_not_go_together_is_refused(load, fields, told):
    with pytest.raises(ConfigError) as error:
        load(**fields)
    assert told in str(error.value)


def test_elastic_workers_are_refused(load):
    with pytest.raises(ConfigError, match="trials are compared, with as many workers each"):
        load("workers.min=1", "workers.max=2")


def test_overrides_reach_the_sweep_or_its_base(load):
    sweep = load("num_trials=3", "scheduler=asha", "scheduler.grace_epochs=2", "training.epochs=5")
    assert sweep.config.num_trials == 3
    assert (sweep.config.scheduler.name, sweep.config.scheduler.grace_epochs) == ("asha", 2)
    assert sweep.base.training.epochs == 5


def test_a_base_beside_the_sweep_comes_first(load, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: article\nname: mine\n")
    assert load(base="mine.yaml").base.name == "mine"


def test_it_is_written_as_it_is_read(load, tmp_path):
    sweep = load(scheduler="asha")
    path = tmp_path / "again.yaml"
    path.write_text(plain_to_yaml(file.to_plain(sweep.config, "local")))
    assert file.load(str(path)) == sweep


def test_every_shipped_sweep_is_valid() -> None:
    for name in ("tune", "channels"):
        sweep = file.load(name)
        assert all(sweep.space.values()), name
