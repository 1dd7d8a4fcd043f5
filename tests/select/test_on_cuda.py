"""Searches, reconstruction and saved folders on a GPU; left out where there is none."""

import copy
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare
from ribs.recon import captures
from ribs.select import sensitivity
from ribs.select.graphs import capture_on_cuda
from ribs.select.loss import KLDivergence, kl_divergence
from ribs.select.sensitivity import Sensitivity
from small import content, loader, network, search

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BITS = (2, 4, 8)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 products in float32, so that the two devices differ by roundings alone."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def there(data: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.cuda() for x in data]


@pytest.mark.parametrize("algorithm", ["paper", "adaptive"])
def test_a_search_finds_what_it_finds_on_the_cpu(algorithm: str) -> None:
    expected, found = search(algorithm=algorithm), search(network().cuda(), there(loader()), algorithm=algorithm)
    assert found.bits == expected.bits
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    assert next(found.model.parameters()).is_cuda


def test_a_race_finds_what_it_finds_on_the_cpu() -> None:
    data = loader(12, 32)
    on_cpu = search(data=data, profile="race")
    on_gpu = search(network().cuda(), there(data), profile="race")
    assert on_gpu.bits == on_cpu.bits
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-3)


def test_the_same_call_gives_the_same_bytes() -> None:
    def once() -> str:
        found = search(network().cuda(), there(loader()))
        found.model.cpu()
        return content(found)

    assert once() == once()


@torch.no_grad()
@pytest.mark.parametrize(("batches", "samples"), [(2, 8), (2, 64), (7, 16)])
def test_losses_are_those_of_whole_passes(batches: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With seven batches passes are captured as CUDA graphs."""
    launched = []

    def capture(run: Callable[[], torch.Tensor], pool: Any) -> tuple[Callable[[], None], torch.Tensor]:
        launch, losses = capture_on_cuda(run, pool)
        return lambda: (launched.append(1), launch()), losses

    monkeypatch.setitem(sensitivity.CAPTURES, "cuda", capture)
    shards = [Inputs((x,), {}) for x in there(loader(batches, samples))]
    prepared = prepare(network().cuda(), shards[0], "layer")
    calibrate(prepared, shards, BITS)
    candidates = [[(b, b) for b in BITS]] * len(prepared.units)
    found_by = Sensitivity(prepared, shards, candidates, kl_divergence)
    target = [shard.call(network().cuda()) for shard in shards]
    for reference in [(2, 2, 2), (1, 2, 0)]:
        choices = [reference, *((*reference[:i], k, *reference[i + 1 :]) for i in range(3) for k in range(3))]
        choices = list(dict.fromkeys(choices))
        for shard, inputs in enumerate(shards):
            found = found_by.measure(choices, shard)
            for losses, choice in zip(found, choices, strict=True):
                prepared.configure(
                    {unit.name: candidates[0][k] for unit, k in zip(prepared.units, choice, strict=True)}
                )
                whole = kl_divergence(target[shard], inputs.call(prepared.model)).cpu().numpy()
                np.testing.assert_array_equal(losses, whole)
    assert len(launched) == (0 if batches < 6 else batches * (6 + 4))


def test_what_waits_for_the_gpu_is_not_captured(caplog: pytest.LogCaptureFixture) -> None:
    class Waits(KLDivergence):
        def __call__(self, reference: Any, output: Any) -> torch.Tensor:
            return super().__call__(reference, output) + 0 * float(output.sum())

    with caplog.at_level(logging.INFO, "ribs"):
        found = search(network().cuda(), there(loader(7)), loss=Waits())
    assert "are not captured as CUDA graphs" in caplog.text
    assert found.loss == search(network().cuda(), there(loader(7))).loss


def test_inputs_on_the_cpu_are_moved() -> None:
    assert search(network().cuda(), loader()).bits == search(network().cuda(), there(loader())).bits


@pytest.mark.parametrize("recipe", ["minmax", "repq+"])
def test_attention_is_searched(recipe: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 2, 6).permute(2, 0, 3, 1, 4)
            x = (q @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.out(x.transpose(1, 2).flatten(2).mean(1))

    torch.manual_seed(0)
    model, data = Attention().eval(), [torch.randn(8, 7, 12) for _ in range(2)]
    expected, found = (
        search(copy.deepcopy(model).to(device), data, recipe=recipe, bits=(3, 4, 8)) for device in ("cpu", "cuda")
    )
    assert found.loss == pytest.approx(expected.loss, rel=0.02)


@pytest.mark.parametrize("recipe", ["asymmetric", "residual"])
def test_residual_networks_are_quantized_and_evaluated(recipe: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.second(self.relu(self.first(x))) + x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Block(), Block(), nn.Flatten(), nn.Linear(144, 5)).eval()
    there, fresh = copy.deepcopy(model).cuda(), loader(5)
    expected = ribs.quantize(model, loader(), (3, 4), recipe=recipe, progress=False)
    found = ribs.quantize(there, loader(), (3, 4), recipe=recipe, progress=False)
    assert found.loss == pytest.approx(expected.loss, rel=0.02)
    evaluations = [
        ribs.evaluate(each, result, fresh, progress=False) for each, result in ((model, expected), (there, found))
    ]
    assert evaluations[1].loss == pytest.approx(evaluations[0].loss, rel=0.02)
    assert evaluations[1].samples == 40


@pytest.mark.parametrize("recipe", ["mse", "asymmetric"])
def test_reconstruction_lowers_the_loss_and_repeats(recipe: str) -> None:
    quantized = ribs.quantize(network().cuda(), loader(6, 16), (2, 4), recipe=recipe, progress=False)
    method = ribs.QDrop(iterations=120, weight_lr=0.02, activation_lr=1e-3)
    once, again = (ribs.reconstruct(quantized, loader(6, 16), method=method, progress=False) for _ in range(2))
    assert once.loss < 0.8 * quantized.loss
    for name, value in once.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.parametrize(
    "method",
    [
        ribs.AdaRound(iterations=40, weight_lr=0.02),
        ribs.BRECQ(iterations=40, weight_lr=0.02, fisher=True),
        ribs.QDrop(iterations=40, weight_lr=0.02, activation_lr=1e-3),
    ],
    ids=["adaround", "brecq", "qdrop"],
)
def test_captured_steps_of_reconstruction_are_those_of_the_loop(
    method: ribs.AdaRound, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    quantized = ribs.quantize(network().cuda(), loader(6, 16), (2, 4), progress=False)
    launched = []

    class Counting(captures.CaptureOnCuda):
        def __call__(self, run: captures.Run) -> captures.Run:
            launch = super().__call__(run)
            return lambda: (launched.append(1), launch())  # type: ignore[func-returns-value]

    found = []
    for capture in ({"cuda": Counting}, {}):
        monkeypatch.setattr(captures, "CAPTURES", capture)
        with caplog.at_level(logging.INFO, "ribs"):
            found.append(ribs.reconstruct(quantized, loader(6, 16), method=method, progress=False))
    assert "not captured" not in caplog.text
    assert len(launched) == 3 * sum(phase.iterations - 1 for phase in method.phases)
    for name, value in found[0].model.state_dict().items():
        assert torch.equal(value, found[1].model.state_dict()[name]), name


def test_a_step_of_reconstruction_that_waits_for_the_gpu_is_not_captured(caplog: pytest.LogCaptureFixture) -> None:
    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * float(x.detach().sum())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.waits, self.second = nn.Linear(64, 64), Waits(), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.second(self.waits(self.first(x)).relu())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Sequential(Block(), Block()), nn.Linear(64, 5)).eval().cuda()
    method = ribs.QDrop(iterations=40, weight_lr=0.02, activation_lr=1e-3)
    with caplog.at_level(logging.INFO, "ribs"):
        found, again = (ribs.reconstruct(model, loader(6, 16), (2, 4), method=method, progress=False) for _ in "ab")
    assert "are not captured as CUDA graphs" in caplog.text
    assert found.loss == again.loss


def test_a_saved_result_is_the_same_network(tmp_path: Path) -> None:
    found = search(network().cuda(), loader())
    found.save(tmp_path / "saved")
    loaded = ribs.load(tmp_path / "saved", network().cuda())
    for x in there(loader()):
        assert torch.equal(loaded.model(x), found.model(x))


def _under_nccl(folder: str, rank: int) -> None:
    dist.init_process_group("nccl", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        found = search(network().cuda(), loader())
        (Path(folder) / f"answer-{rank}").write_text(f"{found.bits} {found.loss!r}")
    finally:
        dist.destroy_process_group()


def test_processes_joined_by_nccl_find_the_same(tmp_path: Path) -> None:
    """Both on one GPU, as a search exchanges losses through main memory only."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_under_nccl, args=(str(tmp_path), rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = search(network().cuda(), loader())
    answers = [(tmp_path / f"answer-{rank}").read_text() for rank in range(2)]
    assert answers == [f"{alone.bits} {alone.loss!r}"] * 2
