"""The direction of imports that the design lays down, checked by reading every file."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import distcnn

PACKAGE = Path(distcnn.__file__).parent

# Lowest first. A room (a module, or a folder of them) imports from lower levels, and from itself.
LEVELS = (
    {"distcnn", "division", "errors", "geometry", "collector"},
    {"s3_client", "summation", "user_code", "wording"},
    {"object_store"},
    {"location"},
    {"config", "files", "collectives", "charts"},
    {
        "config_file",
        "growing_file",
        "network",
        "flat_weights",
        "workers",
        "onednn",
        "schedule",
        "metrics",
        "describe",
        "progress",
        "findings",
        "command_line",
        "workload",
    },
    {"data", "run_directory"},
    {"module", "sweep", "summary"},
    {"claims"},
    {"report"},
    {"training"},
    {"cluster"},
    {"comparison", "orchestration", "doctor"},
    {"cli_cluster"},
    {"cli"},
)
# What has to answer at once, on a machine that trains nothing.
LIGHT = {
    "collector",
    "comparison",
    "distcnn",
    "division",
    "errors",
    "geometry",
    "s3_client",
    "object_store",
    "location",
    "files",
    "growing_file",
    "config",
    "config_file",
    "describe",
    "run_directory",
    "sweep",
    "cluster",
}
HEAVY = {"torch", "pytorch_lightning", "torchmetrics", "ray"}
# What only who keeps runs in an object store, or has a sweep learn, waits for.
OPTIONAL = {"boto3", "botocore", "kubernetes", "optuna"}
OUTSIDE = {"benchmarks", "launch", "tests", "docs"}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    name: str
    """Dotted; the module's own name where it is one of the package."""
    is_executed: bool
    """False for what only a type checker reads."""

    def __str__(self):
        return f"{self.file}:{self.line} imports {self.name}"


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def level_of(room):
    return next((number for number, rooms in enumerate(LEVELS) if room in rooms), None)


def read_modules(package: Path) -> dict[str, list[Import]]:
    """The imports of each module of a package, wherever in the module they stand."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        module: list(_imports(module, path, package.parent, set(files)))
        for module, path in files.items()
    }


def _imports(module: str, path: Path, root: Path, modules: set[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unexecuted = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for name in _imported_names(node, package):
            while name not in modules and name.startswith(f"{root_package(module)}."):
                name = name.rpartition(".")[0]  # a function or a class: its module counts
            yield Import(
                str(path.relative_to(root)),
                getattr(node, "lineno", 0),
                name,
                node not in unexecuted,
            )


def root_package(module):
    return module.partition(".")[0]


def _imported_names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{source}.{alias.name}" for alias in node.names]
    return []


def violations(package: Path) -> list[str]:
    """Every import that the design forbids, named by its file and line."""
    modules = read_modules(package)
    own = package.name
    found = [
        f"{module} has no place in LEVELS: give {room_of(module)!r} one"
        for module in modules
        if level_of(room_of(module)) is None
    ]
    for module, imports in modules.items():
        room, level = room_of(module), level_of(room_of(module))
        for imported in imports:
            top = root_package(imported.name)
            if top in OUTSIDE:
                found.append(f"{imported}, which is not part of the package")
            if top == "ray" and room != "orchestration":
                found.append(f"{imported}: only orchestration may")
            if top == own and level is not None:
                target = room_of(imported.name)
                target_level = level_of(target)
                if target != room and target_level is not None and target_level >= level:
                    found.append(f"{imported}: {room} stands below {target}, or beside it")
        if room in LIGHT:
            found += [
                f"{module} is to be light, but {reason}" for reason in _weights(module, modules)
            ]
    return found


def _weights(module: str, modules: dict[str, list[Import]]) -> Iterator[str]:
    """The heavy imports that come with a module, directly or through others of the package."""
    waiting, seen = [module], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in modules:
            continue
        seen.add(current)
        if "." in current:
            waiting.append(current.rpartition(".")[0])
        for imported in modules[current]:
            if imported.is_executed:
                if root_package(imported.name) in HEAVY:
                    yield str(imported)
                waiting.append(imported.name)


def test_the_package_follows_the_design():
    assert violations(PACKAGE) == []


def test_every_room_of_the_design_is_read():
    rooms = {room_of(module) for module in read_modules(PACKAGE)}
    assert {"cli", "training", "module", "data", "run_directory", "network", "config"} <= rooms


def test_light_modules_pull_in_nothing_heavy_through_libraries():
    light = [module for module in read_modules(PACKAGE) if room_of(module) in LIGHT]
    script = (
        "import importlib, json, sys\n"
        f"for module in {light!r}: importlib.import_module(module)\n"
        f"print(json.dumps(sorted({HEAVY | OPTIONAL!r} & set(sys.modules))))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout) == []


@pytest.fixture
def plant(tmp_path):
    """Makes a small sound package, with one file planted in it; returns what is found."""

    def plant(file, text):
        sound = {
            "__init__.py": "",
            "errors.py": "",
            "config.py": "from distcnn.errors import UserError\n",
            "config_file.py": "from distcnn.config import RunConfig\n",
            "network.py": "import torch\nfrom distcnn.config import RunConfig\n",
            "data/__init__.py": "",
            "data/order.py": "from distcnn.config import RunConfig\n",
            "data/module.py": "import torch\nfrom distcnn.data import order\n",
            "run_directory/__init__.py": "",
            "run_directory/run.py": "from distcnn import config_file\n",
            "training/__init__.py": "",
            "training/fit.py": "from distcnn.data.module import ImageDataModule\n",
            "orchestration/__init__.py": "",
            "orchestration/ddp.py": "import ray\nfrom distcnn.training import fit\n",
            "cli.py": "def train():\n    from distcnn.orchestration import ddp\n",
        }
        for name, content in (sound | {file: text}).items():
            path = tmp_path / "distcnn" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return violations(tmp_path / "distcnn")

    return plant


def test_a_sound_package_is_not_accused(plant):
    assert plant("geometry.py", "import math\n") == []


@pytest.mark.parametrize(
    ("file", "text", "accusation"),
    [
        ("data/order.py", "import distcnn.training.fit", "order.py:1 imports distcnn.training.fit"),
        ("data/order.py", "from distcnn.training import fit", "imports distcnn.training.fit"),
        (
            "data/order.py",
            "from ..training.fit import f",
            "order.py:1 imports distcnn.training.fit",
        ),
        (
            "data/order.py",
            "def f():\n    from distcnn import cli",
            "order.py:2 imports distcnn.cli",
        ),
        ("data/order.py", "from distcnn.run_directory.run import Run", "run_directory, or beside"),
        ("network.py", "from distcnn.config_file import load", "network.py:1 imports distcnn.conf"),
        (
            "training/fit.py",
            "from distcnn.orchestration.ddp import a",
            "training stands below orch",
        ),
        ("training/fit.py", "import ray.train", "fit.py:1 imports ray.train: only orchestration"),
        ("cli.py", "from tests.unit import x", "cli.py:1 imports tests.unit.x, which is not part"),
        ("cli.py", "import launch.local", "cli.py:1 imports launch.local, which is not part"),
    ],
)
def test_an_import_against_the_direction_is_named(plant, file, text, accusation):
    [found] = plant(file, text)
    assert found.startswith(f"distcnn/{file}:")
    assert accusation in found


@pytest.mark.parametrize(
    ("file", "text", "offender"),
    [
        ("config.py", "import torch.nn", "config.py:1 imports torch.nn"),
        (
            "errors.py",
            "def f():\n    import pytorch_lightning as pl",
            "errors.py:2 imports pytorch",
        ),
        ("run_directory/run.py", "from distcnn.network import build", "network.py:1 imports torch"),
        ("run_directory/__init__.py", "import ray", "run_directory/__init__.py:1 imports ray"),
    ],
)
def test_what_makes_a_light_module_heavy_is_named(plant, file, text, offender):
    module = "distcnn." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    [found] = [found for found in plant(file, text) if found.startswith(f"{module} is to be light")]
    assert f"but distcnn/{offender}" in found


def test_a_module_without_a_place_is_named(plant):
    assert plant("helpers.py", "") == ["distcnn.helpers has no place in LEVELS: give 'helpers' one"]


def test_what_only_a_type_checker_reads_weighs_nothing(plant):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    assert plant("config.py", text) == []
