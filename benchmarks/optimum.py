"""Both searches beside brute force: small networks of six units with four candidates, all 4096 configurations measured.

Run: python benchmarks/optimum.py [network ...] [--resources bops size] [--seeds N] [--samples N]
The networks are trained in seconds on canvases of one digit. Every loss is measured once and known from then on, as
from a journal: the searches take the same way, and count the same work, as `ribs.search` without it. A budget of size
has all activations at 8 bits. Needs the extra `demo`.
"""

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from run import machine
from search import Found, search
from torch import Tensor, nn

import ribs
from ribs.cli.digits import accuracy, batches, one_digit
from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork, calibrate, prepare
from ribs.select.algorithm import Name
from ribs.select.cost import CostTable
from ribs.select.loss import kl_divergence
from ribs.select.measurement import Key, Losses
from ribs.select.plan import Plan, make_plan
from ribs.select.sensitivity import Sensitivity
from ribs.select.table import text_table

BITS = (2, 3, 4, 8)
BUDGETS = {  # between the cheapest configuration and the dearest
    "bops": ("2.25/2.25", "2.5/2.5", "3/3", "3.5/3.5", "4/4", "5/5", "6/6", "7/7"),
    "size": ("2.25/8", "2.5/8", "3/8", "3.5/8", "4/8", "5/8", "6/8", "7/8"),
}
STEPS = 300  # of training
NEAR = 0.01  # of the optimum's loss above it


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class Plain(nn.Module):
    """Four convolutions and two linear layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(1, 8, 2), conv(8, 16, 2), conv(16, 16), conv(16, 32, 2)])
        self.hidden, self.head = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.convs:
            x = layer(x).relu()
        return self.head(self.hidden(x.mean(dim=(2, 3))).relu())


class Residual(nn.Module):
    """A stem, two residual blocks of two convolutions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 16, 2)
        self.blocks = nn.ModuleList([nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16)) for _ in range(2)])
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x).relu(), 2)
        for block in self.blocks:
            x = F.avg_pool2d((x + block(x)).relu(), 2)
        return self.head(x.flatten(1))


class Gated(nn.Module):
    """A stem, two blocks in which one convolution gates another, and a linear layer: errors multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 16, 2)
        self.values = nn.ModuleList([conv(16, 16) for _ in range(2)])
        self.gates = nn.ModuleList([conv(16, 16) for _ in range(2)])
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.stem(x).relu(), 2)
        for value, gate in zip(self.values, self.gates, strict=True):
            x = F.avg_pool2d(value(x) * gate(x).sigmoid(), 2)
        return self.head(x.flatten(1))


NETWORKS = {"plain": Plain, "residual": Residual, "gated": Gated}


def trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]().train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    for images, labels in batches("train", 1, 64, STEPS, seed=0):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@dataclass(frozen=True)
class Measured:
    """All configurations of a network. losses: their means, in the order of `itertools.product`."""

    network: QuantizedNetwork
    inputs: list[Inputs]
    known: dict[Key, Losses]
    losses: NDArray[np.float64]

    @classmethod
    def of(cls, network: QuantizedNetwork, inputs: list[Inputs], plan: Plan) -> "Measured":
        sensitivity = Sensitivity(network, inputs, plan.candidates, kl_divergence)
        *most, last = (range(len(options)) for options in plan.candidates)
        losses = []
        with network.keep_weights(1 << 29):
            # What comes before the units that change from one call to the next is not run again.
            for first in itertools.product(*most):
                choices = [(*first, k) for k in last]
                shards = [sensitivity.measure(choices, shard) for shard in range(len(inputs))]
                losses.append(np.concatenate(shards, axis=1).mean(axis=1))
        return cls(network, inputs, sensitivity.known, np.concatenate(losses))

    def feasible(self, plan: Plan) -> NDArray[np.float64]:
        """The losses of all within the budget, rising."""
        spent = [sum(cost) for cost in itertools.product(*([c for (c,) in row] for row in plan.costs))]
        return np.sort(self.losses[np.array(spent) <= plan.available[0]])


@dataclass(frozen=True)
class Landed:
    """Where a search ended. rank: 1 is the optimum.  excess: over the optimum's loss, as a share of it."""

    bound: str
    found: Found
    optimum: float
    rank: int

    def excess(self, work: float = math.inf) -> float:
        return self.found.at(work) / self.optimum - 1


def landings(measured: Measured, plans: dict[str, Plan], name: Name, seeds: int) -> list[Landed]:
    """One for each budget and seed."""
    landed = []
    for (bound, plan), seed in itertools.product(plans.items(), range(seeds)):
        losses = measured.feasible(plan)
        found, _ = search(measured.network, measured.inputs, plan, name, seed, measured.known)
        rank = 1 + int(np.searchsorted(losses, found.loss * (1 - 1e-12)))
        landed.append(Landed(bound, found, float(losses[0]), rank))
    return landed


def row(landed: list[Landed], equal_work: list[float]) -> list[str]:
    excesses = [one.excess() for one in landed]
    at_equal = [one.excess(work) for one, work in zip(landed, equal_work, strict=True)]
    return [
        f"{100 * np.mean([excess <= NEAR for excess in excesses]):.1f} %",
        f"{100 * np.mean([one.rank == 1 for one in landed]):.1f} %",
        f"{100 * np.mean(excesses):.2f} %",
        f"{100 * max(excesses):.2f} %",
        f"{np.mean([one.rank for one in landed]):.1f}",
        str(max(one.rank for one in landed)),
        f"{statistics.mean(one.found.work for one in landed):.0f}",
        f"{100 * np.mean(at_equal):.2f} %" if np.isfinite(at_equal).all() else "none",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="network")
    parser.add_argument("--resources", nargs="+", choices=list(BUDGETS), default=["bops"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    images, labels = one_digit("test", 2048, seed=1)
    header = ["budgets", "search", "within 1 %", "optimum", "excess, mean", "worst", "rank, mean", "worst", "work"]
    header += ["excess at equal work"]
    print(f"{machine('cpu')}; 1 thread. {options.samples} samples, {options.seeds} seeds; work in forward equivalents.")
    for name in options.networks:
        started = time.perf_counter()
        model = trained(name)
        inputs = [Inputs((x,), {}) for x, _ in batches("train", 1, options.samples, 1, seed=100)]
        network = prepare(model, inputs[0], "layer")
        table = CostTable.of(network.trace, network.units)
        calibrate(network, inputs, BITS)
        print(f"\n{name}: {accuracy(model, images, labels):.2f} % top-1 in float", flush=True)
        rows = []
        for resource in options.resources:
            activations = 8 if resource == "size" else None
            budgets = {bound: ribs.Budget(**{resource: bound}) for bound in BUDGETS[resource]}
            plans = {bound: make_plan(table, budget, BITS, activations) for bound, budget in budgets.items()}
            measured = Measured.of(network, inputs, plans[BUDGETS[resource][0]])
            within = ", ".join(f"{bound} {len(measured.feasible(plan))}" for bound, plan in plans.items())
            print(f"configurations within the budgets of {resource}: {within}", flush=True)
            found = {algorithm: landings(measured, plans, algorithm, options.seeds) for algorithm in get_args(Name)}
            work = [min(one.found.work for one in both) for both in zip(*found.values(), strict=True)]
            rows += [[resource, algorithm, *row(landed, work)] for algorithm, landed in found.items()]
            for algorithm, landed in found.items():
                far = Counter(one.bound for one in landed if one.excess() > NEAR)
                missed = ", ".join(f"{bound} ({count} seeds)" for bound, count in far.items())
                print(f"{algorithm}, farther than 1 % from the optimum: {missed or 'nowhere'}", flush=True)
        print(text_table(header, rows, right=range(2, len(header))))
        print(f"{time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
