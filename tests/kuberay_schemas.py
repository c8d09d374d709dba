"""KubeRay's resources as JSON Schemas, where they are at hand."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_BESIDE_THE_CHECKOUT = Path(__file__).parents[2] / "shared" / "data" / "kuberay"


def folder() -> Path:
    return Path(os.environ.get("DISTCNN_KUBERAY_SCHEMAS") or _BESIDE_THE_CHECKOUT)


def are_there() -> bool:
    return (folder() / "rayjob_v1.schema.json").is_file()


@cache
def schema(kind: str) -> dict[str, Any]:
    return json.loads((folder() / f"{kind.lower()}_v1.schema.json").read_bytes())


def errors(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a RayJob or a RayCluster."""
    found = Draft202012Validator(schema(manifest["kind"])).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]
