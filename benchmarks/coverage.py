"""Which architectures ribs takes: units, share of MACs under quantizers, an independent count, one step of a search.

Run: python benchmarks/coverage.py [--only PATTERN] [--out docs/models.md]
Networks have random weights and small inputs, and are given 30 seconds of processor time each. Needs timm, torchvision
and transformers. `--only` takes an `fnmatch` pattern of names. `--out` is written after every network; the rows of
those that `--only` leaves out stay in it.
"""

import argparse
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
Row = tuple[str, ...]  # a cell for each of HEADER
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


def works(row: Row) -> bool:
    """All MACs are under quantizers and as many as torch counts, and the search ended."""
    return row[6:8] == ("100 %", "equal") and row[9] == "yes"


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
            in_float = table.float_macs / table.macs
            rest[:4] = [
                str(len(table.layers)),
                str(len(table.units)),
                f"{table.macs:,}",
                "100 %" if in_float == 0 else f"{100 * (1 - in_float):.4f} %",
            ]
            rest[4] = "equal" if expected == table.macs else f"{expected:,} ({expected - table.macs:+,})"
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
        search = "yes"
        if in_float > 0:
            search += "; " + "; ".join(str(each.message) for each in caught if "stay in float" in str(each.message))
    except Exception as error:
        search = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return (*first, *rest, search.replace("|", "\\|"))


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


def page(rows: Iterable[Row], command: str) -> str:
    """All of it as Markdown, rows by family and name."""
    rows = sorted(rows, key=lambda row: (row[1], row[0]))
    families = timm_families()
    done = {row[0] for row in rows}
    left = [name for name in MODELS if name not in done]
    missing = sorted(families - {row[1].removeprefix("timm ") for row in rows})
    versions = ", ".join(f"{library} {version(library)}" for library in LIBRARIES)
    lines = [
        "# Architectures",
        "",
        f"{sum(map(works, rows))} of {len(rows)} architectures work: all their MACs are under quantizers and equal "
        "torch's own count, and a step of a search ended within its budget. The others say what is the matter.",
        "",
        f"Printed by `{command}`: {machine('cpu')}; {versions}.",
        "",
        'Weights are random and inputs small. Layers are all products, blocks the units of `units="block"`; MACs are '
        "those of one sample. Independent is the count of `torch.utils.flop_counter` on the float model. The search is "
        '`ribs.search(model, [batch], ribs.Budget(bops="4/4"), bits=(4, 8), units="block", iterations=1)`.',
        "",
        "Many are made shallower, or for images of another size, than their names say; detectors are their backbone "
        "and head, without anchors and the choice of boxes: benchmarks/coverage_models.py has it.",
        "",
        f"timm has {len(families)} families; of {len(missing)} there is no row here: {', '.join(missing)}.",
        *(("", f"Not run: {', '.join(left)}.") if left else ()),
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * 3 + "---:|" * 3 + "---:|" + "---|" * 3,
        *("| " + " | ".join(row) + " |" for row in rows),
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
    rows = written(options.out) if options.out is not None and options.only != "*" else {}
    for name in names:
        rows[name] = cover(name, MODELS[name])
        print("  ".join(rows[name]), flush=True)
        if options.out is not None:
            part = options.out.with_suffix(".part")
            part.write_text(page(rows.values(), f"python benchmarks/coverage.py --out {options.out}"))
            part.replace(options.out)
    print(f"{sum(works(rows[name]) for name in names)} of {len(names)} work")


def written(path: Path) -> dict[str, Row]:
    """By name the rows of a page written before; none where there is no page."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [tuple(line[2:-2].split(" | ")) for line in lines if line.startswith("| ")]
    return {row[0]: row for row in rows if row != HEADER}


if __name__ == "__main__":
    main()
