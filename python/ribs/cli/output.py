"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def print_json(value: object) -> None:
    """One document on stdout. Numbers that are not finite, which JSON has not, are null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def bars(arguments: argparse.Namespace) -> bool:
    """Whether to show bars: for people, who look at a terminal."""
    return not arguments.no_progress and sys.stderr.isatty()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
