"""The files of a checkout's folder `cluster/`: each is rendered from the spec beside it.

`python -m distcnn.cluster.shipped` writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import distcnn
from distcnn import config_file
from distcnn.cluster import kuberay, slurm, spec_file
from distcnn.cluster.job import Job, job_of_run
from distcnn.cluster.ray_up import render_ray_up
from distcnn.cluster.spec import ClusterSpec
from distcnn.files import write_atomically

_SPEC = ".spec.yaml"
_NAME = "example"
# The same whoever renders, and whenever.
_SUBMISSION = "0" * 32
_RUNS = Path("/shared/runs")
# What is in cluster/Dockerfile too.
PYTHON_VERSION = "3.11"


@dataclass(frozen=True)
class _Folder:
    """How the specs in a folder are rendered, and what the files are called that come of it."""

    suffix: str
    render: Callable[[ClusterSpec], str]


def folder() -> Path:
    """`cluster/`, in a checkout."""
    return Path(distcnn.__file__).parents[1] / "cluster"


def render_all() -> dict[str, str]:
    """The text of each rendered file, by its path in `cluster/`."""
    texts: dict[str, str] = {}
    for name, each in _FOLDERS.items():
        for path in sorted((folder() / name).glob(f"*{_SPEC}")):
            spec = spec_file.load(path, (), {})
            texts[f"{name}/{path.name.removesuffix(_SPEC)}{each.suffix}"] = each.render(spec)
    return texts


def example_job(spec: ClusterSpec) -> Job:
    """The job that stands in the files: the config `cluster`, for a run called `example`."""
    job = job_of_run(config_file.load("cluster"), spec, _RUNS / _NAME, _NAME)
    return replace(job, submission=_SUBMISSION)


def _ray_up(spec: ClusterSpec) -> str:
    requirements = (folder() / "requirements.txt").read_text(encoding="utf-8")
    return render_ray_up(spec, requirements, PYTHON_VERSION)


def _kuberay(spec: ClusterSpec) -> str:
    """A RayJob; where jobs are sent to a cluster that runs, that cluster."""
    if spec.target == "kuberay":
        return kuberay.to_yaml([kuberay.render_rayjob(example_job(spec))])
    return kuberay.to_yaml([kuberay.render_raycluster(spec, _NAME)])


def _slurm(spec: ClusterSpec) -> str:
    python = spec.slurm.python or "python3"
    return slurm.render_script(example_job(spec), spec.slurm.directory / _NAME, str(python))


_FOLDERS = {
    "ray-up": _Folder(".yaml", _ray_up),
    "kuberay": _Folder(".yaml", _kuberay),
    "slurm": _Folder(".sbatch", _slurm),
}


def _write_all() -> None:
    for name, text in render_all().items():
        write_atomically(folder() / name, text.encode())


if __name__ == "__main__":
    _write_all()
