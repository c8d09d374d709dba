import json
import os
import subprocess
import sys

import pytest
import yaml

from distcnn import __version__
from distcnn.cli import main
from distcnn.config import RunConfig
from distcnn.config_file import load
from distcnn.describe import describe


@pytest.fixture
def run(capsys):
    """Runs the command; returns its exit code, stdout and stderr."""

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own way out
            code = ended.code
        return code, *capsys.readouterr()

    return run


def printed_config(output):
    return RunConfig.from_plain(yaml.safe_load(output))


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["describe", "-h"]])
def test_help(run, arguments):
    code, output, _ = run(*arguments)
    assert code == 0
    assert output.startswith("usage: distcnn")


def test_version(run):
    assert run("--version") == (0, f"distcnn {__version__}\n", "")


def test_describe_prints_the_table_of_a_config(run):
    assert run("describe", "article") == (0, describe(load("article")) + "\n", "")


def test_describe_takes_overrides(run):
    expected = describe(load("article", ["model.channels=[3]"]))
    assert run("describe", "article", "model.channels=[3]") == (0, expected + "\n", "")


def test_without_a_config_it_is_local(run):
    _, output, _ = run("train", "--dry-run")
    assert printed_config(output) == load("local")


def test_without_a_config_overrides_still_count(run):
    _, output, _ = run("train", "seed=4", "training.epochs=2", "--dry-run")
    assert printed_config(output) == load("local", ["seed=4", "training.epochs=2"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["article", "seed=4", "training.epochs=2", "--dry-run"],
        ["article", "--dry-run", "seed=4", "training.epochs=2"],
        ["article", "seed=4", "--dry-run", "training.epochs=2"],
        ["--dry-run", "article", "seed=4", "training.epochs=2"],
    ],
)
def test_options_may_stand_anywhere(run, arguments):
    code, output, _ = run("train", *arguments)
    assert code == 0
    assert printed_config(output) == load("article", ["seed=4", "training.epochs=2"])


def test_a_dry_run_makes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--dry-run", "--run-dir", "made")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_launch_prints_the_config_and_what_ray_is_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, output, errors = run("launch", "workers.cpus=0.5", "--run-dir", "made", "--dry-run")
    assert (code, errors) == (0, "")
    config, asked = output.split("---\n")
    assert printed_config(config) == load("cluster", ["workers.cpus=0.5"])
    assert yaml.safe_load(asked)["ray"]["workers"] == 2
    assert yaml.safe_load(asked)["ray"]["resources_per_worker"]["CPU"] == 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_dry_launch_names_the_cluster(run, monkeypatch, by_variable):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379" if by_variable else "10.0.0.2:6379")
    option = [] if by_variable else ["--address", "10.0.0.1:6379"]
    _, output, _ = run("launch", *option, "--dry-run")
    [_, asked] = yaml.safe_load_all(output)
    assert asked["ray"]["address"] == "10.0.0.1:6379"


def test_a_launch_by_ray_client_is_refused_with_the_remedy(run):
    code, output, errors = run("launch", "--address", "ray://10.0.0.1:10001")
    assert (code, output) == (1, "")
    assert "--address auto" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: VERB"),
        (["desribe"], "did you mean 'describe'?"),
        (["describe", "artcle"], "did you mean 'article'?"),
        (["describe", "training.epoch=3"], "did you mean training.epochs?"),
        (["describe", "seed=x"], "seed = 'x' (command line): a whole number"),
        (["describe", "article", "more"], "cannot read 'more'"),
        (["describe", "--nonsense"], "distcnn describe: unrecognized arguments: --nonsense"),
        (["train", "--run-dir"], "argument --run-dir: expected one argument"),
        (["evaluate", "x", "--split", "tst"], "did you mean 'test'?"),
        (["runs", "a", "b"], "unrecognized arguments: b"),
        (["runs", "missing"], "there is no folder missing"),
        (["launch", "--address"], "argument --address: expected one argument"),
        (["launch", "workers.gpus=2"], "workers.gpus = 2 (command line): less than or equal to 1"),
        (["train", "article", "workers.count=2"], "use `distcnn launch`"),
        (["resume", "missing"], "missing is not a run directory: it does not exist"),
        (["evaluate", "."], ". is not a run directory: it holds no config.yaml"),
    ],
)
def test_what_is_typed_wrong_ends_with_2_and_says_what(
    run, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("distcnn")
    assert message in errors
    assert "Traceback" not in errors


def test_debug_shows_the_traceback_and_the_message(run):
    code, _, errors = run("describe", "seed=x", "--debug")
    assert code == 2
    assert errors.startswith("Traceback")
    assert errors.endswith("seed = 'x' (command line): a whole number\n")


def test_an_interrupted_verb_ends_as_a_shell_expects(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("distcnn.config_file.load", interrupt)
    assert run("describe") == (130, "", "distcnn: interrupted\n")


# In a process of its own: here, other tests have imported everything already.
REPORT_IMPORTS = """
import json, sys
from distcnn.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
heavy = sorted({"torch", "pytorch_lightning", "torchmetrics", "ray"} & set(sys.modules))
print(json.dumps([code, heavy]))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["describe", "article"], 0),
        (["train", "--dry-run"], 0),
        (["launch", "--dry-run"], 0),
        (["launch", "--dry-run", "--address", "10.0.0.1:6379"], 0),
        (["launch", "--address", "ray://10.0.0.1:10001"], 1),
        (["train", "seed=x"], 2),
        (["desribe"], 2),
        (["resume", "missing"], 2),
        (["evaluate", "missing"], 2),
        (["runs", "."], 0),
    ],
)
def test_what_trains_nothing_imports_nothing_heavy(arguments, code, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", REPORT_IMPORTS, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(process.stdout.splitlines()[-1]) == [code, []]


@pytest.mark.parametrize("arguments", [["--help"], ["describe"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    with os.fdopen(writing_end, "w") as output:
        process = subprocess.run(
            [sys.executable, "-m", "distcnn.cli", *arguments],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (process.returncode, process.stderr) == (0, "")
