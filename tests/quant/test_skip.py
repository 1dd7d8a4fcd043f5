"""What is skipped stays as it is and counts at 32 bits; what can't be quantized is named at once and can be skipped."""

import ast
import re
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import ribs
from multiplying import Calls, flash, weights
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import calibrate, prepare
from ribs.quant.skip import Skip
from ribs.quant.tracing import trace

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
INPUTS = Inputs((X,), {})
LOSS = ribs.losses.Dense(dim=-1)


def build():
    """A linear, attention, a product by a parameter and two of activations."""

    def call(m, x):
        y = m.attn(x, x, x, need_weights=False)[0]
        return m.head(m.first(x) + y + x @ m.table + (x @ x.mT) @ x)

    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    parts = {"attn": attention, "first": nn.Linear(8, 8), "table": weights(8, 8), "head": nn.Linear(8, 3)}
    return Calls(call, **parts).eval().requires_grad_(False)


ATTENTION = ["attn.in_proj_weight_linear0", "attn.matmul0", "attn.matmul1", "attn.out_proj"]
ALL = [*ATTENTION, "first", "table_linear0", "matmul0", "matmul1", "head"]


def layers_under_quantizers(network):
    kinds = (QuantizedLayer, QuantizedMatmul)
    return {name for name, module in network.model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize(
    ("skip", "gone"),
    [
        (["attn"], ATTENTION),
        (["attn.matmul0"], ["attn.matmul0"]),
        (["attn.*_linear?", "head"], ["attn.in_proj_weight_linear0", "head"]),
        (["*matmul1"], ["attn.matmul1", "matmul1"]),
        (["table*", "first"], ["table_linear0", "first"]),
    ],
    ids=["module", "product", "patterns", "products", "parameter"],
)
def test_what_is_skipped_stays_and_counts_at_32_bits(skip, gone):
    """The cost against the whole network's own, with the same layers at 32/32 and all others at 2/2."""
    model = build()
    whole = prepare(model, INPUTS, "layer", recipe="mse")
    with pytest.warns(UserWarning, match=f"MACs stay in float.*skipped .*{gone[0]}"):
        network = prepare(model, INPUTS, "layer", skip=skip)
    left = [name for name in ALL if name not in gone]
    assert {unit.name for unit in network.units} == layers_under_quantizers(network) == set(left)
    with pytest.warns(UserWarning):
        result = ribs.quantize(model, [X], 2, skip=skip, recipe="mse", loss=LOSS, progress=False)
    pinned = {name: (32, 32) if name in gone else (2, 2) for name in ALL}
    table = ribs.count(model, X)
    assert (result.bops, result.size_mib) == (table.bops(pinned), table.size_mib(pinned))
    assert ribs.count(model, X, skip=skip).macs == table.macs
    # The same network with these at 32 bits computes the same.
    calibrate(whole, [INPUTS], [2])
    whole.configure(pinned)
    assert torch.equal(result.model(X), whole.model(X))
    assert not torch.equal(result.model(X), model(X))


@pytest.mark.parametrize("accounting", ["paper", "deployment", "hawq", "ompq"])
def test_every_accounting_counts_what_is_skipped_as_float(accounting):
    """As layers pinned to 32/32 in the whole network, but for steps that are then not stored."""
    model = build()
    table, rest = (ribs.count(model, X, skip=skip, accounting=accounting) for skip in ([], ["attn", "matmul0"]))
    gone = [*ATTENTION, "matmul0"]
    bits = {name: (32, 32) if name in gone else (4, 4) for name in ALL}
    ours = {name: (4, 4) for name in rest.units}
    assert (rest.bops(ours), rest.weight_bits(ours)) == (table.bops(bits), table.weight_bits(bits))


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8).half()

    def forward(self, x):
        return self.fc(x.half()).float()


class Locked(nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.lock = threading.Lock()


class Doubled(nn.Module):
    def forward(self, x):
        return (x.double() @ x.double().mT @ x.double()).float()


def unfit():
    """A network with all that cannot be quantized, beside two layers that can be."""
    other = Calls(lambda m, x, flag: x @ m.table if flag else x @ x.mT @ x, table=weights(8, 8))
    broken = nn.Linear(8, 8)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")

    def call(m, x):
        x = m.first(x) + m.halved(x) + m.locked(x) + m.doubled(x) + m.fused(x) + m.broken(x).nan_to_num()
        x = x + m.other(x, True) + m.other(x, False) + m.items[0](x) @ m.items.table
        return m.last(x)

    items = nn.ModuleList([nn.Linear(8, 8)])
    items.table = weights(8, 8)
    return Calls(
        call,
        first=nn.Linear(8, 8),
        halved=Halved(),
        locked=Locked(8, 8),
        doubled=Doubled(),
        fused=Calls(lambda m, x: flash(*m.qkv(x).chunk(3, -1)), qkv=nn.Linear(8, 24)),
        broken=broken,
        other=other,
        items=items,
        unused=nn.Linear(8, 8),
        last=nn.Linear(8, 3),
    ).eval()


def test_all_that_is_unfit_is_named_at_once_and_can_be_skipped():
    model = unfit().requires_grad_(False)
    with pytest.raises(ValueError, match="not all of the model can be quantized") as raised:
        prepare(model, INPUTS, "layer")
    message = str(raised.value)
    for name, reason in [
        ("halved.fc", "its (weight|bias) is torch.float16"),
        ("locked", "its lock cannot be copied"),
        ("doubled.matmul0, doubled.matmul1", "multiplies torch.float64"),
        ("fused", "runs ribs_tests::flash_attn"),
        ("broken", "its weight holds NaN"),
        ("other", "multiplies other things in one of its calls"),
        ("items", "a ModuleList that multiplies by itself"),
        ("unused", "never ran"),
    ]:
        assert re.search(f"- {name}: {reason}", message), message
    skip = ast.literal_eval(message.partition("skip=")[2])
    with pytest.warns(UserWarning, match="stay in float"):
        network = prepare(model, INPUTS, "layer", skip=skip)
    assert [unit.name for unit in network.units] == ["first", "last"]
    torch.testing.assert_close(network.model(X), model(X))
    calibrate(network, [INPUTS], [4])
    network.configure({unit.name: (4, 4) for unit in network.units})
    assert network.model(X).isfinite().all()


def test_a_skipped_norm_partner_is_not_folded_and_a_block_keeps_its_other_layers():
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)) for _ in "ab"
    ]
    model = nn.Sequential(*blocks).eval().requires_grad_(False)
    x = torch.randn(2, 4, 6, 6)
    with pytest.warns(UserWarning, match="skipped 0.0"):
        network = prepare(model, Inputs((x,), {}), "block", skip=["0.0"])
    assert [(unit.name, unit.layers) for unit in network.units] == [("0", ("0.2", "0.3")), ("1", ("1.0", "1.2", "1.3"))]
    assert isinstance(network.model[0][1], nn.BatchNorm2d) and isinstance(network.model[1][1], nn.Identity)
    assert torch.equal(network.model[0][0].weight, model[0][0].weight)
    torch.testing.assert_close(network.model(x), model(x))


def test_fused_attention_that_is_skipped_is_named():
    """Nothing counts what it multiplies; the layer beside it is quantized."""
    fused = Calls(lambda m, x: flash(*m.qkv(x).chunk(3, -1)), qkv=nn.Linear(8, 24))
    with pytest.warns(
        UserWarning, match=r"960 MACs .* in 0 \(ribs_tests::flash_attn, which may multiply\); skipped 0.qkv"
    ):
        network = prepare(nn.Sequential(fused, nn.Linear(8, 3)).eval(), INPUTS, "layer", skip=["0"])
    assert [unit.name for unit in network.units] == ["1"]


def test_what_is_skipped_is_no_side_of_a_sum_and_no_reader():
    def call(m, x):
        y = m.one(x)
        return m.last(m.two(y) + m.three(y))

    parts = {name: nn.Linear(8, 8) for name in ("one", "two", "three", "last")}
    model = Calls(call, **parts).eval()
    assert trace(model, INPUTS).sums == (("two", "three"),)
    found = trace(model, INPUTS, Skip(model, ["three"]))
    assert found.sums == () and found.moments == ("one", "two", "last")
    assert [(read.layer, read.born, read.last) for read in found.reads] == [
        ("one", -1, 0),
        ("two", 0, 1),
        ("last", 1, 2),
    ]
    with pytest.warns(UserWarning, match="skipped three"):
        budget = ribs.Budget(activation_memory="4/4")
        result = ribs.search(model, [X], budget, ties="auto", skip=["three"], loss=LOSS, iterations=2, progress=False)
    assert list(result.bits) == ["one", "two", "last"]


def test_a_shared_module_goes_by_any_of_its_names():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(8, 3)).eval()
    with pytest.warns(UserWarning, match="skipped 0"):
        assert [unit.name for unit in prepare(model, INPUTS, "layer", skip=["2"]).units] == ["3"]


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (["head", "neck", "body.*"], r"'neck', 'body\.\*' names no module or layer.*'attn.matmul0'"),
        ("head", r"skip='head' is no list.*\['head'\]"),
        (["*"], "no Conv or Linear layer that is not skipped"),
    ],
    ids=["unknown", "string", "all"],
)
def test_bad_patterns(skip, message):
    with pytest.raises(ValueError, match=message):
        prepare(build(), INPUTS, "layer", skip=skip)


def test_weights_that_a_module_keeps_beside_its_parameters():
    """As torch.nn.utils.weight_norm leaves them: deepcopy alone refuses tensors with a history."""
    layer = parametrizations.weight_norm(nn.Linear(8, 8))
    kept = Calls(lambda m, x: F.linear(x, m.scale * m.kept), scale=weights(1))
    kept.kept = (kept.scale * 2).expand(8, 8)
    model = nn.Sequential(layer, kept).eval()
    network = prepare(model, INPUTS, "layer")
    torch.testing.assert_close(network.model(X), model(X))
    assert kept.kept.requires_grad and not network.model[1].kept.requires_grad


def test_weights_of_any_type_are_counted():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    table = ribs.count(model, X)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        assert ribs.count(model.to(kind), X.to(kind)).layers == table.layers
