"""What one integer linear program costs by units, candidates and bounds; every answer is checked against the bounds.

Run: python benchmarks/budgets.py [--rounds N]
Losses fall with bits as measured ones do, with MACs and weights drawn as networks have them. Bounds are the bit
operations of 4/4, sizes 10 % over and under it, and activations of 4/4 at moments that each see a tenth of the units.
"""

import argparse
import itertools
import statistics
import time

import numpy as np

from ribs.select.ilp import solve
from ribs.select.table import text_table

CASES = [
    (50, False, 1),
    (200, False, 1),
    (200, True, 1),
    (200, True, 2),
    (200, True, 3),
    (200, True, 4),
    (60, True, 23),
]


def problem(units: int, apart: bool, bounds: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Losses [units, candidates], costs [units, candidates, bounds], limits."""
    rng = np.random.default_rng([units, seed])
    bits = range(2, 9)
    pairs = list(itertools.product(bits, repeat=2)) if apart else [(b, b) for b in bits]
    w, a = np.array(pairs).T
    macs, weights = rng.integers(10**6, 2 * 10**8, size=(units, 1)), rng.integers(10**3, 2 * 10**6, size=(units, 1))
    columns = [macs * w * a, weights * w, -weights * w]
    for _ in range(bounds - len(columns)):
        columns.append(rng.integers(10**3, 10**6, size=(units, 1)) * (rng.random((units, 1)) < 0.1) * a)
    costs = np.stack(columns[:bounds], axis=-1)
    uniform = costs[:, pairs.index((4, 4))].sum(axis=0).tolist()
    limits = [int(limit * share) for limit, share in zip(uniform, [1, 1.1, 0.9, *[1] * bounds], strict=False)]
    scale = np.exp(1.5 * rng.normal(size=(2, units, 1)) - 6)
    losses = (scale * 2.0 ** (-1.2 * np.stack([w, a])[:, None])).sum(axis=0) * (
        1 + 0.1 * rng.random((units, len(pairs)))
    )
    return losses, costs, limits


def row(units: int, apart: bool, bounds: int, rounds: int) -> list[str]:
    seconds, proven, gap = [], 0, 0.0
    for seed in range(rounds):
        losses, costs, limits = problem(units, apart, bounds, seed)
        started = time.process_time()
        solution = solve(losses, costs, limits)
        seconds.append(time.process_time() - started)
        assert all(map(int.__le__, solution.costs, limits))
        proven += solution.gap == 0
        gap = max(gap, solution.gap / solution.objective)
    cells = [units, losses.shape[1], bounds, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]
    return [*map(str, cells), f"{proven} of {rounds}", f"{gap:.1g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    header = ["units", "candidates", "bounds", "s, median", "s, most", "proven exactly", "largest gap / loss"]
    print(text_table(header, [row(*case, rounds) for case in CASES], right=range(len(header))))


if __name__ == "__main__":
    main()
