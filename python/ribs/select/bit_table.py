"""The bits of every unit as a table that other programs read, and that `ribs.quantize` takes."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from ribs.select.cost import Configuration, as_pair

COLUMNS = ("unit", "weight_bits", "activation_bits")
LARGEST = 2**24  # bytes


def as_json(bits: Configuration) -> str:
    """{unit: [weight bits, activation bits]}, a line for each unit."""
    lines = ",\n".join(f"  {json.dumps(unit)}: {json.dumps(pair)}" for unit, pair in bits.items())
    return f"{{\n{lines}\n}}\n"


def as_csv(bits: Configuration) -> str:
    """A line for each unit under the names of the columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((unit, *pair) for unit, pair in bits.items())
    return text.getvalue()


def read_bits(path: str | os.PathLike[str]) -> Configuration:
    """The table of a file whose name ends in .json or .csv.

    Raises: ValueError for another file, or one that cannot be read; OSError where there is none.
    """
    path = Path(path)
    readers = {".json": _parse_json, ".csv": _parse_csv}
    if path.suffix not in readers:
        raise ValueError(f"[ribs] bits={str(path)!r} is no table of bits; give the path of a .json or a .csv file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"[ribs] {path} is too long for a table of bits: more than {LARGEST:,} bytes")
    try:
        rows = readers[path.suffix](path.read_text(encoding="utf-8"))
        found = {unit: as_pair(bits) for unit, bits in rows}
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"[ribs] {path} cannot be read as a table of bits: {error}") from None
    if len(found) != len(rows):
        raise ValueError(f"[ribs] {path} has a unit twice")
    return found


def _parse_json(text: str) -> list[tuple[str, Any]]:
    rows = json.loads(text, object_pairs_hook=list)
    if not isinstance(rows, list) or not all(isinstance(row, tuple) for row in rows):
        raise ValueError("it must be an object {unit: [weight bits, activation bits]}")
    return rows


def _parse_csv(text: str) -> list[tuple[str, Any]]:
    rows = list(csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True))
    if any(set(row) != set(COLUMNS) for row in rows):
        raise ValueError(f"it must have the columns {','.join(COLUMNS)}")
    return [(row["unit"], (int(row["weight_bits"] or ""), int(row["activation_bits"] or ""))) for row in rows]
