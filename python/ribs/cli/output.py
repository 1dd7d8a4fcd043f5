"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def print_json(value: object) -> None:
    """One document on stdout. Numbers that are not finite, which JSON has not, are null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False))


def bars(arguments: argparse.Namespace) -> bool:
    """Whether to show bars: for people, who look at a terminal."""
    return not arguments.no_progress and sys.stderr.isatty()


@contextmanager
def lines(arguments: argparse.Namespace) -> Iterator[None]:
    """Where there are no bars, have a line on stderr for each iteration and what else ribs logs of its progress."""
    if arguments.no_progress or sys.stderr.isatty():
        yield
        return
    log, handler = logging.getLogger("ribs"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("ribs: %(message)s"))
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
