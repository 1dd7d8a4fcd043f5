"""Pieces whose reconstruction is done, in files, so that one that was killed goes on with the next."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ribs.quant.inputs import Inputs
from ribs.recon.learned import Learned
from ribs.recon.methods import Method
from ribs.select.errors import JournalError
from ribs.select.files import write_file
from ribs.select.identity import identity_of_reconstruction
from ribs.select.loss import TaskLoss

CHECKSUM = "checksum"  # uint8 [16], of all other tensors
WEIGHT, STEP = "weight ", "step "  # before the name of a layer, and before the number of a quantizer


def finished_pieces(
    folder: str | os.PathLike[str] | None,
    model: nn.Module,
    batches: Sequence[Inputs],
    method: Method,
    loss: TaskLoss,
    *,
    seed: int,
    store_mib: float,
) -> FinishedPieces | None:
    """The finished pieces of a reconstruction that is ahead; None where no folder is given.

    model: quantized, as it is before.
    """
    if folder is None:
        return None
    identity = identity_of_reconstruction(model, batches, method, loss, seed=seed, store_mib=store_mib)
    return FinishedPieces(folder, identity)


class FinishedPieces:
    """What was learned of the pieces of one reconstruction, a file `piece-<digest>.safetensors` for each.

    folder: made, with its parents, when missing. Other reconstructions, and the losses of a search, may lie there too.
    identity: what the result depends on, {field: value}; it is in the digest, and no piece of another is ever found.

    Raises: JournalError where a file cannot be read or written, or is not what was written.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, str]) -> None:
        self._folder, self._identity = Path(folder), dict(identity)

    def get(self, piece: str) -> Learned | None:
        path = self._path(piece)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"[journal] {path} cannot be read ({error}); make it readable, or delete it") from error
        try:
            tensors = safetensors.torch.load(content)
        except SafetensorError as error:
            raise _damaged(path, str(error)) from error
        checksum = tensors.pop(CHECKSUM, torch.empty(0))
        if not torch.equal(checksum, _checksum(tensors)):
            raise _damaged(path, "it is not what was written")
        weights = {name.removeprefix(WEIGHT): each for name, each in tensors.items() if name.startswith(WEIGHT)}
        return Learned(weights, [tensors[f"{STEP}{number}"] for number in range(len(tensors) - len(weights))])

    def add(self, piece: str, found: Learned) -> None:
        """It is on the disk when this returns."""
        tensors = {f"{WEIGHT}{name}": each.cpu().contiguous() for name, each in found.weights.items()}
        # Copies: quantizers may have one step in common, and safetensors refuses what shares memory.
        tensors |= {f"{STEP}{number}": each.cpu().clone() for number, each in enumerate(found.steps)}
        path = self._path(piece)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(path, safetensors.torch.save({**tensors, CHECKSUM: _checksum(tensors)}))
        except OSError as error:
            raise JournalError(
                f"[journal] {path} cannot be written ({error}); all pieces before it are kept: free some space, or "
                "make the folder writable, and make the same call again"
            ) from error

    def _path(self, piece: str) -> Path:
        content = json.dumps([piece, self._identity], sort_keys=True).encode()
        return self._folder / f"piece-{hashlib.blake2b(content, digest_size=16).hexdigest()}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.blake2b(digest_size=16)
    for name, each in sorted(tensors.items()):
        digest.update(json.dumps([name, str(each.dtype), list(each.shape)]).encode())
        digest.update(each.reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _damaged(path: Path, why: str) -> JournalError:
    return JournalError(f"[journal] {path} is damaged ({why}); delete it, so that its piece is reconstructed again")
