"""The adaptive search beside Algorithm 1 and the uniform network, on the demo's ResNet: loss for work.

Run: python benchmarks/search.py [--seeds N] [--units layer block] [--bops 3/3 4/4]
A seed is that of the search; the calibration set stays. Needs the extra `demo`; the network is trained once.
"""

import argparse
import statistics
import warnings
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from typing import get_args

import numpy as np
import torch
from run import machine
from torch import Tensor, nn

import ribs
from ribs.cli.digits import batches, demo_network
from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork, calibrate, prepare
from ribs.select.algorithm import Algorithm, Name
from ribs.select.cost import CostTable
from ribs.select.loss import kl_divergence
from ribs.select.measurement import Key, Losses
from ribs.select.plan import Plan, make_plan
from ribs.select.rivals.feasible import fits
from ribs.select.samples import Choice
from ribs.select.sensitivity import Sensitivity
from ribs.select.table import text_table

WORKS = (25, 50, 100)  # forward equivalents at which the searches are compared


@dataclass(frozen=True)
class Found:
    """What a search found. work: in forward equivalents.  curve: (work, least loss within the budget until then)."""

    loss: float
    work: float
    curve: list[tuple[float, float]]

    def at(self, work: float) -> float:
        """The least loss found with no more work; inf where nothing within the budget was measured."""
        return min((loss for spent, loss in self.curve if spent <= work), default=np.inf)


def search(
    network: QuantizedNetwork,
    inputs: list[Inputs],
    plan: Plan,
    name: Name,
    seed: int,
    measured: dict[Key, Losses] | None = None,
) -> tuple[Found, Choice]:
    """Search with every loss watched as it is measured.

    measured: losses that are known and not measured again, but watched and counted like all others.
    """
    sensitivity = Sensitivity(network, inputs, plan.candidates, kl_divergence, known=measured)
    known: dict[Choice, list[Losses]] = defaultdict(list)
    curve: list[tuple[float, float]] = []

    def measure(choices: list[Choice], shard: int) -> Losses:
        losses = sensitivity.measure(choices, shard)
        for choice, own in zip(choices, losses, strict=True):
            known[choice][shard:] = [own]
        whole = [choice for choice in choices if len(known[choice]) == len(inputs) and fits(plan, choice)]
        curve.extend((sensitivity.forward_equivalents, float(np.concatenate(known[c]).mean())) for c in whole)
        return losses

    trace = Algorithm(name).run(plan, measure, sensitivity.samples, seed=seed)
    found = Found(trace.best_loss, sensitivity.forward_equivalents, curve)
    assert found.at(np.inf) == trace.best_loss  # what is returned is the best that was measured
    return found, trace.best_choice


def compare(model: nn.Module, calibration: list[Tensor], units: str, bops: str, seeds: int) -> list[list[str]]:
    """A row for the uniform network and for each algorithm."""
    inputs = [Inputs((x,), {}) for x in calibration]
    network = prepare(model, inputs[0], units)
    plan = make_plan(CostTable.of(network.trace, network.units), ribs.Budget(bops=bops), range(2, 9), None, None)
    calibrate(network, inputs, plan.bit_widths)
    uniform = ribs.quantize(model, calibration, int(bops[0]), units=units, progress=False)
    rows = [[units, bops, "uniform", f"{uniform.loss:.4g}", *[""] * (3 + len(WORKS))]]
    for name in reversed(get_args(Name)):
        found = []
        for seed in range(seeds):
            with network.keep_weights(1 << 29):
                one, choice = search(network, inputs, plan, name, seed)
            bits = plan.configuration(choice)
            again = ribs.quantize(model, calibration, bits, units=units, progress=False)
            assert again.bops <= plan.limits["bops"], (units, bops, name, seed)
            np.testing.assert_allclose(again.loss, one.loss, rtol=1e-6, err_msg=f"{units}, {bops}, {name}, {seed}")
            found.append(one)
        losses, works = [each.loss for each in found], [each.work for each in found]
        row = [units, bops, name, f"{statistics.median(losses):.4g}", spread(losses, "{:.4g}")]
        row += [f"{statistics.median(works):.0f}", spread(works, "{:.0f}")]
        medians = [statistics.median(each.at(work) for each in found) for work in WORKS]
        rows.append(row + [f"{median:.4g}" if np.isfinite(median) else "none" for median in medians])
    return rows


def spread(values: list[float], form: str) -> str:
    return f"{form.format(min(values))} - {form.format(max(values))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--units", nargs="+", choices=["layer", "block"], default=["layer", "block"])
    parser.add_argument("--bops", nargs="+", choices=["2/2", "3/3", "4/4", "5/5", "6/6"], default=["3/3", "4/4"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = demo_network(progress=False)
    calibration = [x for x, _ in batches("train", 2, 64, 2, seed=100)]
    header = ["units", "bops", "", "loss, median", "range", "work, median", "range"]
    header += [f"loss at {work}" for work in WORKS]
    rows = [
        row
        for units in options.units
        for bops in options.bops
        for row in compare(model, calibration, units, bops, options.seeds)
    ]
    print(f"{machine('cpu')}, numpy {np.__version__}, HiGHS {version('highspy')}; 1 thread")
    print("Budgets are kept, and losses are those of ribs.quantize at the bits found.")
    print(f"{options.seeds} seeds; work in forward equivalents; 'none': nothing within the budget measured yet.\n")
    print(text_table(header, rows, right=range(3, len(header))))


if __name__ == "__main__":
    main()
