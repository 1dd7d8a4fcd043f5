"""Dataclasses as JSON and back: what is read has exactly the fields and types that the classes declare.

Keys that are no text make a dict a list of pairs; numbers that are not finite and fractions are text.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ribs.io.errors import FormatError

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
FRACTION = re.compile(r"-?\d{1,4000}/\d{1,4000}", re.ASCII)

Read = TypeVar("Read")


def dumps(value: object) -> str:
    """Plain values as JSON, always in the same way."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def parse(text: bytes, name: str) -> Any:
    """JSON as plain values. Raises: FormatError for what is no JSON, or names a field twice."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"[load] {name} is damaged: {error}") from None


def encode(hint: Any, value: Any) -> Any:
    """A value of a declared type as plain values."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else encode(_optional(arguments), value)
    if origin is tuple:
        return [encode(each, item) for each, item in zip(_items(arguments, value), value, strict=True)]
    if origin is frozenset:
        return sorted(encode(tuple.__class_getitem__((*arguments, ...)), tuple(value)))
    if origin is dict:
        pairs = [(encode(arguments[0], key), encode(arguments[1], item)) for key, item in value.items()]
        return dict(pairs) if arguments[0] is str else [list(pair) for pair in pairs]
    if isinstance(hint, type) and is_dataclass(hint):
        return {name: encode(each, getattr(value, name)) for name, each in _hints(hint).items()}
    if hint is float:
        return float(value) if math.isfinite(value) else str(float(value))
    return f"{value.numerator}/{value.denominator}" if hint is Fraction else value


def decode(hint: Callable[..., Read], data: Any, where: str) -> Read:
    """The inverse of `encode`. Raises: FormatError that says where something has another type."""
    decoded: Read = _decode(hint, data, where)
    return decoded


def _decode(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if data is None else _decode(_optional(arguments), data, where)
    if origin is Literal:
        return data if isinstance(data, str) and data in arguments else _refuse(where, data)
    if origin is tuple:
        if not isinstance(data, list) or (Ellipsis not in arguments and len(data) != len(arguments)):
            return _refuse(where, data)
        items = zip(_items(arguments, data), data, strict=True)
        return tuple(_decode(each, item, f"{where}[{index}]") for index, (each, item) in enumerate(items))
    if origin is frozenset:
        items = _decode(tuple.__class_getitem__((*arguments, ...)), data, where)
        return frozenset(items) if len(set(items)) == len(items) else _refuse(where, data)
    if origin is dict:
        return _decode_dict(arguments, data, where)
    if is_dataclass(hint):
        return _decode_dataclass(hint, data, where)
    return _decode_scalar(hint, data, where)


def _decode_dict(arguments: tuple[Any, ...], data: Any, where: str) -> dict[Any, Any]:
    key_hint, value_hint = arguments
    if key_hint is str:
        if not isinstance(data, dict):
            _refuse(where, data)
        return {key: _decode(value_hint, value, f"{where}[{_short(key)}]") for key, value in data.items()}
    pair = tuple.__class_getitem__((key_hint, value_hint))
    pairs = _decode(tuple.__class_getitem__((pair, ...)), data, where)
    if len(dict(pairs)) != len(pairs):
        raise FormatError(f"[load] {where} is damaged: it has a key twice")
    return dict(pairs)


def _decode_dataclass(hint: Any, data: Any, where: str) -> Any:
    hints = _hints(hint)
    if not isinstance(data, dict) or data.keys() != hints.keys():
        found = sorted(data) if isinstance(data, dict) else data
        raise FormatError(f"[load] {where} is damaged: {_short(found)} is not {', '.join(hints)}")
    return hint(**{name: _decode(each, data[name], f"{where}.{name}") for name, each in hints.items()})


def _decode_scalar(hint: Any, data: Any, where: str) -> Any:
    if hint is float:
        if isinstance(data, str) and data in NOT_FINITE:
            return NOT_FINITE[data]
        if not isinstance(data, (int, float)) or isinstance(data, bool) or abs(data) > sys.float_info.max:
            return _refuse(where, data)
        return float(data)
    if hint is Fraction:
        if not isinstance(data, str) or not FRACTION.fullmatch(data) or not int(data.partition("/")[2]):
            return _refuse(where, data)
        return Fraction(data)
    return data if type(data) is hint else _refuse(where, data)


def _items(arguments: tuple[Any, ...], value: Sequence[Any]) -> Sequence[Any]:
    return [arguments[0]] * len(value) if Ellipsis in arguments else arguments


def _optional(arguments: tuple[Any, ...]) -> Any:
    [hint] = [each for each in arguments if each is not NoneType]
    return hint


@cache
def _hints(hint: type[Any]) -> dict[str, Any]:
    """The declared fields of a dataclass."""
    resolved = get_type_hints(hint)
    return {field.name: resolved[field.name] for field in fields(hint)}


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"it has a field twice, one of {_short([key for key, _ in pairs])}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _refuse(where: str, data: object) -> Any:
    raise FormatError(f"[load] {where} is damaged: {_short(data)} is no such value")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
