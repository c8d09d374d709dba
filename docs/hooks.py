"""For MkDocs: the config reference, from the fields and their docstrings; and whole files."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig
from distcnn.config_file import plain_to_yaml
from distcnn.sweep.config import SweepConfig

_MARK = re.compile(r"^<!-- fields of (\w+) -->$", re.MULTILINE)
_FILE = re.compile(r"^<!-- file (\S+) -->$", re.MULTILINE)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")  # Of the repository, as its readers see it.
_CONFIGS: dict[str, type[BaseModel]] = {
    "run": RunConfig,
    "sweep": SweepConfig,
    "cluster": ClusterSpec,
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put tables and files where a page asks for them; name those that are not on the site."""
    named = _OUTSIDE.sub(r"\1 (`\2`)", markdown)
    shown = _FILE.sub(lambda mark: _shown(Path(__file__).parent / mark[1]), named)
    return _MARK.sub(lambda mark: "\n".join(_tables(_CONFIGS[mark[1]])), shown)


def _shown(file: Path) -> str:
    return f"```python\n{file.read_text(encoding='utf-8')}```"


def _tables(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    plain = {n: f for n, f in config.model_fields.items() if _section(f) is None}
    if plain:
        yield "\n| field | default | meaning |\n|---|---|---|"
        for name, field in plain.items():
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"| `{prefix}{name}` | {_default(field)} | {meaning}{_allowed(field)} |"
    for name, field in config.model_fields.items():
        if section := _section(field):
            yield f"\n### {prefix}{name}\n\n{inspect.cleandoc(section.__doc__ or '')}\n"
            yield from _tables(section, f"{prefix}{name}.")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "to be given"
    if field.default is None:
        return "none"
    value: Any = field.default
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, Path):
        value = str(value)
    return f"`{plain_to_yaml({'x': value}).removeprefix('x:').strip()}`"


def _allowed(field: FieldInfo) -> str:
    words = [f"`{word}`" for word in _words(field.annotation) if isinstance(word, str)]
    bounds = [
        f"{sign} {getattr(bound, name):,}"
        for bound in [*field.metadata, *_metadata(field.annotation)]
        for name, sign in (("gt", ">"), ("ge", "at least"), ("lt", "<"), ("le", "at most"))
        if hasattr(bound, name)
    ]
    told = list(dict.fromkeys(words or bounds))  # One value, or one a block: told once.
    return f" ({', '.join(told)})" if told else ""


def _metadata(kind: Any) -> Iterator[Any]:
    """What is said of a field's value, or of the values in it."""
    if get_origin(kind) is Annotated:
        for each in get_args(kind)[1:]:
            yield from each.metadata if isinstance(each, FieldInfo) else [each]
    if get_origin(kind) in (Annotated, Union, UnionType, tuple):
        for part in get_args(kind):
            yield from _metadata(part)


def _words(kind: Any) -> Iterator[Any]:
    """The words that a field may be, if it is one of some."""
    origin = get_origin(kind)
    if origin in (Union, UnionType, tuple):
        for part in get_args(kind):
            yield from _words(part)
    elif origin is Literal:
        yield from get_args(kind)
