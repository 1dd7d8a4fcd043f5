"""Ribs beside Algorithm 1 of the paper and the other ways to choose bits, on networks trained on the digits task.

Run: python benchmarks/rivals.py [network ...] [--methods M,M] [--bops 3/3,4/4] [--size 4/4] [--seeds N] [--samples N]
    [--device cuda]
All choose within the same budgets, with the same quantizers; loss on the calibration samples, top-1 on unseen canvases.
A budget of size fixes all activations at 8 bits (MP/8) and then at 4 (MP/4).
"""

import argparse
import warnings

import torch
from torch import nn

import ribs
from ribs.cli import digits
from ribs.select.rivals.registry import RIVALS

TEST = 2048
SLOW = ("exhaustive",)  # only for a handful of units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["resnet18", "mobilenetv2_050", "vit"])
    parser.add_argument("--methods", default=",".join(["ribs", "paper", *(m for m in RIVALS if m not in SLOW)]))
    parser.add_argument("--bops", default="3/3,3.5/3.5,4/4")
    parser.add_argument("--size", default="4/4", help="'' for none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in options.networks:
        count = digits.RECIPES[name].digits
        draw = {1: digits.one_digit, 2: digits.two_digits}[count]
        images, labels = (each.to(options.device) for each in draw("test", TEST, seed=1))
        batches = [x for x, _ in digits.batches("train", count, 64, options.samples // 64, seed=1000)]
        model = digits.trained(name, progress=False).to(options.device)

        def top1(network: nn.Module, images: torch.Tensor = images, labels: torch.Tensor = labels) -> float:
            return digits.accuracy(network, images, labels)

        def table(
            budgets: list[ribs.Budget], activations: int | None, model: nn.Module = model, batches=batches, top1=top1
        ) -> ribs.Comparison:
            return ribs.compare(
                model,
                batches,
                budgets,
                methods=options.methods.split(","),
                seeds=range(options.seeds),
                activation_bits=activations,
                evaluate=top1,
                progress=False,
            )

        print(f"\n{name}: float {top1(model):.2f} % top-1 of {TEST}, {options.samples} calibration samples", flush=True)
        if options.bops:
            print(table([ribs.Budget(bops=bound) for bound in options.bops.split(",")], None), flush=True)
        for activations in (8, 4) if options.size else ():
            print(f"\nMP/{activations}", flush=True)
            print(table([ribs.Budget(size=bound) for bound in options.size.split(",")], activations), flush=True)


if __name__ == "__main__":
    main()
