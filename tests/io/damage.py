"""Random damage to a saved result, with checksums as they were or made to fit: `python tests/io/damage.py 20000`.

Whatever is done, loading must raise a FormatError, or give a network where the damage contradicts nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nets import NETS
from saved import made, quantized

import ribs
from ribs.io import folder as files

ODD = [None, True, -1, 0, 1, 3, 32, 2**31, 2**53, 2**63, 10**400, 0.5, -0.0, 1e-60, 1e308, 10**4000]
ODD += [
    "",
    "nan",
    "inf",
    "1/0",
    "1/3",
    "\ud800",
    "a.b",
    "__class__",
    "forward",
    "x" * 2000,
    [],
    [[]],
    {},
    {"": 1},
    [2, 2],
]


class Damage:
    """A saved result of a small net, damaged in a new way at each call."""

    def __init__(self, folder: Path, net: str, seed: int) -> None:
        make, batch = NETS[net]
        self.folder, self.model, self.choose = folder, made(make, 2), random.Random(seed)
        result = quantized(made(make, 1), batch, units={"several": ["*"]} if seed % 2 else "layer")
        result.save(folder)
        self.before = {name: (folder / name).read_bytes() for name in (files.RESULT, files.WEIGHTS)}

    def bytes(self) -> None:
        """A few bytes of one file changed, cut, doubled or taken out; its checksum no longer fits."""
        name = self.choose.choice([files.RESULT, files.WEIGHTS])
        found = bytearray(self.before[name])
        for _ in range(self.choose.randint(1, 4)):
            at = self.choose.randrange(len(found) + 1)
            end = min(len(found), at + self.choose.choice([1, 1, 1, 8, 100]))
            piece = bytes(self.choose.randbytes(self.choose.choice([1, 1, 2, 8])))
            found[at:end] = self.choose.choice([piece, piece[:1], b"", bytes(found[at:end]) * 2, b"[" * 3, b"9" * 400])
        self._write(name, bytes(found))

    def values(self) -> None:
        """A value of the result changed for another one, moved, or taken out; the checksum fits again."""
        content = json.loads(self.before[files.RESULT])["content"]
        for _ in range(self.choose.randint(1, 3)):
            self._change(content)
        self._write_content(content)

    def header(self) -> None:
        """Names, types, shapes or places of tensors changed, or bytes of them; all checksums fit again."""
        found = self.before[files.WEIGHTS]
        end = 8 + int.from_bytes(found[:8], "little")
        head, data = json.loads(found[8:end]), bytearray(found[end:])
        if self.choose.random() < 0.3:
            data[self.choose.randrange(len(data))] ^= 1 << self.choose.randrange(8)
        elif self.choose.random() < 0.5:
            self._change(head)
        else:
            tensor = head[self.choose.choice(sorted(set(head) - {"__metadata__"}))]
            tensor.update(
                self.choose.choice(
                    [
                        {
                            "dtype": self.choose.choice(
                                ["F32", "F64", "I32", "U8", "BF16", "BOOL", "F8_E5M2", "C64", "U16", "X"]
                            )
                        },
                        {"shape": [self.choose.choice([0, 1, 2, 2**40, 2**63]) for _ in tensor["shape"]]},
                        {"data_offsets": [self.choose.choice([0, 1, 2**40, 2**64]) for _ in range(2)]},
                    ]
                )
            )
        text = json.dumps(head).encode()
        length = self.choose.choice([len(text)] * 8 + [0, 2**24, 2**63 - 1, 2**64 - 1])
        weights = length.to_bytes(8, "little") + text + bytes(data)
        (self.folder / files.WEIGHTS).write_bytes(weights)
        content = json.loads(self.before[files.RESULT])["content"]
        content["weights"] = {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        self._write_content(content)

    def load(self) -> str:
        """What became of it; the folder is whole again afterwards."""
        try:
            ribs.load(self.folder, self.model)
        except ribs.FormatError as error:
            return " ".join(str(error).replace(str(self.folder), "").split()[1:7])
        finally:
            for name, found in self.before.items():
                (self.folder / name).write_bytes(found)
        return "loaded"

    def _write(self, name: str, found: bytes) -> None:
        (self.folder / name).write_bytes(found)

    def _write_content(self, content: Any) -> None:
        self._write(files.RESULT, files.result_file(content))

    def _change(self, root: Any) -> None:
        """Change something, at any depth."""
        tree, key = self.choose.choice(list(places(root)))
        kind = self.choose.randrange(6)
        if kind == 0:
            del tree[key]
        elif kind == 1:
            other = self.choose.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
            tree[key], tree[other] = tree[other], tree[key]
        elif kind == 2 and isinstance(tree, list):
            tree.insert(key, copy.deepcopy(tree[key]))
        elif kind == 3 and isinstance(tree[key], int):
            tree[key] += self.choose.choice([-1, 1])
        elif kind == 4 and isinstance(tree[key], str):
            tree[key] = tree[key][: self.choose.randrange(len(tree[key]) + 1)]
        else:
            tree[key] = copy.deepcopy(self.choose.choice(ODD))


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Where values are: every dict or list with each of its keys or indices."""
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from places(tree[key])


def run(folder: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Load `count` damaged results, a quarter of them of each net."""
    for number, net in enumerate(sorted(NETS)):
        damage = Damage(folder / net, net, seed + number)
        for _ in range(number, count, len(NETS)):
            damage.choose.choice([damage.bytes, damage.values, damage.values, damage.header])()
            yield damage.load()


def mebibytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        list(run(Path(root), 20))
        began = mebibytes()
        seen = Counter(run(Path(root), int(sys.argv[1]), seed=int((*sys.argv, 0)[2])))
    for what, times in seen.most_common(30):
        print(f"{times:7}  {what}")
    print(f"{sum(seen.values())} damaged results, {mebibytes() - began} MiB more at most than for 20")
