"""The folder of a saved result: written whole or not at all, read with every size checked before memory is taken.

`result.json` has one content with a checksum, and the checksum of `weights.safetensors`; `bits.json` and `bits.csv`
are the table of bits for others, and never read back.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import ribs
from ribs.io import schema
from ribs.io.content import WeightsFile, upgraded
from ribs.io.errors import FormatError
from ribs.select.files import write_new

FORMAT = "ribs result"
VERSION = 3
RESULT, WEIGHTS = "result.json", "weights.safetensors"
NAMES = frozenset({RESULT, WEIGHTS, "bits.json", "bits.csv"})
LARGEST_RESULT = 2**28  # bytes
LARGEST_HEADER = 2**24  # bytes of names, types and places of tensors
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_PIECE = 2**20


def check_free(path: Path) -> None:
    """Raise unless a result may be written there: where nothing is, an empty folder, or one that was saved before.

    Raises: FileExistsError.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(f"[save] {path} is a file; give a folder")
    names = {each.name for each in path.iterdir()}
    if names - NAMES:
        raise FileExistsError(
            f"[save] {path} holds {min(names - NAMES)!r}, which ribs did not write; give another folder"
        )
    if names:
        try:
            _envelope(path)
        except (FormatError, OSError) as error:
            raise FileExistsError(f"[save] {path} is not one that ribs wrote ({error}); give another folder") from None


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write all files of a folder, in the place of what is there.

    They are written beside it, and take its name when they are complete. A process that is killed between leaves a
    folder `.NAME.new-*`; killed in the moment of the change, the old one may be `.NAME.old-*`.
    Raises: FileExistsError as `check_free`; OSError, and then what was there still is.
    """
    path = Path(os.path.realpath(path))
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new, old = (path.with_name(f".{path.name}.{kind}-{mark}") for kind in ("new", "old"))
    try:
        new.mkdir()
        for name, content in files.items():
            write_new(new / name, content)
        _sync(new)
        if path.exists():
            os.rename(path, old)
            try:
                os.rename(new, path)
            except BaseException:
                os.rename(old, path)
                raise
        else:
            os.rename(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # the new names are there; a disk that fails now has the old ones, and whole folders
        _sync(path.parent)


def check_file(function: str, path: Path) -> None:
    """Raise unless a file may be written there, before any long work.

    Raises: OSError: IsADirectoryError, FileNotFoundError where there is no folder for it, PermissionError.
    """
    if path.is_dir():
        raise IsADirectoryError(f"[{function}] {path} is a folder; give the path of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"[{function}] {path.parent} is no folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"[{function}] {path.parent} is not writable; give another path")


def result_file(content: Mapping[str, Any]) -> bytes:
    """The JSON file, a line for each field. Raises: ValueError for one that would not be read."""
    lines = ",\n".join(f"  {schema.dumps(name)}: {schema.dumps(value)}" for name, value in content.items())
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "ribs": ribs.__version__}
    head["checksum"] = _checksum(head, content)
    found = f'{schema.dumps(head)[:-1]},\n"content": {{\n{lines}\n}}}}\n'.encode()
    if len(found) > LARGEST_RESULT:
        raise ValueError(f"[save] the result takes {len(found):,} bytes of JSON; at most {LARGEST_RESULT:,} are read")
    return found


def weights_file(tensors: Mapping[str, Tensor]) -> tuple[bytes, WeightsFile]:
    """The safetensors file, and what says that it is this one."""
    found = safetensors.torch.save({name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()})
    return found, WeightsFile(len(found), hashlib.sha256(found).hexdigest())


def read_result(folder: Path) -> Any:
    """The content of the JSON file, as of this version. Raises: FormatError; FileNotFoundError where there is none."""
    envelope = _envelope(folder)
    if envelope.keys() != {"format", "version", "ribs", "checksum", "content"} or envelope["version"] < 1:
        raise FormatError(f"[load] {folder / RESULT} is damaged: it does not begin as it should")
    content, checksum = envelope.pop("content"), envelope.pop("checksum")
    if not isinstance(content, dict) or checksum != _checksum(envelope, content):
        raise FormatError(f"[load] {folder / RESULT} is damaged: it is not what was written")
    return upgraded(content, envelope["version"])


def read_weights(
    folder: Path,
    saved: WeightsFile,
    expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    optional: Collection[str] = (),
) -> dict[str, Tensor]:
    """Exactly the tensors expected, and those optional float32 vectors that there are. Raises: FormatError."""
    path = folder / WEIGHTS
    _check_file(path, saved)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            more = {name: (torch.float32, (_length(file, name),)) for name in names & set(optional)}
            if names != expected.keys() | more.keys():
                name = min(names ^ (expected.keys() | more.keys()))
                problem = "has no place in the model" if name in names else "is missing"
                raise FormatError(f"[load] the model is not the one that was saved: {name!r} {problem}")
            for name, (dtype, shape) in {**expected, **more}.items():
                stored = file.get_slice(name)
                found = DTYPES.get(stored.get_dtype()), tuple(stored.get_shape())
                if found != (dtype, shape):
                    raise FormatError(
                        f"[load] the model is not the one that was saved: its {name!r} is {dtype} {shape}, saved was "
                        f"{stored.get_dtype()} {found[1]}"
                    )
                tensors[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise FormatError(f"[load] {path} is damaged: {error}") from None
    return tensors


def _length(file: Any, name: str) -> int:
    shape = file.get_slice(name).get_shape()
    return int(shape[0]) if len(shape) == 1 else 0


def _envelope(folder: Path) -> dict[str, Any]:
    """What is around the content, of this version."""
    path = folder / RESULT
    size = path.stat().st_size
    if size > LARGEST_RESULT:
        raise FormatError(f"[load] {path} is damaged: no result has {size:,} bytes")
    found = schema.parse(path.read_bytes(), str(path))
    if not isinstance(found, dict) or found.get("format") != FORMAT or type(found.get("version")) is not int:
        raise FormatError(f"[load] {path} is no result of ribs, or damaged")
    if found["version"] > VERSION:
        raise FormatError(
            f"[load] {path} was written in format {found['version']}, and this is ribs {ribs.__version__}, which reads "
            f"format {VERSION}; update to ribs {str(found.get('ribs'))[:32]}, which wrote it, or newer"
        )
    return found


def _check_file(path: Path, saved: WeightsFile) -> None:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if header > min(LARGEST_HEADER, saved.bytes):
            raise FormatError(f"[load] {path} is damaged: no header has {header:,} bytes")
        file.seek(0)
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    if (size, digest.hexdigest()) != (saved.bytes, saved.sha256):
        raise FormatError(f"[load] {path} is damaged: it is not what was written with {RESULT}")


def _checksum(head: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    text = json.dumps([head, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
