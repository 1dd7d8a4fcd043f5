"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write one file, in place of one that is there. Raises: OSError, and then what was there still is."""
    new = path.with_name(f".{path.name}.new-{secrets.token_hex(4)}")
    try:
        write_new(new, content)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_new(path: Path, content: bytes) -> None:
    """Write a file where none is, through to the disk. Raises: OSError, and then a part of it may be there."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
