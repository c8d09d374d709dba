import json

import pytest

from distcnn.config import RunConfig
from distcnn.config_file import ConfigError, field_paths, load, shipped_configs, to_yaml

SHIPPED = sorted(path.stem for path in shipped_configs().glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file; returns its path, as a user types it."""

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def message_of(*arguments):
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Shipped configs.


def test_article_and_local_are_shipped():
    assert {"article", "local"} <= set(SHIPPED)


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - {"tune", "channels"}))
def test_every_shipped_config_is_valid(name):
    config = load(name)
    assert config.name == name
    assert config.model.layers[-1].output.num_values == 10


def test_a_sweep_is_no_run_config():
    assert "is a sweep, not a run config; use it with: distcnn tune" in message_of("tune")


def test_article_is_the_article():
    config = load("article")
    assert config.model.model_dump() == {
        "channels": (16, 32),
        "kernel_size": 5,
        "stride": 1,
        "padding": 2,
        "pooling": "max",
        "pool_size": 2,
        "pool_stride": None,
        "activation": "relu",
        "batch_norm": True,
        "initial_scale": 1.0,
    }
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 0.001)
    assert config.optimizer.weight_decay == 0


def test_article_adds_nothing_that_the_article_does_not_have():
    config = load("article")
    assert not config.data.flip
    assert config.data.shift == 0
    assert config.data.num_train is None
    assert (config.schedule.name, config.schedule.warmup_fraction) == ("constant", 0)
    assert config.training.label_smoothing == 0
    assert config.training.average_weights == 0
    assert config.training.shards == 1
    assert not config.evaluation.flip_average


def test_no_config_at_all_is_the_default():
    assert load(None) == RunConfig()


def test_a_name_that_is_not_shipped_is_answered_with_the_near_one():
    message = message_of("artcle")
    assert "no config 'artcle'" in message
    assert "article, channels, cluster, local" in message
    assert message.endswith("did you mean 'article'?")


# Overrides.


def test_an_override_beats_the_file(write):
    path = write("training: {epochs: 4, global_batch_size: 32}")
    config = load(path, ["training.epochs=9"])
    assert (config.training.epochs, config.training.global_batch_size) == (9, 32)


def test_the_last_of_two_overrides_holds():
    assert load(None, ["seed=1", "seed=2"]).seed == 2


def test_an_override_may_be_a_list_or_null(write):
    path = write("training: {early_stopping: 3}")
    config = load(path, ["model.channels=[8, 9]", "training.early_stopping=null"])
    assert config.model.channels == (8, 9)
    assert config.training.early_stopping is None


def test_a_per_block_list_comes_from_yaml(write):
    path = write("model:\n  channels: [4, 5]\n  pooling: [max, l2]\n  activation: [tanh, relu]\n")
    assert [block.pooling for block in load(path).model.blocks] == ["max", "l2"]
    assert [block.activation for block in load(path).model.blocks] == ["tanh", "relu"]


@pytest.mark.parametrize("path", list(field_paths()))
def test_every_field_is_known_by_its_dotted_path(path):
    section, _, field = path.rpartition(".")
    default = RunConfig().to_plain()
    value = default[section][field] if section else default[field]
    assert load(None, [f"{path}={json.dumps(value)}"]) == RunConfig()


@pytest.mark.parametrize(
    "override", ["training.epochs", "a.b.c=3", "=5", "training.=5", ".epochs=5", "1=2", ""]
)
def test_what_is_not_an_override_is_answered_with_an_example(override):
    message = message_of(None, [override])
    assert message == (
        f"cannot read {override!r}: an override is written section.field=value,"
        " for example training.epochs=5"
    )


# Errors.


def test_all_mistakes_are_told_at_once_with_what_was_given_where_and_what_is_allowed(write):
    path = write("seed: -1\ntraining:\n  epochs: x\n  paddin: 1\nmodl:\n  channels: [1]\n")
    message = message_of(path, ["model.pooling=maxx", "optimizer.lr=0"])
    assert set(message.splitlines()) == {
        "6 errors in the configuration",
        f"  seed = -1 ({path}): greater than or equal to 0",
        f"  training.epochs = 'x' ({path}): a whole number",
        f"  training.paddin ({path}): no such field; did you mean model.padding?",
        f"  modl ({path}): no such field; did you mean model?",
        "  model.pooling = 'maxx' (command line): 'max', 'average', 'l2' or 'distance-weighted'"
        " or a list with one entry per block; did you mean 'max'?",
        "  optimizer.lr = 0 (command line): greater than 0",
    }


def test_each_mistake_names_the_file_it_was_made_in(write):
    base = write("seed: -1\nworkers: {cpus: 0, gpus: 5}\n", name="base.yaml")
    path = write("extends: base.yaml\nworkers: {gpus: 6}\n")
    message = message_of(path)
    assert f"seed = -1 ({base})" in message
    assert f"workers.cpus = 0 ({base})" in message
    assert f"workers.gpus = 6 ({path})" in message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("training.epoch=1", "training.epochs"),
        ("training.batch_size=1", "training.global_batch_size"),
        ("training.lr=1", "optimizer.lr"),
        ("epochs=1", "training.epochs"),
        ("sed=1", "seed"),
        ("optimiser.lr=1", "optimizer"),
    ],
)
def test_an_unknown_field_is_answered_with_the_near_one(override, meant):
    assert message_of(None, [override]).endswith(f"no such field; did you mean {meant}?")


def test_an_unknown_field_like_no_other_is_answered_with_all_of_its_section():
    message = message_of(None, ["schedule.zzzzzz=1"])
    assert message.endswith("no such field; the fields are name, warmup_fraction")


def test_a_section_that_is_no_section():
    assert "training = 5 (command line): a section" in message_of(None, ["training=5"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://", "storage.directory (command line): s3:// lacks a bucket"),
        ("gs://bucket/x", "storage.directory (command line): gs:// is nothing to keep runs in"),
        ("5", "storage.directory = 5 (command line): a folder, or s3://bucket/prefix"),
    ],
)
def test_where_no_run_can_be_kept_is_said(given, said):
    assert said in message_of(None, [f"storage.directory={given}"])


def test_a_network_that_does_not_fit_names_layer_and_numbers():
    message = message_of("article", ["model.kernel_size=4"])
    assert "command line): Pool 1: (W - F)/S + 1 = (29 - 2)/2 + 1 = 14.5" in message


# YAML.


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "+1e-4", ".1e-3"])
def test_a_number_is_a_number_in_any_spelling(write, text):
    assert load(write(f"optimizer: {{lr: {text}}}")).optimizer.lr == 1e-4
    assert load(None, [f"optimizer.lr={text}"]).optimizer.lr == 1e-4


@pytest.mark.parametrize("text", ["'1e-4'", '"0.001"'])
def test_a_quoted_number_is_refused(write, text):
    message = message_of(write(f"optimizer: {{lr: {text}}}"))
    assert message.endswith("): a number")


def test_a_field_given_twice_is_refused_with_its_line(write):
    path = write("training:\n  epochs: 1\n  epochs: 2\n")
    assert message_of(path) == (
        f"{path}, line 3, column 3 is not valid YAML: 'epochs' is given twice"
    )


def test_broken_yaml_is_refused_with_its_line(write):
    path = write("seed: 1\nmodel: [1\n")
    assert message_of(path).startswith(f"{path}, line 3, column 1 is not valid YAML")


def test_broken_yaml_in_an_override_names_the_override():
    assert message_of(None, ["model.channels=[8"]).startswith("command line, model.channels")


def test_yaml_that_would_run_code_is_refused(write):
    assert "is not valid YAML" in message_of(write("seed: !!python/object/apply:os.getpid []"))


def test_a_file_without_sections_is_refused(write):
    assert "must hold sections and fields" in message_of(write("- seed"))


def test_an_empty_file_is_the_default(write):
    assert load(write("# nothing\n")) == RunConfig()


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe")
    assert message_of(str(path)).startswith(f"cannot read {path}")


def test_an_anchor_may_be_merged_and_overridden(write):
    path = write(
        "optimizer: &adam {name: adam}\nschedule: {<<: *adam, name: cosine, warmup_fraction: 0.5}\n"
    )
    assert load(path).schedule.name == "cosine"


@pytest.mark.parametrize(
    "name",
    [
        "article",
        "2024-01-01",
        "010",
        "no",
        "1e5",
    ],
)
def test_a_config_written_as_yaml_is_read_back_the_same(write, name):
    config = RunConfig(name=name)
    assert load(write(to_yaml(config))) == config


@pytest.mark.parametrize(
    "text",
    [
        "training:\n  ? [a, b]\n  : c\n",
        "2024-01-01: 5\n",
        "training: &t\n  epochs: *t\n",
        'name: "\\ud800"\n',
    ],
    ids=["list as key", "date as key", "circle", "surrogate"],
)
def test_odd_yaml_is_refused_with_a_message(write, text):
    message_of(write(text))


# extends.


def test_a_file_lays_its_fields_over_those_of_its_base(write):
    write("seed: 3\ntraining: {epochs: 4, num_shards: 2}\n", name="base.yaml")
    config = load(write("extends: base.yaml\ntraining: {epochs: 9}\n"))
    assert (config.seed, config.training.epochs, config.training.num_shards) == (3, 9, 2)


def test_a_base_may_be_a_shipped_config(write):
    config = load(write("extends: article\nname: mine\n"))
    assert config == load("article", ["name=mine"])


def test_an_override_beats_file_and_base(write):
    write("seed: 3\n", name="base.yaml")
    assert load(write("extends: base.yaml\nseed: 4\n"), ["seed=5"]).seed == 5


def test_a_base_has_no_base(write):
    first = write("seed: 1\n", name="first.yaml")
    second = write(f"extends: {first}\n", name="second.yaml")
    third = write("extends: second.yaml\n", name="third.yaml")
    assert message_of(third).startswith(f"{third} extends {second}, which extends another file")


def test_a_base_that_is_not_there_is_named_with_who_wants_it(write):
    path = write("extends: artcle\n")
    message = message_of(path)
    assert message.startswith(f"{path}: extends: no config 'artcle'")
    assert message.endswith("did you mean 'article'?")
