import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from distcnn.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    StorageConfig,
    TrainingConfig,
    WorkersConfig,
)
from distcnn.config_file import ConfigError, load
from distcnn.object_store import ObjectPath

COUNTS = st.integers(1, 10**9)
FRACTIONS = st.floats(0, 1, exclude_max=True)
FOLDERS = st.sampled_from([Path("runs"), Path("/with space/and-ä"), Path("..") / "up"])
STORES = st.sampled_from([ObjectPath("bucket", ""), ObjectPath("bucket", "a/b c")])


@st.composite
def models(draw):
    """Convolutions that keep the size; then 28 can be halved twice."""
    channels = tuple(draw(st.lists(COUNTS, min_size=1, max_size=2)))

    def one_or_per_block(*choices):
        one = st.sampled_from(choices)
        return draw(one | st.tuples(*[one for _ in channels]))

    padding = one_or_per_block(0, 1, 2)
    is_list = isinstance(padding, tuple)
    return ModelConfig(
        channels=channels,
        kernel_size=tuple(2 * pixels + 1 for pixels in padding) if is_list else 2 * padding + 1,
        padding=padding,
        pooling=one_or_per_block("max", "average", "l2", "distance-weighted"),
        pool_size=one_or_per_block(1, 2),
        pool_stride=draw(st.none()),
        activation=one_or_per_block("relu", "tanh", "sigmoid"),
        batch_norm=draw(st.booleans()),
    )


def configs():
    return st.builds(
        RunConfig,
        name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True),
        seed=st.integers(0, 2**32 - 1),
        data=st.builds(
            DataConfig,
            directory=st.none() | FOLDERS,
            num_train=st.none() | COUNTS,
            num_val=COUNTS,
            shift=st.integers(0, 27),
        ),
        model=models(),
        optimizer=st.builds(
            OptimizerConfig,
            lr=st.floats(0, exclude_min=True, allow_infinity=False),
            weight_decay=st.floats(0, allow_infinity=False),
            momentum=FRACTIONS,
        ),
        schedule=st.builds(ScheduleConfig, warmup_fraction=FRACTIONS),
        training=st.builds(
            TrainingConfig,
            epochs=COUNTS,
            global_batch_size=st.integers(8, 4096),
            num_shards=st.integers(1, 8),
            label_smoothing=FRACTIONS,
            average_weights=FRACTIONS,
            early_stopping=st.none() | COUNTS,
            checkpoint_every_steps=st.none() | COUNTS,
            keep_checkpoints=COUNTS,
        ),
        evaluation=st.builds(EvaluationConfig),
        workers=st.builds(WorkersConfig, cpus=st.none() | COUNTS),
        storage=st.builds(StorageConfig, directory=FOLDERS | STORES),
    )


def errors_of(values):
    """Dotted path and type of each mistake in `values`."""
    with pytest.raises(ValidationError) as caught:
        RunConfig.from_plain(values)
    return {(".".join(map(str, error["loc"])), error["type"]) for error in caught.value.errors()}


@settings(max_examples=50)
@given(config=configs())
def test_a_config_survives_its_travel_as_json(config):
    travelled = json.loads(json.dumps(config.to_plain()))
    assert RunConfig.from_plain(travelled) == config


def test_the_default_is_valid():
    assert RunConfig.from_plain({}) == RunConfig()


@pytest.mark.parametrize("section", [None, "data", "model", "training"])
def test_no_field_can_be_set_afterwards(section):
    config = RunConfig()
    target = config if section is None else getattr(config, section)
    field = next(iter(type(target).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(target, field, getattr(target, field))


def test_unknown_fields_are_refused_in_every_section():
    sections = [name for name, value in RunConfig() if isinstance(value, BaseModel)]
    assert errors_of({"nonsense": 1} | {name: {"nonsense": 1} for name in sections}) == {
        ("nonsense", "extra_forbidden"),
        *((f"{name}.nonsense", "extra_forbidden") for name in sections),
    }


def test_every_field_explains_itself():
    sections = [value for _, value in RunConfig() if isinstance(value, BaseModel)]
    unexplained = [
        f"{type(owner).__name__}.{name}"
        for owner in [RunConfig(), *sections]
        for name, info in type(owner).model_fields.items()
        if not info.description and not isinstance(getattr(owner, name), BaseModel)
    ]
    assert unexplained == []


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("training", "epochs", "3"),
        ("training", "epochs", 3.0),
        ("training", "epochs", True),
        ("training", "epochs", 0),
        ("training", "epochs", None),
        ("training", "label_smoothing", 1.0),
        ("training", "average_weights", -0.1),
        ("optimizer", "lr", "1e-4"),
        ("optimizer", "lr", True),
        ("optimizer", "lr", 0),
        ("optimizer", "lr", float("nan")),
        ("optimizer", "lr", float("inf")),
        ("data", "flip", 1),
        ("data", "shift", 28),
        ("data", "source", "mnist"),
        ("workers", "gpus", 2),
    ],
)
def test_nothing_is_guessed(section, field, value):
    [(path, _)] = errors_of({section: {field: value}})
    assert path == f"{section}.{field}"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "a\n", "x" * 101, 5])
def test_a_name_that_makes_no_folder_is_refused(name):
    [(path, _)] = errors_of({"name": name})
    assert path == "name"


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_is_a_32_bit_number(seed):
    [(path, _)] = errors_of({"seed": seed})
    assert path == "seed"


def test_a_single_value_holds_for_all_blocks_and_a_list_for_one_each():
    model = ModelConfig(channels=(4, 5, 6), kernel_size=(1, 3, 5), padding=(0, 1, 2), pool_size=1)
    assert [block.channels for block in model.blocks] == [4, 5, 6]
    assert [block.kernel_size for block in model.blocks] == [1, 3, 5]
    assert [block.padding for block in model.blocks] == [0, 1, 2]
    assert [block.pool_size for block in model.blocks] == [1, 1, 1]


def test_the_pooling_windows_touch_by_default():
    model = ModelConfig(channels=(4, 5), pool_size=(2, 7))
    assert [block.pool_stride for block in model.blocks] == [2, 7]


def test_the_pooling_windows_may_overlap():
    model = ModelConfig(channels=(4,), pool_size=4, pool_stride=2)
    assert [layer.output.size for layer in model.layers] == [28, 28, 28, 13, 1]


@pytest.mark.parametrize("field", ["kernel_size", "stride", "pool_size", "padding", "pool_stride"])
@pytest.mark.parametrize("num_values", [0, 1, 3])
def test_a_list_has_one_value_per_block(field, num_values):
    with pytest.raises(ValidationError, match=f"{field} has {num_values} values for 2 blocks"):
        ModelConfig(channels=(16, 32), **{field: (1,) * num_values})


def test_a_network_whose_volumes_do_not_come_out_whole_is_refused():
    with pytest.raises(ValidationError, match=r"Conv 1: .* = \(28 - 5 \+ 2\*2\)/2 \+ 1 = 14\.5"):
        ModelConfig(stride=2)


def test_a_shard_has_an_image():
    with pytest.raises(ValidationError, match="num_shards = 9 exceeds global_batch_size = 8"):
        TrainingConfig(global_batch_size=8, num_shards=9)


def test_with_values_replaces_some_fields_in_a_copy():
    config = RunConfig()
    changed = config.with_values(training={"epochs": 7}, data={"flip": True})
    assert (changed.training.epochs, changed.data.flip) == (7, True)
    assert (
        changed.with_values(training={"epochs": 3}, data={"flip": False}) == config == RunConfig()
    )


@pytest.mark.parametrize("text", ["runs", "/tmp/runs", "s3://bucket/a/b"])
def test_where_runs_are_kept_stays_what_was_written(text):
    config = RunConfig.from_plain({"storage": {"directory": text}})
    assert config.to_plain()["storage"] == {"directory": text}


def test_with_values_validates_again():
    with pytest.raises(ValidationError, match=r"training\.epochs"):
        RunConfig().with_values(training={"epochs": 0})


# What trains, and what is done about what fails.


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("workers", "count", 0),
        ("workers", "count", 1.5),
        ("workers", "cpus", 0),
        ("workers", "cpus", -1),
        ("workers", "cpus", "2"),
        ("workers", "gpus", 2),
        ("workers", "gpus", -1),
        ("workers", "placement", "STRICT_PACK"),
        ("workers", "accelerator_type", 100),
        ("workers", "label_selector", "zone=a"),
        ("recovery", "max_failures", -1),
        ("recovery", "max_preemptions", 1.5),
        ("recovery", "wait_for_workers_seconds", -1),
    ],
)
def test_workers_and_recovery_are_not_guessed_either(section, field, value):
    [(path, _)] = errors_of({section: {field: value}})
    assert path == f"{section}.{field}"


@pytest.mark.parametrize(("cpus", "threads"), [(0.01, 1), (0.5, 1), (1, 1), (1.9, 1), (2.5, 2)])
def test_a_worker_computes_with_one_thread_at_least(cpus, threads):
    workers = RunConfig.from_plain({"workers": {"cpus": cpus}}).workers
    assert (workers.cpus, workers.threads) == (cpus, threads)


def test_labels_are_an_override():
    config = load(None, ["workers.label_selector={zone: a, spot: '!true'}"])
    assert config.workers.label_selector == {"zone": "a", "spot": "!true"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers.count=9", r"workers\.count = 9 leaves a worker without an image"),
        ("workers.cpus=0", r"workers\.cpus = 0 \(command line\): greater than 0"),
        ("workers.gpus=2", r"workers\.gpus = 2 \(command line\): less than or equal to 1"),
        ("workers.placement=sprad", r"did you mean 'spread'\?"),
        ("workers.label_selector={zone: 1}", r"workers\.label_selector.* = 1 .*: text"),
        ("recovery.max_failures=-1", r"recovery\.max_failures = -1 .*: greater than or equal to 0"),
        ("recovery.max_failure=1", r"did you mean recovery\.max_failures\?"),
    ],
)
def test_a_mistake_about_workers_is_told_with_what_is_allowed(override, message):
    with pytest.raises(ConfigError, match=message):
        load(None, ["training.global_batch_size=8", override])


@pytest.mark.parametrize(
    ("num_shards", "count", "per_worker"),
    [(1, 1, 1), (1, 4, 1), (4, 1, 4), (4, 2, 2), (4, 3, 2), (4, 4, 1), (4, 5, 1), (5, 2, 3)],
)
def test_shards_are_divided_among_the_workers(num_shards, count, per_worker):
    config = RunConfig().with_values(
        training={"num_shards": num_shards}, workers={"count": count, "cpus": 1}
    )
    assert config.num_shards_per_worker == per_worker


@pytest.mark.parametrize(("batch", "count", "num_shards"), [(7, 8, 1), (8, 3, 8), (8, 5, 8)])
def test_no_worker_and_none_of_its_shards_is_empty(batch, count, num_shards):
    with pytest.raises(ValidationError, match="leaves a worker without an image"):
        RunConfig().with_values(
            training={"global_batch_size": batch, "num_shards": num_shards},
            workers={"count": count},
        )


@given(batch=st.integers(1, 40), count=st.integers(1, 40), num_shards=st.integers(1, 40))
def test_whatever_is_accepted_divides_into_shards_with_an_image_each(batch, count, num_shards):
    try:
        config = RunConfig().with_values(
            training={"global_batch_size": batch, "num_shards": num_shards},
            workers={"count": count},
            model={"batch_norm": False},
        )
    except ValidationError:
        return
    smallest_part = batch // count
    assert smallest_part // config.num_shards_per_worker >= 1


def test_batch_norm_needs_more_than_one_value_in_each_worker_s_shard():
    one_pixel = {"channels": [4], "kernel_size": 28, "padding": 0, "pool_size": 1}
    with pytest.raises(ValidationError, match=r"lower training\.num_shards or workers\.count"):
        RunConfig().with_values(
            model=one_pixel, training={"global_batch_size": 4}, workers={"count": 4}
        )


# The same result on any number of workers, and workers that come and go.


@pytest.mark.parametrize(
    ("batch", "num_shards"), [(1, 1), (2, 2), (64, 2), (128, 2), (191, 2), (192, 3), (1024, 16)]
)
def test_a_run_that_is_reproducible_across_workers_has_shards_of_64_unless_told(batch, num_shards):
    ordinary = RunConfig().with_values(training={"global_batch_size": batch})
    assert ordinary.training.shards == 1
    across = ordinary.with_values(training={"reproducible": "across-workers"})
    assert across.training.shards == num_shards
    if batch > 5:
        assert across.with_values(training={"num_shards": 5}).training.shards == 5


def test_each_worker_then_needs_a_shard():
    training = {"reproducible": "across-workers", "num_shards": 3}
    RunConfig().with_values(training=training, workers={"count": 3})
    with pytest.raises(ValidationError, match=r"count = 4 exceeds training\.num_shards = 3"):
        RunConfig().with_values(training=training, workers={"count": 4})


def test_its_workers_are_no_part_of_its_identity_but_their_threads():
    across = RunConfig().with_values(
        training={"reproducible": "across-workers", "num_shards": 4},
        workers={"cpus": 1, "gpus": 0},
    )

    def identity(**workers):
        return across.with_values(workers=workers).identity

    for workers in ({"count": 3}, {"cpus": 0.5}, {"min": 1, "max": 4, "count": 4}):
        assert identity(**workers) == across.identity
    assert identity(cpus=2) != across.identity
    assert across.with_values(recovery={"max_failures": 9}).identity == across.identity
    ordinary = RunConfig()
    assert ordinary.with_values(workers={"count": 2}).identity != ordinary.identity


def test_elastic_workers_have_two_bounds_in_the_place_of_a_count():
    for bounds in ({"min": 2, "max": 4}, {"min": 2, "max": 4, "count": 3}):
        workers = RunConfig.from_plain({"workers": bounds}).workers
        assert (workers.is_elastic, workers.least, workers.count) == (True, 2, 4)
    assert not RunConfig().workers.is_elastic
    assert RunConfig().workers.least == 1


def test_an_elastic_run_may_be_gone_on_with_within_other_bounds():
    elastic = RunConfig().with_values(workers={"min": 2, "max": 4, "cpus": 1})
    assert elastic.with_values(workers={"min": 1, "max": 8}).identity == elastic.identity
    assert elastic.identity != RunConfig().with_values(workers={"count": 4, "cpus": 1}).identity


def test_any_number_of_workers_between_the_bounds_has_images_for_all_its_shards():
    """Five workers have a shard each; four would have two, of which one had no image."""
    training = {"global_batch_size": 7, "num_shards": 5}
    RunConfig().with_values(training=training, workers={"count": 5})
    with pytest.raises(ValidationError, match="leaves a worker without an image"):
        RunConfig().with_values(training=training, workers={"min": 4, "max": 5})


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ({"min": 2}, "set both, or count"),
        ({"max": 2}, "set both, or count"),
        ({"min": 3, "max": 2}, "min = 3 exceeds max = 2"),
        ({"min": 1, "max": 2, "label_selector": {"ray.io/node-id": "a"}}, "by another label"),
    ],
)
def test_bounds_that_do_not_go_together_are_refused(workers, message):
    with pytest.raises(ValidationError, match=message):
        RunConfig.from_plain({"workers": workers})


def test_images_of_an_epoch():
    assert RunConfig().data.num_images_per_epoch == 55_000
    assert RunConfig().with_values(data={"num_train": 100}).data.num_images_per_epoch == 100
