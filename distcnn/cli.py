"""The `distcnn` command. Each verb imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distcnn import __version__, cli_cluster
from distcnn.collector import spare_imports
from distcnn.command_line import (
    RUN_HELP,
    Parser,
    a_location,
    a_positive,
    add_config,
    add_debug,
    add_verb,
    named_config,
)
from distcnn.errors import UsageError, UserError

if TYPE_CHECKING:
    from distcnn.config import RunConfig
    from distcnn.orchestration.tune import SweepResult
    from distcnn.run_directory.checkpoint_index import CheckpointRecord
    from distcnn.run_directory.run import RunDirectory, RunResult

_INTERRUPTED = 130
_NUM_READERS = 8
_FORMATS = ("onnx", "torch-export", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0: done. 1: it could not be done, and the message says why. 2: what was typed is wrong.
    130, 143: stopped by Ctrl-C, SIGTERM; training that had begun is saved.

    Raises:
        SystemExit: for `--help` and for words that are no command.
    """
    spare_imports()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output (`head`, say) has seen enough; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str] | None) -> int:
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        return verb(options)
    except UserError as error:
        if options.debug:
            traceback.print_exc()
        print(f"distcnn: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("distcnn: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no positional words after an option once it has had some: these are ours.
    overrides = [word for word in rest if not word.startswith("-")]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and not hasattr(options, "overrides")):
        options.parser.error(f"unrecognized arguments: {' '.join(unknown or overrides)}")
    if overrides:
        options.overrides += overrides
    return options


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="distcnn",
        description="Train the same CNN on a laptop, on a cluster and under a sweep.",
    )
    parser.add_argument("--version", action="version", version=f"distcnn {__version__}")
    add_debug(parser, default=False)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="verb_name")

    train = add_verb(verbs, "train", _train, "train on this machine")
    add_config(train, default="local")
    train.add_argument(
        "--run-dir",
        type=a_location,
        metavar="DIR",
        help=f"{RUN_HELP}, made anew",
    )
    train.add_argument("--dry-run", action="store_true", help="print the config and train nothing")

    launch = add_verb(verbs, "launch", _launch, "train on many workers, here or on a Ray cluster")
    add_config(launch, default="cluster")
    launch.add_argument(
        "--run-dir", type=a_location, metavar="DIR", help=f"{RUN_HELP}; one that exists goes on"
    )
    _add_address(launch)
    launch.add_argument(
        "--dry-run", action="store_true", help="print the config and what Ray would be asked for"
    )
    launch.add_argument(
        "--preflight", action="store_true", help="check the cluster, and start nothing"
    )

    tune = add_verb(verbs, "tune", _tune, "search any fields: learning rates, channel counts, ...")
    add_config(
        tune,
        default="tune",
        metavar="SWEEP",
        what="a sweep's YAML file, or the name of a shipped one",
        overrides_help="replace a field of the sweep (search=optuna), or a value of its base",
    )
    tune.add_argument("--num-trials", type=a_positive, metavar="N", help="how many trials")
    tune.add_argument(
        "--run-dir", type=a_location, metavar="DIR", help="the sweep's folder, made anew"
    )
    _add_address(tune)
    tune.add_argument(
        "--dry-run", action="store_true", help="print the plan and the trials, and start nothing"
    )

    resume = add_verb(verbs, "resume", _resume, "resume an interrupted run or sweep")
    resume.add_argument("run", type=a_location, metavar="RUN", help=f"{RUN_HELP}; or a sweep's")
    resume.add_argument(
        "--restart",
        action="store_true",
        help="discard the run's checkpoints and train from step 0",
    )
    _add_address(resume)

    evaluate = add_verb(verbs, "evaluate", _evaluate, "evaluate a run's best checkpoint")
    evaluate.add_argument("run", type=a_location, metavar="RUN", help=RUN_HELP)
    evaluate.add_argument(
        "--split",
        choices=("val", "test"),
        default="val",
        help="the images to evaluate on (default: %(default)s; choose nothing by the test split)",
    )
    evaluate.add_argument("--json", action="store_true", help="print all measures as JSON")

    report = add_verb(verbs, "report", _report, "make the page of a run or a sweep: report.html")
    report.add_argument("run", type=a_location, metavar="RUN", help=f"{RUN_HELP}; or a sweep's")

    predict = add_verb(verbs, "predict", _predict, "say what a run's network takes pictures for")
    predict.add_argument("run", type=a_location, metavar="RUN", help=RUN_HELP)
    predict.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURE", help="image files, or folders of them"
    )
    predict.add_argument("--json", action="store_true", help="print one JSON object per picture")

    export = add_verb(verbs, "export", _export, "write a run's network for other programs")
    export.add_argument("run", type=a_location, metavar="RUN", help=RUN_HELP)
    export.add_argument("--format", choices=_FORMATS, required=True, help="of the file")
    export.add_argument(
        "--output", type=Path, metavar="FILE", help="where to (default: named as the run, here)"
    )

    describe = add_verb(verbs, "describe", _describe, "print the layer table of a config's network")
    add_config(describe, default="local")

    runs = add_verb(verbs, "runs", _runs, "list the runs in a folder")
    runs.add_argument("folder", nargs="?", type=a_location, default=Path("runs"), metavar="FOLDER")
    runs.add_argument("--json", action="store_true", help="print them as JSON")

    compare = add_verb(verbs, "compare", _compare, "say at which step two runs first differ")
    compare.add_argument("one", type=a_location, metavar="RUN", help=RUN_HELP)
    compare.add_argument("other", type=a_location, metavar="RUN", help="another one")

    cli_cluster.add(verbs)
    add_verb(verbs, "doctor", _doctor, "say what this machine offers, and what will not work")
    return parser


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="the Ray cluster of a launched run (default: RAY_ADDRESS, else a Ray started here)",
    )


def _load_config(options: argparse.Namespace) -> RunConfig:
    from distcnn import config_file

    return config_file.load(*named_config(options))


def _train(options: argparse.Namespace) -> int:
    config = _load_config(options)
    if options.dry_run:
        from distcnn import config_file

        print(config_file.to_yaml(config), end="")
        return 0
    from distcnn.progress import watcher
    from distcnn.training import local

    return _conclude(local.train(config, watcher(), options.run_dir))


def _launch(options: argparse.Namespace) -> int:
    config = _load_config(options)
    from distcnn.orchestration.session import given_address

    address = given_address(options.address)
    if options.dry_run:
        from distcnn.cluster.request import render

        print(render(config, address), end="")
        return 0
    from distcnn.orchestration import launch
    from distcnn.progress import watcher

    _end_on_sigterm()
    if options.preflight:
        from distcnn.findings import any_failed, print_findings

        findings = launch.preflight(config, watcher(), options.run_dir, address)
        print_findings(findings)
        return int(any_failed(findings))
    return _conclude(launch.launch(config, watcher(), options.run_dir, address))


def _tune(options: argparse.Namespace) -> int:
    from distcnn.sweep import file

    sweep = file.load(*named_config(options), options.num_trials)
    if options.dry_run:
        from distcnn.sweep.plan import render

        print(render(sweep), end="")
        return 0
    from distcnn.orchestration import tune
    from distcnn.orchestration.session import given_address
    from distcnn.sweep.view import sweep_view

    _end_on_sigterm()
    address = given_address(options.address)
    return _conclude_sweep(tune.tune(sweep, sweep_view(), options.run_dir, address))


def _conclude_sweep(result: SweepResult) -> int:
    """Show how a sweep ended; returns the exit code that says the same."""
    from distcnn.sweep.summary import print_sweep

    print_sweep(result.directory, result.results)
    return result.exit_code


def _end_on_sigterm() -> None:
    """Leave in order, before there are workers that can save: what was made is cleaned up."""

    def end(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _resume(options: argparse.Namespace) -> int:
    from distcnn.run_directory.run import open_run
    from distcnn.sweep.directory import SweepDirectory, is_sweep, sweep_of

    if sweep := sweep_of(options.run):
        from distcnn import config_file

        trial = open_run(options.run)
        again = config_file.command(trial.read_config(), trial.config_path)
        raise UsageError(
            f"{options.run} is a trial of a sweep, which decides how far it trains:"
            f" distcnn resume {sweep}; to train the same on its own, to the end:"
            f" {again}"
        )
    if is_sweep(options.run):
        if options.restart:
            raise UsageError(
                "--restart applies to a run, not to a sweep. To search again, start a new sweep:"
                f" distcnn tune {options.run / 'sweep.yaml'}"
            )
        from distcnn.orchestration import tune
        from distcnn.orchestration.session import given_address
        from distcnn.sweep.view import sweep_view

        _end_on_sigterm()
        directory, address = SweepDirectory(options.run.absolute()), given_address(options.address)
        return _conclude_sweep(tune.resume(directory, sweep_view(), address))
    run = open_run(options.run)
    from distcnn.progress import watcher

    is_launched = (run.read_provenance() or {}).get("launcher") == "ray"
    if is_launched or run.read_config().workers.count > 1:
        from distcnn.orchestration import launch
        from distcnn.orchestration.session import given_address

        _end_on_sigterm()
        address = given_address(options.address)
        return _conclude(launch.resume(run, watcher(), address, restart=options.restart))
    from distcnn.training import local

    return _conclude(local.resume(run, watcher(), restart=options.restart))


def _conclude(result: RunResult) -> int:
    """Show how a run ended; returns the exit code that says the same."""
    from distcnn.summary import print_summary

    print_summary(result.run.path, result.results)
    return result.exit_code


def _evaluate(options: argparse.Namespace) -> int:
    from distcnn.run_directory.run import open_run

    run = open_run(options.run)
    from distcnn.progress import watcher
    from distcnn.summary import print_measured
    from distcnn.training import evaluation
    from distcnn.training.chosen import choose_checkpoint
    from distcnn.training.resolve import resolve
    from distcnn.workers import Workers

    # Any machine may evaluate: only training has to go on where it began.
    config = run.read_config().with_values(
        workers={"count": 1, "min": None, "max": None, "gpus": None}, training={"trackers": []}
    )
    config, dataset = resolve(config, watcher())
    record = choose_checkpoint(run)
    if config.workload is not None:
        return _evaluate_workload(options, config, run, record)
    _, measured = evaluation.evaluate(config, run, record, dataset, [options.split], Workers())
    if options.json:
        print(json.dumps({"split": options.split, "step": record.step} | measured[options.split]))
    else:
        print_measured(options.split, record.epoch, dataset.class_names, measured[options.split])
    return 0


def _evaluate_workload(
    options: argparse.Namespace, config: RunConfig, run: RunDirectory, record: CheckpointRecord
) -> int:
    from distcnn.summary import print_logged
    from distcnn.training.workload_evaluation import evaluate_workload

    _, measured = evaluate_workload(config, run, record, [options.split])
    logged = measured.get(options.split)
    if logged is None:
        raise UsageError(
            f"{config.workload} has nothing to be tested on: that takes a test_step of its module"
            " and a test_dataloader of its data"
        )
    if options.json:
        print(json.dumps({"split": options.split, "step": record.step} | logged))
    else:
        print_logged(record.epoch, logged)
    return 0


def _report(options: argparse.Namespace) -> int:
    from distcnn.report.write import write_report

    print(write_report(options.run.absolute()))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from distcnn.data.pictures import find_pictures
    from distcnn.run_directory.run import open_run

    run, pictures = open_run(options.run), list(find_pictures(options.pictures))
    from distcnn.training.predict import predict

    all_were_read = True
    for prediction in predict(run, pictures):
        all_were_read &= prediction.error is None
        if options.json:
            print(json.dumps(prediction.plain), flush=True)
        elif prediction.error is None:
            print(prediction, flush=True)
        else:
            print(f"distcnn: {prediction.error}", file=sys.stderr)
    return 0 if all_were_read else 1


def _export(options: argparse.Namespace) -> int:
    from distcnn.run_directory.run import open_run

    run = open_run(options.run)
    from distcnn.training.export import export

    exported = export(run, options.format, options.output)
    print(
        f"{exported.path}: as the original on {exported.num_images} pictures of the test split"
        f" (greatest difference of a score: {exported.difference:.1e})"
    )
    return 0


def _describe(options: argparse.Namespace) -> int:
    config = _load_config(options)
    if config.workload is None:
        from distcnn.describe import describe

        print(describe(config))
    else:
        from distcnn.training.workload_description import describe_workload

        print(describe_workload(config))
    return 0


def _runs(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise UsageError(f"there is no folder {options.folder}; `distcnn train` makes runs/")
    from concurrent.futures import ThreadPoolExecutor

    from distcnn.summary import print_runs, summarize_run
    from distcnn.sweep.directory import runs_and_trials

    # An object store answers slowly, but many at once.
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        rows = list(pool.map(summarize_run, runs_and_trials(options.folder)))
    print(json.dumps(rows, indent=2)) if options.json else print_runs(options.folder, rows)
    return 0


def _compare(options: argparse.Namespace) -> int:
    """As `cmp` does: 0 where they are identical, 1 where they are not, 2 where none can tell."""
    from distcnn.comparison import compare
    from distcnn.run_directory.run import open_run

    compared = compare(open_run(options.one), open_run(options.other))
    print(compared)
    return int(not compared.is_identical)


def _doctor(options: argparse.Namespace) -> int:
    from distcnn.doctor import examine
    from distcnn.findings import any_failed, print_findings

    findings = examine()
    print_findings(findings)
    return int(any_failed(findings))


if __name__ == "__main__":
    sys.exit(main())
