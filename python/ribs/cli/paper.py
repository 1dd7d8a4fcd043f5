"""The rows of the paper's table and figures: what each compares and how to run it, from the files in `rows/`.

A file a table or figure, and `networks.json` for the networks that they name. Every key is checked when it is read.
"""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.resources import files
from typing import Any, Literal, TypeVar, get_args, get_origin

from ribs.quant.recipe import RecipeName

NETWORKS = "networks"
NUMBER = re.compile(r"\d+(\.\d+)?")
UNIFORM = re.compile(r"[1-8]/[1-8]")
BitWidth = Literal[1, 2, 3, 4, 5, 6, 7, 8]
T = TypeVar("T")


class RowsError(ValueError):
    """A file of rows cannot be used; the message names the file, the place in it and what is allowed."""


@dataclass(frozen=True)
class Network:
    """model: timm's name, that of the pretrained weights included.  why: how sure it is that the paper used them."""

    model: str
    why: str


@dataclass(frozen=True)
class Reconstruction:
    """iterations: for each block of the final network.  search_iterations: for each block while searching.

    penalty: the weight of the regulariser; QDrop has 0.1 for MobileNetV2.
    """

    method: Literal["qdrop"]
    iterations: int
    search_iterations: int | None = None
    penalty: float = 0.01

    def __post_init__(self) -> None:
        if min(self.iterations, self.search_iterations or 1) < 1:
            raise ValueError("iterations and search_iterations are at least 1")


@dataclass(frozen=True)
class Training:
    """teacher: a name in networks.json."""

    method: Literal["lsq"]
    teacher: str


@dataclass(frozen=True)
class Float:
    """The float network."""

    job: Literal["float"]


@dataclass(frozen=True)
class Cited:
    """Another paper's figure, which ribs does not run.  bits, ends: as for `Uniform`, where they are known."""

    job: Literal["cited"]
    bits: BitWidth | None = None
    ends: BitWidth | None = None


@dataclass(frozen=True)
class Uniform:
    """All weights and activations at `bits`, the first and the last unit at `ends`."""

    job: Literal["uniform"]
    bits: BitWidth
    ends: BitWidth | None = None
    recipe: RecipeName = "mse"
    reconstruction: Reconstruction | None = None


@dataclass(frozen=True)
class Search:
    """`ribs.search` within one budget.

    gbops: 1e9 bit operations, or "4/4", what that uniform network costs.  mib: MiB of the weights.
    update_size: the paper's M; all units where left out.
    activation_bits: of all units, the candidates then being for weights alone.  ends: as for `Uniform`.
    """

    job: Literal["search"]
    units: Literal["block", "layer"]
    iterations: int
    update_size: int | None = None
    gbops: float | str | None = None
    mib: float | None = None
    activation_bits: BitWidth | None = None
    ends: BitWidth | None = None
    recipe: RecipeName = "mse"
    reconstruction: Reconstruction | None = None
    training: Training | None = None

    def __post_init__(self) -> None:
        if (self.gbops is None) == (self.mib is None):
            raise ValueError("a search has one budget: give gbops or mib")
        if isinstance(self.gbops, str) and not UNIFORM.fullmatch(self.gbops):
            raise ValueError(f'gbops={self.gbops!r} cannot be read; give a number or "W/A" such as "4/4"')
        if self.iterations < 1 or (self.update_size or 1) < 1:
            raise ValueError("iterations and update_size are at least 1")
        if self.update_size is None and self.iterations > 1:
            raise ValueError("update_size may only be left out where there is one iteration, which changes all units")


@dataclass(frozen=True)
class Sensitivity:
    """The accuracy with one layer at `bits` and all others at `others`, for each layer."""

    job: Literal["sensitivity"]
    bits: BitWidth
    others: BitWidth


@dataclass(frozen=True)
class Variation:
    """The change of the loss with the bits of one unit, all others staying at `reference` bits.

    reconstruct: "unit" alone after each change, or all "following" it too.
    """

    job: Literal["variation"]
    unit: str
    reference: BitWidth
    reconstruct: Literal["unit", "following"]
    reconstruction: Reconstruction


@dataclass(frozen=True)
class Published:
    """What the paper prints, digit for digit.  gbops: 1e9 bit operations.  mib: MiB.  top1: percent."""

    gbops: str | None = None
    mib: str | None = None
    top1: str | None = None

    def __post_init__(self) -> None:
        for name, text in vars(self).items():
            if text is not None and not NUMBER.fullmatch(text):
                raise ValueError(f'{name}={text!r} is not allowed; give the digits printed, such as "28.5"')


@dataclass(frozen=True)
class Row:
    """method, bits: as printed.  network: a name in networks.json.  group: rows that the paper compares share one.

    differs: why the cost that ribs counts is not the printed one.  note: what else a reader should know.
    """

    name: str
    method: str
    bits: str
    network: str
    group: str
    published: Published
    run: Float | Cited | Uniform | Search | Sensitivity | Variation
    differs: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """measure: what its rows are compared by.  samples: of the calibration set.  candidates: bits to choose from."""

    title: str
    measure: Literal["top-1", "task loss"]
    samples: int
    candidates: tuple[BitWidth, ...]
    seed: int
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        if self.samples < 1 or self.seed < 0 or not self.candidates:
            raise ValueError("samples is at least 1, seed at least 0, and there is at least one candidate")
        names = [row.name for row in self.rows]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rows share a name: {', '.join(repeated)}")

    def beside(self, row: Row) -> list[Row]:
        """The row and those that the paper compares with it, the float network among them, in the paper's order."""
        return [
            other
            for other in self.rows
            if other.network == row.network and (other.group == row.group or isinstance(other.run, Float))
        ]


@functools.cache
def networks() -> Mapping[str, Network]:
    """The networks by name.  Raises: RowsError."""
    return _load(dict[str, Network], NETWORKS)


@functools.cache
def tables() -> Mapping[str, Table]:
    """The tables and figures by name.  Raises: RowsError for the first file that cannot be used."""
    names = sorted(path.name.removesuffix(".json") for path in _folder().iterdir() if path.name.endswith(".json"))
    found = {name: _load(Table, name) for name in names if name != NETWORKS}
    for name, table in found.items():
        for row in table.rows:
            training = getattr(row.run, "training", None)
            for network in (row.network, *([training.teacher] if training else [])):
                if network not in networks():
                    raise RowsError(f"{name}.json, {row.name}: {network!r} is none of {', '.join(networks())}")
    return found


def find_row(name: str) -> tuple[Table, Row]:
    """The row called TABLE/ROW, and its table.  Raises: ValueError naming the rows there are."""
    table, _, row = name.partition("/")
    if table not in tables():
        raise ValueError(f"{name!r} is no row; give TABLE/ROW, TABLE being one of {', '.join(tables())}")
    for candidate in tables()[table].rows:
        if candidate.name == row:
            return tables()[table], candidate
    rows = ", ".join(f"{table}/{candidate.name}" for candidate in tables()[table].rows)
    raise ValueError(f"{name!r} is no row; the rows of {table} are {rows}")


def parse(kind: type[T], text: str, name: str) -> T:
    """A file's text as a dataclass, or a dict of them.

    Raises: RowsError for text that is not JSON, keys that are unknown, missing or repeated, and values of another type.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unrepeated, parse_constant=_refused)
    except ValueError as error:
        raise RowsError(f"{name}: {error}") from None
    read: T = _read(kind, value, name)
    return read


def _load(kind: type[T], name: str) -> T:
    return parse(kind, _folder().joinpath(f"{name}.json").read_text(encoding="utf-8"), f"{name}.json")


def _folder() -> Any:
    return files("ribs.cli").joinpath("rows")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"repeated keys: {', '.join(repeated)}")
    return dict(pairs)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as an annotated type: a dataclass, str, int, float, Literal, tuple, dict or union of these."""
    origin, options = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return _read_union(options, value, where)
    if origin is Literal and any(value == option and type(value) is type(option) for option in options):
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_read(options[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _read(options[1], item, f"{where}, {key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if origin is None and isinstance(value, accepted) and not isinstance(value, bool):
        return value
    allowed = f"one of {', '.join(map(repr, options))}" if origin is Literal else getattr(kind, "__name__", kind)
    raise RowsError(f"{where}: {value!r} is not allowed; give {allowed}")


def _read_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    classes = [option for option in options if is_dataclass(option)]
    if len(classes) > 1:  # told apart by their job
        jobs = {get_args(typing.get_type_hints(option)["job"])[0]: option for option in classes}
        job = value.get("job") if isinstance(value, dict) else None
        if not isinstance(job, str) or job not in jobs:
            raise RowsError(f"{where}: job={job!r} is not allowed; give one of {', '.join(jobs)}")
        return _read(jobs[job], value, where)
    several = [option for option in options if option is not type(None)]
    for option in several[:-1]:
        if isinstance(value, (int, float) if option is float else option):
            return _read(option, value, where)
    return _read(several[-1], value, where)


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RowsError(f"{where}: {value!r} is not allowed; give an object")
    hints = typing.get_type_hints(kind)
    required = [field.name for field in fields(kind) if field.default is MISSING]
    if unknown := [key for key in value if key not in hints]:
        raise RowsError(f"{where}: unknown keys {', '.join(unknown)}; known ones are {', '.join(hints)}")
    if missing := [key for key in required if key not in value]:
        raise RowsError(f"{where}: missing keys {', '.join(missing)}")
    label = value.get("name")
    place = f"{where} ({label})" if isinstance(label, str) else where
    read = {key: _read(hints[key], item, f"{place}, {key}") for key, item in value.items()}
    try:
        return kind(**read)
    except ValueError as error:
        raise RowsError(f"{place}: {error}") from None
