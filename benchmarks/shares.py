"""Levels of softmax outputs of a trained transformer: nuLSQ beside Lloyd-Max, log-sqrt2 and even steps.

Run: python benchmarks/shares.py [--bits 3 4] [--samples N]
Prints, for each block of the digits' small ViT, the mean squared error of each over that of the levels that nuLSQ is
given, which are fitted to a sketch of the data. Lloyd-Max is Lloyd's algorithm on the values themselves, with a level
at zero, the best of three starts. Needs the extra `demo`; the ViT is trained once, in a quarter of an hour.
"""

import argparse
import warnings
from functools import partial

import torch
from run import machine
from torch import Tensor, nn

from ribs import ops
from ribs.cli.digits import one_digit, trained
from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from ribs.quant.quantizer import ShareQuantizer
from ribs.select.table import text_table

ROUNDS = 200  # of Lloyd's algorithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine("cpu"))
    rows = []
    for name, x in softmax_outputs(arguments.samples).items():
        for bits in arguments.bits:
            (steps,), _ = ops.search_levels(x, [bits])
            log, even = ops.search_log_sqrt2(x, [bits]), ops.search_steps(x, [bits], symmetric=False)
            fitted = error(x, ops.fake_quantize_nonuniform(x, steps))
            lloyd = lloyd_max(x, steps)
            others = (
                error(x, ops.fake_quantize_log_sqrt2(x, log.step, bits)),
                error(x, ops.fake_quantize(x, even.step, even.zero_point, 0, 2**bits - 1)),
            )
            assert fitted <= 1.005 * lloyd and fitted < min(others)
            rows.append([name, str(bits), f"{fitted:.4g}", *(f"{each / fitted:.4f}" for each in (lloyd, *others))])
    header = ["softmax outputs into", "bits", "nuLSQ: mse", "Lloyd-Max / nuLSQ", "log-sqrt2 / nuLSQ", "even / nuLSQ"]
    print(f"\n{text_table(header, rows, right=range(1, 6))}")


@torch.no_grad()
def softmax_outputs(samples: int) -> dict[str, Tensor]:
    """By the matmul that reads them, of unseen canvases."""
    images, _ = one_digit("test", samples, seed=0)
    network = prepare(trained("vit"), Inputs((images,), {}), recipe="repq+").model
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, ShareQuantizer):
            module.register_forward_pre_hook(partial(keep, found, name.rpartition(".")[0]))
    network(images)
    return found


def keep(found: dict[str, Tensor], place: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    found[place] = args[0]


def lloyd_max(x: Tensor, steps: Tensor) -> float:
    """The least mean squared error where Lloyd's algorithm ends, from these levels, quantiles and even ones."""
    values = x.flatten().double().sort().values
    sums = torch.nn.functional.pad(values.cumsum(0), (1, 0))
    count = len(steps)
    places = (torch.arange(1, count + 1) * (len(values) - 1)) // count
    starts = (steps.double().cumsum(0), values[places], torch.arange(1, count + 1).double() / count * values[-1])
    return min(_lloyd(values, sums, start) for start in starts)


def _lloyd(values: Tensor, sums: Tensor, levels: Tensor) -> float:
    for _ in range(ROUNDS):
        all_levels = torch.nn.functional.pad(levels, (1, 0))
        ends = torch.searchsorted(values, (all_levels[1:] + all_levels[:-1]) / 2)
        bounds = torch.cat([ends, torch.tensor([len(values)])])
        sizes = bounds.diff()
        levels = torch.where(sizes > 0, (sums[bounds[1:]] - sums[bounds[:-1]]) / sizes.clamp(min=1), levels)
    all_levels = torch.nn.functional.pad(levels, (1, 0))
    nearest = all_levels[torch.bucketize(values, (all_levels[1:] + all_levels[:-1]) / 2)]
    return float((values - nearest).square().mean())


def error(x: Tensor, quantized: Tensor) -> float:
    return float((x.double() - quantized.double()).square().mean())


if __name__ == "__main__":
    main()
