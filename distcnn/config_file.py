"""From what a user wrote to a `RunConfig`: YAML files, `extends`, overrides, and their errors."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distcnn.config import RunConfig
from distcnn.errors import UsageError
from distcnn.location import Location, location

COMMAND_LINE = "command line"

_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`
# Numbers as YAML 1.2 has them, in base ten.
_NUMBERS = {
    _INT: r"^[-+]?[0-9]+$",
    _FLOAT: r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$",
}


class ConfigError(UsageError):
    """A configuration that cannot be run; the message lists every wrong field."""


T = TypeVar("T", bound=BaseModel)


@dataclass
class Draft(Generic[T]):
    """Plain values on their way to a config, and where each came from."""

    model: type[T]
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    origins: dict[str, str] = field(default_factory=dict[str, str])

    def merge(self, values: Mapping[str, Any], origin: str) -> None:
        """Lay `values` over what is here, section by section."""
        for name, value in values.items():
            if value is None and _section(self.model, name):
                value = {}  # `training:` with all its fields commented out.
            if isinstance(value, dict) and isinstance(self.values.get(name, {}), dict):
                self.values.setdefault(name, {})
                for key, leaf in value.items():
                    self.values[name][key] = leaf
                    self.origins[f"{name}.{key}"] = origin
            else:
                self.values[name] = value
            self.origins[name] = origin

    def origin_of(self, path: str) -> str:
        """The file, or the command line, that `path` was last given in; a section may have many."""
        inside = [origin for field, origin in self.origins.items() if field.startswith(f"{path}.")]
        while path not in self.origins and "." in path:
            path = path.rpartition(".")[0]
        origins = dict.fromkeys(inside or [self.origins.get(path, "defaults")])
        return ", ".join(origins)

    def check(self) -> T | list[str]:
        """The config, or a line on each field that is wrong."""
        try:
            return self.model.model_validate_json(json.dumps(self.values, default=str), strict=True)
        except ValidationError as error:
            fields = _by_field(self.model, error)
            return [_describe(self.model, path, each, self.origin_of) for path, each in fields]
        except ValueError as error:  # From the JSON encoder.
            raise ConfigError(f"the configuration cannot be written as JSON: {error}") from None

    def validated(self) -> T:
        """The config.

        Raises:
            ConfigError: with everything that is wrong with it.
        """
        checked = self.check()
        return refuse(checked) if isinstance(checked, list) else checked


def load(config: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config by its path or shipped name, apply `section.field=value` overrides, validate.

    Raises:
        ConfigError: with every wrong field, where it was given, and what is allowed.
    """
    return draft(config, overrides).validated()


def draft(config: str | None, overrides: Sequence[str]) -> Draft[RunConfig]:
    """What `load` validates, before it does.

    Raises:
        ConfigError: a file cannot be found or read.
    """
    draft = Draft(RunConfig)
    if config is not None:
        _merge_file(draft, find(config))
    for override in overrides:
        draft.merge(parse_override(override), COMMAND_LINE)
    return draft


def refuse(errors: Sequence[str], what: str = "configuration") -> NoReturn:
    """Tell everything that is wrong, at once.

    Raises:
        ConfigError: always.
    """
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    raise ConfigError("\n".join([f"{count} in the {what}", *errors]))


def find(config: str) -> Location:
    """The config file of that path, or the shipped one of that name (`article`, `local`, ...).

    Raises:
        ConfigError: there is neither.
    """
    path = location(config)
    return path if path.is_file() else _find_shipped(config)


def _find_shipped(config: str) -> Path:
    root = shipped_configs()
    files = sorted(root.rglob("*.yaml"))
    shipped = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
    if config in shipped:
        return shipped[config]
    near = difflib.get_close_matches(config, shipped, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"no config {config!r}: neither a file nor one of the shipped configs"
        f" ({', '.join(shipped)}){hint}"
    )


def shipped_configs() -> Path:
    """The folder of the configs that come with distcnn: in the wheel, or in a checkout."""
    package = Path(__file__).parent
    in_wheel = package / "configs"
    return in_wheel if in_wheel.is_dir() else package.parent / "configs"


def read_yaml(path: Location) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    values = _parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections and fields (`training:` ...), not {values!r}")
    return values  # pyright: ignore[reportUnknownVariableType]


def to_yaml(config: RunConfig) -> str:
    """The config as a file that `load` reads back the same."""
    return plain_to_yaml(config.to_plain())


def command(config: RunConfig, path: Location | str) -> str:
    """What to type to train by a config that is kept in a file."""
    verb = "train" if config.workers.count == 1 else "launch"
    return f"distcnn {verb} {shlex.quote(str(path))}"


def plain_to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """The value that plain values hold at the dotted path of a field."""
    for name in path.split("."):
        values = values[name]
    return values


def _merge_file(draft: Draft[RunConfig], path: Location) -> None:
    values = read_yaml(path)
    if "space" in values:
        raise ConfigError(f"{path} is a sweep, not a run config; use it with: distcnn tune {path}")
    base = values.pop("extends", None)
    if base is not None:
        base_path = _find_base(str(base), path)
        base_values = read_yaml(base_path)
        if "extends" in base_values:
            raise ConfigError(
                f"{path} extends {base_path}, which extends another file itself;"
                " one level is allowed: name the last one directly"
            )
        draft.merge(base_values, str(base_path))
    draft.merge(values, str(path))


def _find_base(base: str, path: Location) -> Location:
    beside = path.parent / base
    try:
        return beside if beside.is_file() else _find_shipped(base)
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from None


def parse_override(override: str) -> dict[str, Any]:
    """The plain values that `section.field=value` stands for.

    Raises:
        ConfigError: it is not written like that.
    """
    path, equals, text = override.partition("=")
    parts = path.split(".")
    if not equals or not all(part.isidentifier() for part in parts) or len(parts) > 2:
        raise ConfigError(
            f"cannot read {override!r}: an override is written section.field=value,"
            " for example training.epochs=5"
        )
    value = _parse_yaml(text, f"{COMMAND_LINE}, {path}")
    return {parts[0]: value} if len(parts) == 1 else {parts[0]: {parts[1]: value}}


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-4` is a number, `010` is ten, a key given twice is a mistake."""

    # Without YAML 1.1's numbers, which PyYAML follows: octal `010`, sexagesimal `1:30`, no `1e-4`.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        start: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != _MERGE and not isinstance(self.construct_object(key), str):
                raise yaml.MarkedYAMLError(
                    problem="a field's name must be a word", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would take for a number."""


# Others read as truth values, or as numbers of base eight, what is text to us.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver(_INT, re.compile(r"^[-+]?0o[0-7]+$"), list("-+0"))
for _tag, _pattern in _NUMBERS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))
_Loader.add_constructor(_INT, lambda _, node: int(node.value))


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        # A SafeLoader: only plain values come out.
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{origin}{where} is not valid YAML: {problem}") from None


def _by_field(
    model: type[BaseModel], error: ValidationError
) -> Iterator[tuple[str, list[ErrorDetails]]]:
    """Group the errors by dotted path: a value that fits no variant of a union is one mistake."""
    fields: dict[str, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        # A text that is no text has no place: it makes all of the JSON invalid.
        section, *rest = [str(part) for part in details["loc"]] or ["the configuration"]
        names = [section, *rest[:1]] if _section(model, section) else [section]
        fields.setdefault(".".join(names), []).append(details)
    yield from fields.items()


def _describe(
    model: type[BaseModel],
    path: str,
    errors: list[ErrorDetails],
    origin_of: Callable[[str], str],
) -> str:
    """One line on one field: path, what was given, where, what is allowed, the likely word."""
    first = errors[0]
    where = f"({origin_of(path)})"
    if first["type"] == "extra_forbidden":
        return f"  {path} {where}: no such field{suggest_field(model, path)}"
    if first["type"] == "missing":
        return f"  {path} {where}: has to be given"
    if first["type"] == "value_error":
        return f"  {path} {where}: {first['msg'].removeprefix('Value error, ')}"
    allowed = " or ".join(dict.fromkeys(_allowed(details) for details in errors))
    entry = "".join(f"[{part}]" for part in errors[-1]["loc"] if isinstance(part, int))
    given = f"{errors[-1]['input']!r}" if entry else f"{first['input']!r}"
    return f"  {path}{entry} = {given} {where}: {allowed}{_suggest_value(errors)}"


def _allowed(details: ErrorDetails) -> str:
    if details["type"] == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-', beginning with a letter or digit"
    if details["type"] == "too_short":
        return "one entry at least"
    message = details["msg"]
    for pydantic_words, ours in (
        ("Input should be ", ""),
        ("a valid integer", "a whole number"),
        ("a valid number", "a number"),
        ("a valid array", "a list with one entry per block"),
        ("a valid string", "text"),
        ("a valid boolean", "true or false"),
        ("a valid dictionary or instance of", "a section with the fields of"),
        ("an object", "a section with fields of its own"),
    ):
        message = message.replace(pydantic_words, ours)
    return message


def suggest_field(model: type[BaseModel], path: str) -> str:
    """What to say after `no such field`: the one that was likely meant, or those there are."""
    section, _, name = path.rpartition(".")
    siblings = _section(model, section) if section else model
    same_section = (
        {field: f"{section}.{field}".lstrip(".") for field in siblings.model_fields}
        if siblings
        else {}
    )
    near = difflib.get_close_matches(name, same_section, n=1)
    if near:
        return f"; did you mean {same_section[near[0]]}?"
    anywhere = {field.rpartition(".")[2]: field for field in field_paths(model)}
    near = difflib.get_close_matches(name, anywhere, n=1)
    if near:
        return f"; did you mean {anywhere[near[0]]}?"
    return f"; the fields are {', '.join(same_section or model.model_fields)}"


def _suggest_value(errors: list[ErrorDetails]) -> str:
    words = [
        word
        for details in errors
        for word in re.findall(r"'([^']+)'", str(details.get("ctx", {}).get("expected", "")))
    ]
    near = difflib.get_close_matches(str(errors[0]["input"]), words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def field_paths(model: type[BaseModel] = RunConfig) -> Iterator[str]:
    """Every field that a config may hold, as an override names it."""
    for name in model.model_fields:
        section = _section(model, name)
        if section is None:
            yield name
        else:
            yield from (f"{name}.{field}" for field in section.model_fields)


def is_field(path: str) -> bool:
    """Whether a config may hold a value there: in a field, or under a name among `parameters`."""
    section, _, name = path.partition(".")
    return path in field_paths() or (section == "parameters" and name.isidentifier())


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    info = model.model_fields.get(name)
    annotation: object = info.annotation if info else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
