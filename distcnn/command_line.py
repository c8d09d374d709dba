"""How the words of a command are read: what all verbs share."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

from distcnn.location import Location, LocationError, location

RUN_HELP = "the run's folder, or s3://bucket/prefix"
_OVERRIDES_HELP = "replace a value of the config, for example training.epochs=5"
_OVERRIDE = re.compile(r"[^/:]*=")  # A place in an object store may have an `=` in it.


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one screen, with the likely word meant."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        choice = re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            words = [word.strip(" '") for word in choice[3].split(",")]
            near = difflib.get_close_matches(choice[2], words, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"{choice[1]}: no {choice[2]!r}; there is {', '.join(words)}{hint}"
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


# Not subscriptable when the program runs.
Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"  # pyright: ignore[reportPrivateUsage]


def add_verb(
    verbs: Verbs,
    name: str,
    verb: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    """A parser for a verb's words, whose function returns the exit code."""
    description = f"{summary.capitalize()}."
    parser = verbs.add_parser(name, help=summary, description=description, allow_abbrev=False)
    add_debug(parser, default=argparse.SUPPRESS)
    parser.set_defaults(verb=verb, parser=parser)
    return parser


def add_debug(parser: argparse.ArgumentParser, default: object) -> None:
    """`--debug`, before a verb or after it."""
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def add_config(
    parser: argparse.ArgumentParser,
    default: str,
    metavar: str = "CONFIG",
    what: str = "a YAML file, or the name of a shipped config",
    overrides_help: str = _OVERRIDES_HELP,
) -> None:
    """A config that may be left out, and overrides."""
    parser.set_defaults(default_config=default)
    parser.add_argument("config", nargs="?", metavar=metavar, help=f"{what} (default: {default})")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help=overrides_help)


def named_config(options: argparse.Namespace) -> tuple[str, list[str]]:
    """The config that was typed, or the verb's default, and the overrides."""
    config, overrides = options.config, options.overrides
    if config is not None and _OVERRIDE.match(config) and not Path(config).is_file():
        config, overrides = None, [config, *overrides]
    return config or options.default_config, overrides


def a_location(text: str) -> Location:
    """A word that names a folder or a place in an object store."""
    try:
        return location(text)
    except LocationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def a_positive(text: str) -> int:
    """A word that is a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
