"""Recipes through the whole way: the quantizers of a small transformer, and results of the network as it ends."""

import copy

import pytest
import torch
from torch import nn

import ribs
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer
from ribs.quant.network import calibrate, prepare
from ribs.quant.quantizer import FakeQuantizer, ShareQuantizer
from ribs.quant.recipe import RECIPES
from ribs.select.loss import kl_divergence


class Block(nn.Module):
    """One head of attention and one linear, each after a layer norm."""

    def __init__(self):
        super().__init__()
        self.norm1, self.qkv, self.norm2, self.mlp = nn.LayerNorm(8), nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 8)
        with torch.no_grad():
            for norm in (self.norm1, self.norm2):
                norm.weight.copy_(torch.logspace(-1, 0.5, 8))
                norm.bias.copy_(torch.linspace(-1, 1, 8))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.blocks, self.head = nn.Linear(6, 8), nn.Sequential(Block(), Block()), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x)).mean(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer().eval()


LOADER = list(torch.randn(48, 5, 6, generator=torch.Generator().manual_seed(1)).split(16))


def quantizers(network, kind, where=lambda quantizer: True):
    return {name for name, each in network.named_modules() if isinstance(each, kind) and where(each)}


@pytest.mark.parametrize("recipe", [*RECIPES, None])
def test_each_recipe_has_its_quantizers(model, recipe):
    network = prepare(model, Inputs((LOADER[0],), {}), recipe=recipe).model
    shares = quantizers(network, ShareQuantizer)
    by_channel = quantizers(network, FakeQuantizer, lambda each: each.axis == -1)
    if recipe in ("minmax", "mse", "asymmetric", "residual"):
        assert not shares and not by_channel
        return
    assert shares == {f"blocks.{block}.matmul1.left_quantizer" for block in (0, 1)}
    assert by_channel == {f"blocks.{block}.{layer}.input_quantizer" for block in (0, 1) for layer in ("qkv", "mlp")}
    levels = {each.levels for each in network.modules() if isinstance(each, ShareQuantizer)}
    assert levels == {"log_sqrt2" if recipe == "repq" else "nonuniform"}


def test_without_softmax_the_default_is_mse():
    network = prepare(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)).eval(), Inputs((LOADER[0],), {}))
    assert network.recipe == RECIPES["mse"]


@torch.no_grad()
def test_levels_of_shares_are_those_of_all_batches_together(model):
    network = prepare(model, Inputs((LOADER[0],), {}), recipe="repq+")
    batches = [Inputs((x,), {}) for x in LOADER]
    calibrate(network, batches, (3, 4))
    seen = []
    quantizer = network.model.blocks[0].matmul1.left_quantizer
    quantizer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network.model(torch.cat(LOADER))
    shares = torch.cat(seen)
    assert torch.allclose(shares.sum(-1), torch.ones(()))
    for bits in (3, 4):
        quantizer.set_bits(bits)
        error = (quantizer(shares) - shares).square().mean()
        best = ribs.ops.search_levels(shares, (bits,)).mse[0]
        uniform = ribs.ops.search_steps(shares, (bits,), symmetric=False).mse[0]
        assert error == pytest.approx(best.item(), rel=0.01)
        assert error < uniform
        assert len(quantizer(shares).unique()) <= 2**bits


def check_result(model, result):
    """The result's model is whole: one step at the inputs of linears, and the loss that is reported is its own."""
    inputs = [each.input_quantizer for each in result.model.modules() if isinstance(each, QuantizedLayer)]
    assert inputs and all(each.is_per_tensor for each in inputs)
    with torch.no_grad():
        losses = torch.cat([kl_divergence(model(x), result.model(x)) for x in LOADER])
    assert result.loss == pytest.approx(losses.double().mean().item(), rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_search_returns_the_network_as_it_ends(model, recipe):
    before = copy.deepcopy(model.state_dict())
    limit = ribs.count(model, LOADER[0]).bops((4, 4))
    result = ribs.search(
        model, LOADER, ribs.Budget(bops="4/4"), recipe=recipe, bits=(3, 4, 8), iterations=2, progress=False
    )
    assert result.recipe == recipe
    assert result.bops <= limit
    check_result(model, result)
    given = ribs.quantize(model, LOADER, result.bits, recipe=recipe, progress=False)
    assert given.loss == pytest.approx(result.loss, rel=1e-5)
    assert (result.loss == pytest.approx(result.loss_as_searched, rel=1e-4)) == (recipe != "repq")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_all_at_32_bits_is_the_float_network(model):
    result = ribs.quantize(model, LOADER, 32, progress=False)
    assert result.recipe == "repq+"
    assert result.loss == pytest.approx(0, abs=1e-9)


def test_a_comparison_measures_networks_as_they_end(model):
    @torch.no_grad()
    def evaluate(network):
        return -torch.cat([kl_divergence(model(x), network(x)) for x in LOADER]).double().mean().item()

    budgets = [ribs.Budget(bops="4/4"), ribs.Budget(bops="6/6")]
    options = {"methods": ("uniform", "limpq"), "seeds": (0,), "bits": (3, 4, 6), "progress": False}
    found = ribs.compare(model, LOADER, budgets, evaluate=evaluate, **options)
    for run in found.runs:
        assert run.metric == pytest.approx(-run.loss, rel=1e-4)
        assert run.loss == pytest.approx(ribs.quantize(model, LOADER, run.bits, progress=False).loss, rel=1e-5)


def test_a_journal_tells_recipes_apart(model, tmp_path):
    def search(recipe):
        ribs.search(
            model,
            LOADER,
            ribs.Budget(bops="4/4"),
            recipe=recipe,
            bits=(4, 8),
            iterations=1,
            journal=tmp_path,
            progress=False,
        )

    search("repq+")
    search(None)
    with pytest.raises(ribs.select.journal_file.JournalError, match="recipe"):
        search("repq")


def test_bad_recipes_are_refused_before_any_work(model):
    calls = []

    def loader():
        calls.append(1)
        yield LOADER[0]

    for call in (
        lambda **given: ribs.search(model, loader(), ribs.Budget(bops="4/4"), **given),
        lambda **given: ribs.quantize(model, loader(), 4, **given),
        lambda **given: ribs.compare(model, loader(), [ribs.Budget(bops="4/4")], **given),
    ):
        with pytest.raises(ValueError, match=r"recipe='best' is not supported; give one of .*'repq\+'"):
            call(recipe="best")
        assert not calls
        with pytest.raises(ValueError, match="pool_batches=True is not supported with recipe='repq\\+'"):
            call(pool_batches=True)
        calls.clear()
