"""A sweep of 20 budgets beside 20 single searches, and beside the optima where all configurations can be measured.

Run: python benchmarks/sweep.py [demo plain residual gated] [--seeds N] [--budgets N] [--samples N]
"demo" is the demo's ResNet, the others are the small networks of benchmarks/optimum.py. Budgets are of bit operations,
evenly from 2.25/2.25 to 6.05/6.05. A seed is that of the searches. Losses are measured once and known from then on; the
searches take the same way, and count the same work, as without that. Needs the extra `demo`.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from optimum import BITS, Measured, trained
from run import machine
from search import search

import ribs
from ribs.cli.digits import batches, demo_network
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.cost import CostTable
from ribs.select.front import search_front
from ribs.select.loss import kl_divergence
from ribs.select.plan import Plan, make_plan
from ribs.select.problem import Problem
from ribs.select.samples import Samples
from ribs.select.sensitivity import Sensitivity
from ribs.select.sweep import default_proposals, uniform_choices
from ribs.select.table import text_table

LEAST, MOST = 2.25, 6.05


def swept(sensitivity: Sensitivity, plans: list[Plan], seed: int) -> NDArray[np.float64]:
    """The losses of a sweep's points, as `ribs.sweep` finds them."""
    [plan, *_] = plans
    samples = Samples(sensitivity.measure, sensitivity.samples)
    choices, _ = search_front(
        plan.padded_candidates(),
        [Problem(each.costs, each.available, plan.allowed) for each in plans],
        samples,
        first=uniform_choices(plan),
        proposals=default_proposals(plans),
        seed=seed,
    )
    for choice, problem in zip(choices, plans, strict=True):
        spent = sum(problem.costs[unit][k][0] for unit, k in enumerate(choice))
        assert spent <= problem.available[0]
    return np.array([samples.mean(choice) for choice in choices])


def shares(found: NDArray[np.float64], others: NDArray[np.float64]) -> list[str]:
    """Of losses beside others: mean, that of logarithms, worst."""
    ratio = found / others
    return [f"{ratio.mean():.3f}", f"{np.exp(np.log(ratio).mean()):.3f}", f"{ratio.max():.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["demo", "plain", "residual", "gated"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--samples", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bounds = [f"{b:.2f}" for b in np.linspace(LEAST, MOST, options.budgets)]
    print(f"{machine('cpu')}; 1 thread. {options.samples} samples; work in forward equivalents, of a search the mean.")
    header = ["network", "seed", "losses beside", "mean", "geometric", "worst", "work", "of a search", "ratio"]
    rows = []
    for name in options.networks:
        demo = name == "demo"
        model = demo_network(progress=False) if demo else trained(name)
        images = batches("train", 2 if demo else 1, options.samples, 1, seed=100)
        inputs = [Inputs((x,), {}) for x, _ in images]
        network = prepare(model, inputs[0], "layer")
        table = CostTable.of(network.trace, network.units)
        widths = range(2, 9) if demo else BITS
        plans = [make_plan(table, ribs.Budget(bops=f"{b}/{b}"), widths) for b in bounds]
        calibrate(network, inputs, plans[0].bit_widths)
        measured = None if demo else Measured.of(network, inputs, plans[0])
        known = {} if measured is None else measured.known
        for seed in range(options.seeds):
            started = time.perf_counter()
            with network.keep_weights(1 << 29):
                sensitivity = Sensitivity(network, inputs, plans[0].candidates, kl_divergence, known=known)
                losses, work = swept(sensitivity, plans, seed), sensitivity.forward_equivalents
                known = sensitivity.known
                singles = [search(network, inputs, plan, "adaptive", seed, known)[0] for plan in plans]
            alone = np.array([one.loss for one in singles])
            mean = float(np.mean([one.work for one in singles]))
            of_work = [f"{work:.0f}", f"{mean:.0f}", f"{work / mean:.2f}"]
            rows.append([name, str(seed), "searches", *shares(losses, alone), *of_work])
            if measured is not None:
                optima = np.array([measured.feasible(plan)[0] for plan in plans])
                rows.append([name, str(seed), "optima", *shares(losses, optima), *of_work])
                rows.append([name, str(seed), "optima, of searches", *shares(alone, optima), "", "", ""])
            each = ", ".join(f"{b} {a:.3g} ({a / s:.2f})" for b, a, s in zip(bounds, losses, alone, strict=True))
            print(f"{name}, seed {seed}, {time.perf_counter() - started:.0f} s: {each}", flush=True)
    print(text_table(header, rows, right=range(3, len(header))))


if __name__ == "__main__":
    main()
