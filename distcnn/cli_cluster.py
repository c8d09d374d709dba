"""The verbs of `distcnn cluster`: plan, submit, doctor, status, logs, follow, stop, ..."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from distcnn.cluster.duration import DurationError, seconds
from distcnn.cluster.handle import Target
from distcnn.command_line import (
    RUN_HELP,
    Parser,
    Verbs,
    a_location,
    a_positive,
    add_config,
    add_verb,
    named_config,
)
from distcnn.errors import UsageError, UserError

if TYPE_CHECKING:
    from distcnn.cluster.registry import Remembered
    from distcnn.cluster.spec import ClusterSpec
    from distcnn.cluster.status import Status
    from distcnn.orchestration.submission import Prepared

_DETACHED_EXIT_CODE = 130
_OVERRIDES_HELP = (
    "replace a value of the config (training.epochs=5), or of the cluster (cluster.spot=true)"
)


def add(verbs: Verbs) -> None:
    """Add `cluster` and its verbs to those of `distcnn`."""
    summary = "run a config on a cluster, and keep hold of it"
    parser = verbs.add_parser("cluster", help=summary, description=f"{summary.capitalize()}.")
    of_cluster: Verbs = parser.add_subparsers(
        title="verbs", metavar="VERB", required=True, dest="cluster_verb", parser_class=Parser
    )

    plan = add_verb(of_cluster, "plan", _plan, "say what a job would take, and cost")
    _add_job(plan)

    submit = add_verb(of_cluster, "submit", _submit, "check a job, send it, and follow it")
    _add_job(submit)
    submit.add_argument("--yes", "-y", action="store_true", help="do not ask")
    submit.add_argument("--detach", action="store_true", help="send it, and do not follow it")
    submit.add_argument(
        "--dry-run", action="store_true", help="print exactly what would be sent, and send nothing"
    )

    doctor = add_verb(of_cluster, "doctor", _doctor, "check a job and its cluster, send nothing")
    _add_job(doctor)
    doctor.add_argument(
        "--probe",
        action="store_true",
        help="also check from within: a job of a minute on the machines that are asked for",
    )

    for name, verb, summary in (
        ("status", _status, "say how a job is"),
        ("logs", _logs, "print what a job's driver has printed so far"),
        ("follow", _follow, "watch a job to its end; Ctrl-C leaves it alone"),
        ("stop", _stop, "have a job save and end"),
    ):
        held = add_verb(of_cluster, name, verb, summary)
        held.add_argument("handle", metavar="HANDLE", help="as `submit` printed it, or the id")
        if verb is _status:
            held.add_argument("--json", action="store_true", help="print it as JSON")

    render = add_verb(of_cluster, "render", _render, "print the file that starts a cluster")
    render.add_argument("kind", choices=("ray-up", "raycluster"), help="for `ray up`, for KubeRay")
    render.add_argument("overrides", nargs="*", metavar="cluster.field=value")
    render.add_argument(
        "--cluster", type=a_location, metavar="FILE", help="a YAML file with the cluster's fields"
    )

    listed = add_verb(of_cluster, "list", _list, "list the jobs that were submitted from here")
    listed.add_argument("--json", action="store_true", help="print them as JSON")


def _add_job(parser: argparse.ArgumentParser) -> None:
    add_config(
        parser,
        default="cluster",
        what="a run's or a sweep's YAML file, or the name of a shipped one",
        overrides_help=_OVERRIDES_HELP,
    )
    parser.add_argument("--target", choices=get_args(Target), help="where to (default: local)")
    parser.add_argument(
        "--cluster", type=a_location, metavar="FILE", help="a YAML file with the cluster's fields"
    )
    parser.add_argument("--nodes", type=a_positive, metavar="N", help="machines with workers")
    parser.add_argument("--gpus-per-node", type=a_positive, metavar="G", help="GPUs of each")
    parser.add_argument(
        "--max-time", type=_duration, metavar="T", help="saved and ended by then: 30m, 4h, 1h30m"
    )
    parser.add_argument(
        "--address", metavar="URL", help="of a Ray cluster's dashboard, http://host:8265"
    )
    parser.add_argument(
        "--run-dir", type=a_location, metavar="DIR", help=f"{RUN_HELP}; one that exists goes on"
    )
    parser.add_argument(
        "--id", metavar="ID", help="of the job (default: that of --run-dir, else name-time)"
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help="a YAML file with your own prices"
    )


def _duration(text: str) -> int:
    try:
        return seconds(text)
    except DurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _prepared(options: argparse.Namespace) -> Prepared:
    from distcnn.cluster import spec_file
    from distcnn.orchestration.submission import prepare

    config, overrides = named_config(options)
    of_config, of_cluster = spec_file.split(overrides)
    given = {
        "target": options.target,
        "nodes": options.nodes,
        "gpus_per_node": options.gpus_per_node,
        "max_seconds": options.max_time,
        "ray": options.address and {"address": options.address},
    }
    fields: dict[str, Any] = {name: value for name, value in given.items() if value}
    spec = spec_file.load(options.cluster, of_cluster, fields)
    fills_nodes = bool(options.nodes or options.gpus_per_node)
    return prepare(
        config,
        of_config,
        spec,
        run_dir=options.run_dir,
        job_id=options.id,
        prices=options.prices,
        fills_nodes=fills_nodes,
    )


def _plan(options: argparse.Namespace) -> int:
    print(_prepared(options).plan, end="")
    return 0


def _submit(options: argparse.Namespace) -> int:
    prepared = _prepared(options)
    if options.dry_run:
        print(prepared.rendered, end="")
        return 0
    from distcnn.findings import any_failed, print_findings

    record = prepared.going_on()
    if record is None:
        print(prepared.plan, end="", file=sys.stderr)
        findings = prepared.findings()
        if any_failed(findings):
            print_findings(findings)
            raise UserError("nothing was sent; mend what is marked `fail`")
        print(f"checks      {len(findings)} passed", file=sys.stderr)
        _ask(options)
        record = prepared.submit()
    else:
        print(f"{record.id} was submitted before: nothing was sent", file=sys.stderr)
    print(record.handle, flush=True)
    return 0 if options.detach else _watch(record)


def _ask(options: argparse.Namespace) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to say yes: give --yes")
    # Not on stdout, where the handle is the only line before the log.
    print("Submit it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was sent")


def _doctor(options: argparse.Namespace) -> int:
    from distcnn.findings import any_failed, print_findings

    prepared = _prepared(options)
    findings = prepared.findings()
    print_findings(findings)
    if any_failed(findings) or not options.probe:
        return int(any_failed(findings))
    return _watch(prepared.probe())


def _found(options: argparse.Namespace) -> Remembered:
    from distcnn.cluster import registry

    return registry.find(options.handle)


def _status(options: argparse.Namespace) -> int:
    from distcnn.cluster.listing import as_plain, print_job
    from distcnn.orchestration.submission import statuses_of

    record = _found(options)
    [answer] = statuses_of([record])
    if options.json:
        print(json.dumps(as_plain(record, answer), indent=2))
        return int(isinstance(answer, UserError))
    if isinstance(answer, UserError):
        raise answer
    print_job(record, answer)
    return 0


def _logs(options: argparse.Namespace) -> int:
    from distcnn.orchestration.submission import attach

    sys.stdout.buffer.write(attach(_found(options)).log(0))
    return 0


def _follow(options: argparse.Namespace) -> int:
    return _watch(_found(options))


def _watch(record: Remembered) -> int:
    from distcnn.cluster.view import job_view
    from distcnn.orchestration.follow import follow
    from distcnn.orchestration.submission import attach

    name = record.id or record.handle.id
    try:
        status = follow(attach(record), job_view(name), record.spec.lost_seconds)
    except KeyboardInterrupt:
        print(
            f"Detached; the job goes on. Watch it again: distcnn cluster follow {record.handle}\n"
            f"Stop it: distcnn cluster stop {record.handle}",
            file=sys.stderr,
        )
        return _DETACHED_EXIT_CODE
    except BrokenPipeError:
        # Who reads the log has gone. That is no success of the job's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    _say_what_next(record, status)
    return status.follow_exit_code


def _say_what_next(record: Remembered, status: Status) -> None:
    from distcnn.cluster.status import State

    if record.run_dir is not None and status.state in (State.STOPPED, State.LOST):
        print(
            "Submit it again, with the same --id, and it goes on from its newest checkpoint in"
            f" {record.run_dir}",
            file=sys.stderr,
        )


def _stop(options: argparse.Namespace) -> int:
    from distcnn.cluster.listing import print_job
    from distcnn.cluster.status import State
    from distcnn.orchestration.submission import attach, status_of

    record = _found(options)
    before = status_of(record)
    if not before.state.has_ended:
        grace = record.spec.grace_seconds
        print(f"Asked to save and end, within {grace} s", file=sys.stderr, flush=True)
        attach(record).stop(grace)
    after = status_of(record)
    print_job(record, after)
    return int(after.state is State.LOST)  # It may be running all the same.


def _render(options: argparse.Namespace) -> int:
    from distcnn.cluster import spec_file

    of_config, of_cluster = spec_file.split(options.overrides)
    if of_config:
        raise UsageError(f"{', '.join(of_config)}: a field of a cluster begins with `cluster.`")
    spec = spec_file.load(options.cluster, of_cluster, {"target": "ray"})
    text, wrong = _raycluster(spec) if options.kind == "raycluster" else _ray_up(spec)
    if wrong:
        raise UsageError("\n".join(["it would not start:", *(f"  {line}" for line in wrong)]))
    print(text, end="")
    return 0


def _raycluster(spec: ClusterSpec) -> tuple[str, list[str]]:
    from distcnn.cluster import kuberay, kuberay_rules

    manifest = kuberay.render_raycluster(spec, spec.ray_up.cluster_name)
    return kuberay.to_yaml([manifest]), list(kuberay_rules.violations(manifest))


def _ray_up(spec: ClusterSpec) -> tuple[str, list[str]]:
    from distcnn.cluster import ray_up_rules
    from distcnn.cluster.job import requirements
    from distcnn.cluster.ray_up import render_ray_up
    from distcnn.cluster.ticket import version_of

    if spec.ray_up.provider is None:
        return "", ["cluster.ray_up.provider: has to be given: aws, gcp or on-premises"]
    python = version_of("Python").rpartition(".")[0]
    text = render_ray_up(spec, requirements(), python)
    return text, list(ray_up_rules.violations(text))


def _list(options: argparse.Namespace) -> int:
    from distcnn.cluster.listing import as_plain, print_jobs
    from distcnn.cluster.registry import remembered
    from distcnn.orchestration.submission import statuses_of

    records = list(remembered())
    jobs = list(zip(records, statuses_of(records), strict=True))
    if options.json:
        print(json.dumps([as_plain(*each) for each in jobs], indent=2))
    else:
        print_jobs(jobs)
    return 0
