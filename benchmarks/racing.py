"""Races against full searches by Algorithm 1 on trained networks: what they find, on which data, for what work.

Run: python benchmarks/racing.py [network ...] [--seeds 0 1 2] [--samples N] [--device cuda]
A seed draws the calibration set and what is random in a search. Races are by Algorithm 1 and by the adaptive search.
The aim is a loss at most a standard error above the full search's for a tenth of its work. Needs the extra `demo`;
networks are trained once.
"""

import argparse
import warnings
from collections.abc import Iterator

import torch
from run import machine

import ribs
from ribs.cli.digits import RECIPES, batches, trained
from ribs.select.table import text_table

BUDGET = {"demo": "3/3", "resnet18": "3/3", "mobilenetv2_050": "4/4", "vit": "4/4"}
OTHERS = 1024  # samples of test digits, which neither training nor search has seen
RACES = ("paper", "adaptive")
HEADER = ["network", "seed", "search", "loss", "in s.e.", "other loss", "in s.e.", "work", "ratio", "seconds"]


def compare(name: str, seed: int, samples: int, device: str) -> Iterator[list[str]]:
    """A row for the full search and for each race."""
    model, digits = trained(name, progress=False).to(device), RECIPES[name].digits
    calibration = [x for x, _ in batches("train", digits, 64, samples // 64, seed=1000 + seed)]
    others = [x.to(device) for x, _ in batches("test", digits, 64, OTHERS // 64, seed=2000)]
    budget = ribs.Budget(bops=BUDGET[name])

    def search(algorithm: str, profile: str) -> ribs.Result:
        result = ribs.search(
            model, calibration, budget, algorithm=algorithm, seed=seed, profile=profile, progress=False
        )
        assert result.bops <= result.limits["bops"]
        return result

    full = search("paper", "full")
    on_others = ribs.evaluate(model, full, others, progress=False)
    for label, result in [("paper, full", full), *((f"{race}, race", search(race, "race")) for race in RACES)]:
        other = ribs.evaluate(model, result, others, progress=False).loss
        work = result.cost_of_search.forward_equivalents
        yield [
            name,
            str(seed),
            label,
            f"{result.loss:.4f}",
            f"{(result.loss - full.loss) / full.standard_error:+.2f}",
            f"{other:.4f}",
            f"{(other - on_others.loss) / on_others.standard_error:+.2f}",
            f"{work:.1f}",
            f"{work / full.cost_of_search.forward_equivalents:.3f}",
            f"{result.cost_of_search.seconds:.0f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(BUDGET), metavar="network")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{machine(options.device)}; {options.samples} samples; work in forward equivalents")
    rows = []
    for name in options.networks:
        for seed in options.seeds:
            for row in compare(name, seed, options.samples, options.device):
                rows.append(row)
                print(" | ".join(row), flush=True)
    print(text_table(HEADER, rows, right=range(3, len(HEADER))))


if __name__ == "__main__":
    main()
