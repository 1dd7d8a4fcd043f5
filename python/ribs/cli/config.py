"""Configuration files of the command line: flags in JSON or YAML, which flags on the command line override."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

Pairs = list[tuple[str, Any]]
NOT_KEYS = ("help", "config", "print_config")


def parse(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], argv: Sequence[str]
) -> argparse.Namespace:
    """What a command line says, and for what it leaves out, the file of its `--config`, if it names one.

    parser: of the whole command line.  commands: the parsers of its commands, by name.
    Raises: ValueError for a file that cannot be read as one, naming the key; OSError; ImportError for YAML without
        PyYAML. SystemExit, as argparse does, for a command line that makes no sense.
    """
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    if path is None or argv[0] not in commands:
        return parser.parse_args(argv)
    flags = _flags(commands[argv[0]])
    values = {flags[key].dest: value for key, value in _read(Path(path), flags).items()}
    defaults = {flag.dest: flag.default for flag in flags.values()}
    for flag in flags.values():
        # What is then in the namespace was given on the command line; lists would grow from a default otherwise.
        flag.default = argparse.SUPPRESS
        if flag.dest in values:
            flag.required = False
            if not flag.option_strings:
                flag.nargs = "?"
    return argparse.Namespace(**{**defaults, **values, **vars(parser.parse_args(argv))})


def as_file(command: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    """The arguments of a command as JSON, for `--config`; flags without a value are left out."""
    values = {key: getattr(arguments, flag.dest) for key, flag in _flags(command).items()}
    given = {key: value for key, value in values.items() if value not in (None, []) and value is not False}
    return json.dumps(given, indent=2)


def _flags(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """What a file may say, by its key: a flag without the dashes before it, or the name of an argument."""
    # argparse has no other list of them.
    actions = [action for action in command._actions if action.dest not in NOT_KEYS]
    return {(*action.option_strings, action.dest)[0].lstrip("-"): action for action in actions}


def _read(path: Path, flags: dict[str, argparse.Action]) -> dict[str, Any]:
    readers = {".json": _json, ".yaml": _yaml, ".yml": _yaml}
    if path.suffix not in readers:
        raise ValueError(f"[config] {path} is not supported; give a file named {', '.join(f'*{s}' for s in readers)}")
    pairs = readers[path.suffix](path, path.read_text(encoding="utf-8"))
    if pairs is None:
        raise ValueError(f"[config] {path} holds no keys with values")
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"[config] {path} has the key {key!r} twice")
        if key not in flags:
            near = get_close_matches(key, flags, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it may have {', '.join(flags)}"
            raise ValueError(f"[config] {path} has the key {key!r}, which is not known; {hint}")
        try:
            found[key] = _value(flags[key], value)
        except ValueError as error:
            raise ValueError(f"[config] {path}: {key}={value!r} is not supported; give {error}") from None
    return found


def _json(path: Path, text: str) -> Pairs | None:
    """The keys of a file with their values; None where there are no keys."""
    try:
        found = json.loads(text, object_pairs_hook=_Object)
    except ValueError as error:
        raise ValueError(f"[config] {path} is no JSON: {error}") from None
    return found if isinstance(found, _Object) else None


class _Object(list[Any]):
    """The pairs of a JSON object, some of which may have the same key."""


def _yaml(path: Path, text: str) -> Pairs | None:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('YAML files need PyYAML: pip install "ribs-quant[yaml]"; or write it as JSON') from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            return None
        return [(str(key.value), loader.construct_object(value, deep=True)) for key, value in node.value]
    except yaml.YAMLError as error:
        raise ValueError(f"[config] {path} is no YAML: {error}") from None


def _value(flag: argparse.Action, value: Any) -> Any:
    """The value of a flag. Raises: ValueError that says what it may be."""
    if flag.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if isinstance(flag.default, list):
        return [_scalar(flag, item) for item in (value if isinstance(value, list) else [value])]
    return _scalar(flag, value)


def _scalar(flag: argparse.Action, value: Any) -> Any:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError("text or a number, or a list of them where a flag is repeatable")
    if flag.choices is not None and value not in flag.choices:
        raise ValueError(f"one of {', '.join(flag.choices)}")
    kind = flag.type if callable(flag.type) else str
    try:
        return kind(str(value))
    except ValueError:
        raise ValueError("a whole number" if kind is int else "a number") from None
