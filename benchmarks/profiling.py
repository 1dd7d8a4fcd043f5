"""Profiling the candidates of every layer, against a plain loop in torch, and whole searches, against peers.

Run: python benchmarks/profiling.py [threads] [--device cpu|cuda] [--networks N N] [--whole] [--peers FOLDER]
--whole adds Algorithm 1 with its step search; --peers adds tools installed in a folder of their own (NVIDIA's modelopt,
Sony's model_compression_toolkit), on the same network and images.
"""

import argparse
import contextlib
import copy
import importlib
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import timm
import torch
from plain_torch import BITS, Choice, WholePasses, calibrate_plainly, plain
from timing import Case, table
from torch import Tensor, nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.quant.network import QuantizedNetwork, calibrate, prepare
from ribs.select.cost import CostTable
from ribs.select.loss import kl_divergence
from ribs.select.plan import make_plan
from ribs.select.search import repeated_ilp
from ribs.select.sensitivity import CAPTURES, Sensitivity

# Samples of a batch, and the size of an image. On a GPU kernels of the first are over before the next is launched.
SMALL, LARGE = (32, 64), (64, 224)
DEVICES = {"cpu": [SMALL], "cuda": [SMALL, LARGE]}
ROUNDS = 3  # of what is not the plain loop, whose batches are rounds themselves
ITERATIONS = 10
NETWORKS = ("resnet18", "mobilenetv2_100", "deit_tiny_patch16_224")
IMAGES = {"resnet18": 128, "mobilenetv2_100": 64, "deit_tiny_patch16_224": 64}
SEARCHED = 32  # images for whole searches and peers


def build(name: str, device: str = "cpu", size: int = SMALL[1]) -> nn.Module:
    """A network with random weights, and batch norms that are not the identity."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=100, **({"img_size": size} if name.startswith("deit") else {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval().to(device)


def images(count: int, device: str = "cpu", shape: tuple[int, int] = SMALL) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch, size = shape
    return list(torch.randn(count, 3, size, size, generator=generator).to(device).split(batch))


def probes(units: int) -> list[Choice]:
    """The reference of 8 bits, and every other candidate of every unit."""
    reference = (len(BITS) - 1,) * units
    changed = [(*reference[:i], k, *reference[i + 1 :]) for i in range(units) for k in range(len(BITS) - 1)]
    return [reference, *changed]


def profile(name: str, threads: int, device: str, shape: tuple[int, int]) -> list[Case]:
    """Every level of the engine on the first profile of Algorithm 1, by layers; losses are compared first."""
    on_gpu = device == "cuda"
    count = 6 * shape[0] if on_gpu else IMAGES[name]  # the fewest batches for CUDA graphs
    batches = images(count, device, shape)
    by_hand_on = 1 if on_gpu else len(batches)  # batches, from which the time of all is told
    inputs = [Inputs((x,), {}) for x in batches]
    network = prepare(build(name, device, shape[1]), inputs[0], "layer", recipe="mse")
    calibrate(network, inputs[:2], BITS)
    units = len(network.units)
    asked = probes(units)
    candidates = [[(b, b) for b in BITS]] * units

    def by_hand(quantized: QuantizedNetwork) -> tuple[float, np.ndarray]:
        """As Algorithm 1 is written: of every unit every candidate, the present one too. Median over batches."""
        passes = WholePasses(quantized, batches[:by_hand_on])
        runs = [
            timed(lambda shard=shard: passes.measure(asked + asked[:1] * (units - 1), shard))
            for shard in range(by_hand_on)
        ]
        losses = np.concatenate([losses[: len(asked)] for _, losses in runs], 1)
        return statistics.median(seconds for seconds, _ in runs) * len(batches), losses

    def engine() -> np.ndarray:
        sensitivity = Sensitivity(network, inputs, candidates, kl_divergence, cache_mib=16384 if on_gpu else 1024)
        with network.keep_weights(1 << 30):
            return np.concatenate([sensitivity.measure(asked, shard) for shard in range(len(inputs))], 1)

    def launching_each_kernel() -> np.ndarray:
        with mock.patch.dict(CAPTURES, clear=True):
            return engine()

    def integers() -> np.ndarray:
        with network.integer_execution():
            return engine()

    took, found = {}, {}
    took["plain torch loop"], found["plain torch loop"] = by_hand(plain(network))
    took["native operators"], found["native operators"] = by_hand(network)
    levels = {"and replay": launching_each_kernel}
    levels |= {"and CUDA graphs": engine} if on_gpu else {"and int8 execution": integers}
    for level, run in levels.items():
        rounds = [timed(run) for _ in range(1 if on_gpu else ROUNDS)]
        took[level], found[level] = statistics.median(seconds for seconds, _ in rounds), rounds[0][1]
    reference = found["plain torch loop"]
    for level in set(found) - {"and int8 execution"}:
        np.testing.assert_array_equal(found[level][:, : reference.shape[1]], reference, err_msg=f"{name}: {level}")
    print(f"{name}: {len(asked)} losses agree bit for bit in float32.", flush=True)
    if "and int8 execution" in found:
        exact, rough = found["and replay"].mean(1), found["and int8 execution"].mean(1)
        order = np.corrcoef(exact.argsort().argsort(), rough.argsort().argsort())[0, 1]
        print(
            f"In int8 they differ by {np.abs(rough / exact - 1).mean():.2%} on average, "
            f"{np.abs(rough / exact - 1).max():.2%} at most; rank correlation {order:.5f}.",
            flush=True,
        )
    size = f"{units} x {len(BITS)} losses, {count} x {'x'.join(map(str, batches[0].shape[1:]))}"
    return [
        Case(f"{name}, {level}", size, threads, seconds, {"x plain": took["plain torch loop"] / seconds})
        for level, seconds in took.items()
    ]


# Algorithm 1 as a whole, with its step search.


def plain_search(model: nn.Module, batches: list[Tensor], budget: ribs.Budget) -> tuple[float, float]:
    """Algorithm 1 with the same units, programs and random choices, and all that takes time in plain torch.

    Returns: the best loss and the seconds for steps.
    """
    started = time.perf_counter()
    network = prepare(model, Inputs((batches[0],), {}), "layer")
    calibrate_plainly(network, batches)
    steps = time.perf_counter() - started
    plan = make_plan(CostTable.of(network.trace, network.units), budget, list(BITS), None, None)
    units = len(network.units)
    trace = repeated_ilp(
        plan.start,
        plan.costs,
        plan.available,
        measure=WholePasses(plain(network), batches).measure,
        shards=[len(x) for x in batches],
        update_sizes=[units] + [units // 2] * (ITERATIONS - 1),
        allowed=plan.allowed,
    )
    return trace.best_loss, steps


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def whole(name: str, threads: int) -> list[Case]:
    """Algorithm 1 as a whole, each way once."""
    model, batches, budget = build(name), images(SEARCHED), ribs.Budget(bops="4/4")
    size = f"{ITERATIONS} iterations, {SEARCHED} x 3x64x64"
    plain_seconds, (plain_loss, step_seconds) = timed(lambda: plain_search(model, batches, budget))
    cases = [Case(f"{name}, whole search, plain torch", size, threads, plain_seconds, {"x plain": 1.0})]
    print(f"{name}: plain torch ends at a loss of {plain_loss:.5g}, {step_seconds:.1f} s of it for steps")
    for execution in ("float32", "int8"):
        seconds, result = timed(lambda execution=execution: own(model, batches, budget, execution=execution))
        print(f"{name}: ribs in {execution} ends at {result.loss:.5g} (float32)", flush=True)
        ratio = {"x plain": plain_seconds / seconds}
        cases.append(Case(f"{name}, whole search, ribs, {execution}", size, threads, seconds, ratio))
    return cases


def own(model: nn.Module, batches: list[Tensor], budget: ribs.Budget, **options: Any) -> ribs.Result:
    return ribs.search(
        model,
        batches,
        budget,
        units="layer",
        algorithm="paper",
        progress=False,
        cache_mib=2048,
        **{"iterations": ITERATIONS, **options},
    )


# Peers, on the same network and images, with the options they offer for a layer (two and three, where ribs has seven).


def modelopt(model: nn.Module, batches: list[Tensor]) -> None:
    quantization = importlib.import_module("modelopt.torch.quantization")
    quantization.auto_quantize(
        copy.deepcopy(model),
        constraints={"effective_bits": 6.0},
        quantization_formats=[quantization.INT8_DEFAULT_CFG, quantization.INT4_AWQ_CFG],
        data_loader=batches,
        forward_step=lambda network, x: network(x),
        method="kl_div",
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
    )


def mct(model: nn.Module, batches: list[Tensor]) -> None:
    toolkit = importlib.import_module("model_compression_toolkit")
    config = toolkit.core.CoreConfig(
        mixed_precision_config=toolkit.core.MixedPrecisionQuantizationConfig(num_of_images=SEARCHED)
    )
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    toolkit.ptq.pytorch_post_training_quantization(
        copy.deepcopy(model),
        lambda: ([x.numpy()] for x in batches),
        target_resource_utilization=toolkit.core.ResourceUtilization(weights_memory=weights * 0.5),
        core_config=config,
    )


def peers(name: str, threads: int) -> list[Case]:
    model, batches, size = build(name), images(SEARCHED), f"{SEARCHED} x 3x64x64"
    budget = ribs.Budget(size="4/4")
    ways = {
        "one iteration": {"iterations": 1},  # as the peers: every option of every layer measured once, one program
        "one iteration, int8": {"iterations": 1, "execution": "int8"},
        f"{ITERATIONS} iterations": {},
        f"{ITERATIONS} iterations, int8": {"execution": "int8"},
    }
    took = {
        f"ribs, 7 options, {way}": timed(lambda options=options: own(model, batches, budget, **options))[0]
        for way, options in ways.items()
    }
    for peer, run in (("modelopt kl_div, 2 options", modelopt), ("MCT mixed precision, 3 options", mct)):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            took[peer] = timed(lambda run=run: run(model, batches))[0]
    ours = next(iter(took.values()))
    return [
        Case(f"{name}, {tool}", size, threads, seconds, {"x ribs": seconds / ours}) for tool, seconds in took.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("threads", type=int, nargs="?", default=1)
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of the profiles; the rest runs on the CPU")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--peers", metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in options.networks:
        for shape in DEVICES[options.device]:
            print(table(profile(name, options.threads, options.device, shape)), flush=True)
    cases = whole(options.networks[0], options.threads) if options.whole else []
    if options.peers:
        sys.path.append(options.peers)  # last, so that what ribs needs comes from its own environment
        cases += peers(options.networks[0], options.threads)
    if cases:
        print(table(cases))


if __name__ == "__main__":
    main()
