"""Races against full searches on trained networks: what they find, on the calibration set and on other data, for what.

Run: python benchmarks/racing.py [network ...] [--seeds N] [--samples N]
A seed draws the calibration set and the units that change. Needs the extra `demo`; networks are trained once.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import ribs
from ribs.cli.digits import RECIPES, batches, trained
from ribs.select.loss import kl_divergence
from ribs.select.table import text_table

BUDGET = {"demo": "3/3", "resnet18": "3/3", "mobilenetv2_050": "4/4"}
OTHERS = 1024  # samples of test digits, which neither training nor search has seen


@torch.no_grad()
def losses(model: nn.Module, quantized: nn.Module, images: list[Tensor]) -> np.ndarray:
    return np.concatenate([kl_divergence(model(x), quantized(x)).numpy() for x in images])


def compare(name: str, seed: int, samples: int) -> list[str]:
    model, digits = trained(name), RECIPES[name].digits
    calibration = [x for x, _ in batches("train", digits, 64, samples // 64, seed=1000 + seed)]
    others = [x for x, _ in batches("test", digits, 64, OTHERS // 64, seed=2000)]
    budget = ribs.Budget(bops=BUDGET[name])
    full, race = (
        ribs.search(
            model, calibration, budget, units="layer", algorithm="paper", seed=seed, profile=profile, progress=False
        )
        for profile in ("full", "race")
    )
    on_others = [losses(model, result.model, others) for result in (full, race)]
    for result in (full, race):
        assert result.bops <= result.limits["bops"]
    error = on_others[0].std(ddof=1) / np.sqrt(OTHERS)
    work = [result.cost_of_search.forward_equivalents for result in (full, race)]
    return [
        name,
        str(seed),
        f"{full.loss:.4f}",
        f"{race.loss:.4f}",
        f"{(race.loss - full.loss) / full.standard_error:+.2f}",
        f"{on_others[0].mean():.4f}",
        f"{on_others[1].mean():.4f}",
        f"{(on_others[1].mean() - on_others[0].mean()) / error:+.2f}",
        f"{work[0]:.0f}",
        f"{work[1]:.1f}",
        f"{work[1] / work[0]:.3f}",
        f"{full.cost_of_search.seconds:.0f}",
        f"{race.cost_of_search.seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(BUDGET))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["network", "seed", "full", "race", "in s.e.", "other full", "other race", "in s.e."]
    header += ["passes full", "race", "ratio", "s full", "race"]
    rows = [compare(name, seed, options.samples) for name in options.networks for seed in range(options.seeds)]
    print(text_table(header, rows, right=range(1, len(header))))


if __name__ == "__main__":
    main()
