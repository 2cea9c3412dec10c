"""What a command line is made of: flags, their values, and the sentence about the first word that is neither.

tyro makes the flags and their help.  What is unknown or no value of its type is found before, so that the user reads
one sentence.  Nothing here imports jax.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import tyro

from forethought.errors import UserError
from forethought.runs.rules import nameable

T = TypeVar("T")


class Flag(NamedTuple):
    """A flag: whether it takes a value, and which type the value has."""

    hint: Any
    switch: bool


@dataclasses.dataclass(frozen=True)
class Common:
    """What every command takes."""

    json: bool = False
    """Print one JSON object, and nothing else, on standard output."""
    quiet: bool = False
    """Show no progress."""
    debug: bool = False
    """Show the traceback of an unexpected error."""
    cache: bool = True
    """Whether compiled programs are kept in the cache folder for the next start."""


def parse_plain(default: T, argv: Sequence[str], prog: str, about: str) -> T:
    """The dataclass with the flags of the command line put in.  Raises `UserError` with one sentence.

    --help prints and raises SystemExit(0).
    """
    argv = list(argv)
    if not {"-h", "--help"} & set(argv):
        check_flags(flags_of(default), argv, prog)
    said = io.StringIO()
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said), _WORDS:
            warnings.simplefilter("ignore")
            found = tyro.cli(type(default), default=default, args=argv, prog=prog, description=about, config=markers)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_unboxed(said.getvalue())) from None
    return found


def literal_of(hint: Any) -> Any:
    """The Literal of a type that is a few words or a class or function (for Python only), or None."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    literals = [part for part in parts if typing.get_origin(part) is Literal]
    others = [part for part in parts if part not in literals]
    for_python = [dataclasses.is_dataclass(part) or typing.get_origin(part) is Callable for part in others]
    return literals[0] if len(literals) == 1 and others and all(for_python) else None


_WORDS = tyro.constructors.ConstructorRegistry()


@_WORDS.primitive_rule
def _only_words(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """tyro sees the words alone; a field whose value is of the class is no flag of this kind."""
    literal = literal_of(info.type)
    if literal is None:
        return None
    choices = tuple(map(str, typing.get_args(literal)))
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=lambda args: args[0],
        is_instance=lambda value: isinstance(value, str) and value in choices,
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


@_WORDS.primitive_rule
def _with_commas(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Several whole numbers are one word, as every other value is: 1,3."""
    if info.type != tuple[int, ...]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT,INT,...",
        instance_from_str=lambda args: tuple(int(part) for part in args[0].split(",")),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(part, int) for part in value),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def flags_of(recipe: Any, path: str = "--") -> dict[str, Flag]:
    """Every flag of a dataclass, narrowed to the classes that its fields hold."""
    found: dict[str, Flag] = {}
    try:
        hints = typing.get_type_hints(type(recipe))
    except (NameError, TypeError):
        hints = {}
    for field in dataclasses.fields(recipe):
        value, hint = getattr(recipe, field.name), hints.get(field.name)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            found |= flags_of(value, f"{path}{name}.")
        elif isinstance(value, bool):
            found[f"{path}no-{name}" if value else f"{path}{name}"] = Flag(bool, True)
        elif value is not None or _plain(hint):
            found[f"{path}{name}"] = Flag(literal_of(hint) or hint or type(value), False)
    return found


def check_flags(known: dict[str, Flag], argv: Sequence[str], prog: str) -> None:
    """Raise `UserError` for the first flag that does not exist, or value that is not of its type."""
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        flag = known.get(name.replace("_", "-"))
        if flag is None:
            near = nearest(name.replace("_", "-"), known)
            hint = "" if near is None else f" The nearest is {near}."
            what = "flag" if name.startswith("-") else "further argument"
            said = as_said(name if name.startswith("-") else word)
            raise UserError(f"There is no {what} {said}.{hint} '{prog} --help' lists all flags.")
        if flag.switch:
            if equals:
                raise UserError(f"{name} is a switch and takes no value; {quoted(value)} was given.")
            continue
        if not equals:
            if not rest or looks_like_flag(rest[0]):
                raise UserError(f"{name} needs a value: {allowed(flag.hint)}.{_not_a_value(name, rest)}")
            value = rest.pop(0)
        if not fits(flag.hint, value):
            raise UserError(f"{name} is {quoted(value)}; it must be {allowed(flag.hint)}.")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The flag that was meant, as far as one can tell: one whose last part is the same, or else a similar one."""
    last = lambda flag: flag.rsplit(".", 1)[-1].lstrip("-")
    names = {flag.lower(): flag for flag in known}
    same = [flag for low, flag in names.items() if last(low) == last(name.lower())]
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return same[0] if same else names[near[0]] if near else None


def looks_like_flag(text: str) -> bool:
    """Whether a word begins as flags do, and is no negative number."""
    try:
        float(text)
    except ValueError:
        return text.startswith("-") and text != "-"
    return False


def _not_a_value(name: str, rest: list[str]) -> str:
    """Why the next word is not the value."""
    return f" {quoted(rest[0])} looks like a flag; if it is the value, write {name}=VALUE." if rest else ""


def quoted(text: str) -> str:
    """A value in a sentence: in quotes, on one line, and not longer than a line."""
    return shorten(repr(text))


def as_said(text: str) -> str:
    """A word of the command line in a sentence: as it is, or in quotes where it could not be told from the rest."""
    return shorten(text if text.isprintable() and text == text.strip() and text else repr(text))


def shorten(text: str, most: int = 120) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def one_place(places: Sequence[str], command: str, what: str, more: str = ".") -> str:
    """The one argument that a command takes.  Raises `UserError` for none, for several, and for an empty one."""
    possible = len(places) == 1 and places[0].strip() and nameable(places[0])
    if possible and (places[0].isprintable() or Path(places[0]).exists()):
        return places[0]
    many = f"{len(places)} were given: {shorten(' '.join(map(as_said, places)))}"
    got = many if len(places) > 1 else f"{quoted(places[0])} was given" if places else "none was given"
    raise UserError(f"{command} takes one {what}, and {got}{more}")


def fits(hint: Any, text: str) -> bool:
    """Whether a text can be read as this type; what is not known here is left to tyro."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(fits(part, text) for part in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return text in map(str, typing.get_args(hint))
    if hint is types.NoneType:
        return text in ("None", "none")
    if hint == tuple[int, ...]:
        return all(part.strip().isdecimal() for part in text.split(","))
    if hint is Path:
        return bool(text.strip()) and nameable(text)
    if hint not in (int, float):
        return True
    try:
        hint(text)
    except ValueError:
        return False
    return True


def allowed(hint: Any) -> str:
    """What a value of this type is, in words."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(allowed(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if hint == tuple[int, ...]:
        return "whole numbers with commas between them"
    words = {int: "a whole number", float: "a number", Path: "a path", str: "a text", types.NoneType: "None"}
    return words.get(hint, str(hint))


def _plain(hint: Any) -> bool:
    """Whether values of this type can be written on a command line."""
    parts = typing.get_args(hint) or (hint,)
    return all(part in (int, float, str, bool, Path, types.NoneType) or isinstance(part, str) for part in parts)


def _unboxed(text: str) -> str:
    """tyro's words without its box: the first paragraph."""
    lines = [line.strip("│╭╮╰╯─ \t") for line in text.splitlines()]
    words: list[str] = []
    for line, raw in zip(lines, text.splitlines(), strict=True):
        if words and "────" in raw:
            break
        words += [line] if line and "╭" not in raw else []
    return " ".join(words) or "The command line cannot be read."


def split(argv: Sequence[str], switches: set[str]) -> tuple[list[str], list[str]]:
    """(arguments that are neither flags nor their values, the rest)."""
    places, rest, tokens = [], [], list(argv)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("-") or token == "-":
            places.append(token)
            continue
        rest.append(token)
        alone = "=" in token or token.replace("_", "-") in switches
        if not alone and tokens and (not tokens[0].startswith("--")):
            rest.append(tokens.pop(0))
    return places, rest
