"""Which architectures ribs takes: units, share of MACs under quantizers, an independent count, one step of a search.

Run: python benchmarks/coverage.py [--only PATTERN] [--out docs/models.md]
Networks have random weights and small inputs, and are given 30 seconds of processor time each. Needs timm, torchvision
and transformers. `--only` takes an `fnmatch` pattern of names; `--out` is written anew after every network.
"""

import argparse
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from coverage_models import MODELS, Architecture, timm_families
from run import machine
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ribs
from ribs.quant.inputs import as_inputs

SECONDS = 30  # of processor time for one network
LIBRARIES = ("torch", "timm", "torchvision", "transformers")
HEADER = (
    "network",
    "family",
    "input",
    "layers",
    "blocks",
    "MACs",
    "under quantizers",
    "independent",
    "recipe",
    "search",
)


@dataclass(frozen=True)
class Row:
    """What became of one architecture. works: all MACs are counted and under quantizers, and the search ended."""

    cells: tuple[str, ...]
    works: bool


def cover(name: str, architecture: Architecture) -> Row:
    """Count an architecture and search one step; what fails is said in the row."""
    first, rest = [name, architecture.family, architecture.shown], ["-"] * 6
    try:
        with limited(SECONDS), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(0)
            model, batch = architecture.make()
            model = model.eval().requires_grad_(False)
            expected = independent_macs(model, batch)
            table = ribs.count(model, batch, units="block")
            share = 1 - table.float_macs / table.macs
            same = expected == table.macs
            rest[:4] = [str(len(table.layers)), str(len(table.units)), f"{table.macs:,}", f"{100 * share:.4g} %"]
            rest[4] = "equal" if same else f"{expected:,} ({expected - table.macs:+,})"
            result = ribs.search(
                model,
                [batch],
                ribs.Budget(bops="4/4"),
                bits=(4, 8),
                units="block",
                iterations=1,
                calibration_samples=2,
                max_seconds=SECONDS,
                loss=architecture.loss,
                progress=False,
            )
            assert result.bops <= table.bops(4)
            rest[5] = result.recipe
        works, search = same and share == 1, "yes"
        if share < 1:
            search += "; " + "; ".join(str(each.message) for each in caught if "stay in float" in str(each.message))
    except Exception as error:
        works, search = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Row((*first, *rest, search.replace("|", "\\|")), works)


@torch.no_grad()
def independent_macs(model: nn.Module, batch: Any) -> int:
    """MACs of one sample by torch's own count, of the float model, with attention in its plain form."""
    flops, fast = FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator for a whole block, of which nothing is counted
    try:
        with sdpa_kernel(SDPBackend.MATH), flops:
            as_inputs(model, batch).head(1).call(model)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return flops.get_total_flops() // 2


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises: TimeoutError in the block after so much processor time."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not done in {seconds:g} seconds of processor time")

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def page(rows: list[Row], command: str) -> str:
    """All of it as Markdown, rows by family and name."""
    rows = sorted(rows, key=lambda row: (row.cells[1], row.cells[0]))
    works = sum(row.works for row in rows)
    families = timm_families()
    missing = sorted(families - {row.cells[1].removeprefix("timm ") for row in rows})
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    lines = [
        "# Architectures",
        "",
        f"{works} of {len(rows)} architectures work: all their MACs are under quantizers and equal torch's own count, "
        "and a step of a search ended within its budget. The others are named with what is the matter.",
        "",
        f"Printed by `{command}`: {machine('cpu')}; {versions}.",
        "",
        'Weights are random and inputs small. Layers are all products, blocks the units of `units="block"`; MACs are '
        "those of one sample. Independent is the count of `torch.utils.flop_counter` on the float model. The search is "
        '`ribs.search(model, [batch], ribs.Budget(bops="4/4"), bits=(4, 8), units="block", iterations=1)`.',
        "",
        f"timm has {len(families)} families; of {len(missing)} there is no row here: {', '.join(missing)}.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * 3 + "---:|" * 3 + "---:|" + "---|" * 3,
        *("| " + " | ".join(row.cells) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN")
    parser.add_argument("--out", type=Path, help="a Markdown file; by default only printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in MODELS if fnmatchcase(name, options.only)]
    if not names:
        parser.error(f"--only {options.only!r} matches none of {', '.join(MODELS)}")
    rows: list[Row] = []
    for name in names:
        rows.append(cover(name, MODELS[name]))
        print("  ".join(rows[-1].cells), flush=True)
        if options.out is not None:
            command = "python benchmarks/coverage.py" + (f" --only '{options.only}'" if options.only != "*" else "")
            part = options.out.with_suffix(".part")
            part.write_text(page(rows, f"{command} --out {options.out}"))
            part.replace(options.out)
    print(f"{sum(row.works for row in rows)} of {len(rows)} work")


if __name__ == "__main__":
    main()
