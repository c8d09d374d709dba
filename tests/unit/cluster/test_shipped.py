"""What is in `cluster/` is what its specs and versions give today."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

from distcnn.cluster import shipped
from distcnn.cluster.ray_up_rules import violations
from distcnn.cluster.spec import ClusterSpec

FOLDER = shipped.folder()
PROJECT = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
RENDERED = shipped.render_all()


def of(folder: str) -> list[str]:
    return [name for name in RENDERED if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("name", RENDERED)
def test_a_file_is_what_its_spec_gives(name: str) -> None:
    path = FOLDER / name
    assert path.is_file() and path.read_text() == RENDERED[name], (
        f"cluster/{name} is not what its spec gives; write it anew with:"
        " python -m distcnn.cluster.shipped"
    )


def test_every_file_in_a_folder_has_its_spec() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*")}
    specs = {name for name in files if name.endswith(".spec.yaml")}
    assert files - specs == set(RENDERED)
    assert {"ray-up/aws.yaml", "ray-up/gcp.yaml", "ray-up/on-premises.yaml"} <= files


@pytest.mark.parametrize("name", of("ray-up"))
def test_ray_and_the_rules_take_the_files_for_ray_up(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load(RENDERED[name])))
    assert violations(RENDERED[name]) == []


def test_an_example_is_the_same_whenever_it_is_rendered() -> None:
    spec = ClusterSpec.model_validate({"target": "ray", "nodes": 2})
    assert shipped.example_job(spec).ticket == shipped.example_job(spec).ticket


def pins() -> dict[str, Requirement]:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found}


def ranges() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]["s3"]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]


def test_versions_are_exact_and_all_in_the_ranges_of_the_project() -> None:
    pinned = pins()
    assert set(pinned) == {canonicalize_name(each.name) for each in ranges()}
    for allowed in ranges():
        pin = pinned[canonicalize_name(allowed.name)]
        [version] = pin.specifier
        assert version.operator == "=="
        assert version.version in allowed.specifier
        assert pin.extras == allowed.extras


def instructions(path: Path) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", "", path.read_text())
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_image_has_the_same_python_and_versions_and_runs_as_an_ordinary_user() -> None:
    found = instructions(FOLDER / "Dockerfile")
    kinds = [kind for kind, _ in found]
    texts = [text for _, text in found]
    assert found[0] == ("ARG", f"PYTHON_VERSION={shipped.PYTHON_VERSION}")
    assert found[1] == ("FROM", "python:${PYTHON_VERSION}-slim-bookworm")
    assert kinds.count("FROM") == 1
    assert texts[kinds.index("COPY")].split()[0] == "requirements.txt"
    # What runs in the image, and the last word on it, is no root.
    assert texts[len(kinds) - 1 - kinds[::-1].index("USER")] == "1000:1000"
    assert "RUN" not in kinds[kinds.index("USER") :]
    # KubeRay's probes.
    assert any("install" in text and " wget" in text for text in texts)
