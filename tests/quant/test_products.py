"""Whatever multiplies comes under quantizers: equal in float, MACs as torch counts them, operands on their grids."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from multiplying import NETS, TOKENS, Calls, build, flash, weights
from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.network import calibrate, prepare

aten = torch.ops.aten
OPERANDS = {
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.mv.default, aten.convolution.default), (0, 1)),
    **dict.fromkeys((aten.addmm.default, aten.baddbmm.default), (1, 2)),
}
TOO_FEW = (2, 512)  # weights of Swin v2's position bias: two for each channel, which are on a grid of two bits anyway


class Grids(TorchDispatchMode):
    """Collects the products of aten whose operands have more values than `bits` bits can hold."""

    def __init__(self, bits):
        super().__init__()
        self.bits, self.products, self.off = bits, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in OPERANDS:
            self.products += 1
            for place in OPERANDS[func]:
                if tuple(args[place].shape) != TOO_FEW and not self._on_grid(args[place]):
                    self.off.append((func, place, tuple(args[place].shape)))
        return func(*args, **(kwargs or {}))

    def _on_grid(self, tensor):
        """Few values in all, or, as for weights, in each channel along some dimension."""
        levels = 2**self.bits

        def few(values):
            return len(values.unique()) <= levels

        channels = [axis for axis in range(tensor.dim()) if tensor.numel() // tensor.shape[axis] > levels]
        return few(tensor) or any(all(map(few, tensor.unbind(axis))) for axis in channels)


def check(model, inputs, tolerance=1e-6):
    """The three checks, each against torch itself."""
    network = prepare(model, inputs, "layer", recipe="mse")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(inputs.call(network.model), inputs.call(model), rtol=tolerance, atol=tolerance)
        counter = FlopCounterMode(display=False)
        # torch's fused layers are not counted, and make way for a mode.
        with counter, torch.overrides.BaseTorchFunctionMode():
            inputs.head(1).call(copy.deepcopy(model))
    assert not network.trace.unquantized
    assert 2 * sum(layer.macs for layer in network.trace.layers) == counter.get_total_flops() > 0
    calibrate(network, [inputs], [2])
    network.configure({unit.name: (2, 2) for unit in network.units})
    with torch.no_grad(), Grids(2) as grids:
        inputs.call(network.model)
    assert grids.products == len(network.trace.moments)
    assert not grids.off
    for unit in network.units:
        network.set_bits(unit, (32, 32))
        with torch.no_grad(), Grids(2) as grids:
            inputs.call(network.model)
        network.set_bits(unit, (2, 2))
        assert grids.off or "cpb_mlp.0" in unit.name, f"{unit.name} in float is not seen"
    return network


@pytest.mark.parametrize("name", NETS)
def test_no_product_escapes(name):
    model, x = build(name)
    check(model, Inputs((x,), {}))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("self attention", "attn.in_proj_weight_linear0 attn.matmul0 attn.matmul1 attn.out_proj"),
        (
            "functional",
            "table_linear0 table_linear1 tall_linear0 tall_linear1 fc table_linear2 square_linear0",
        ),
        ("tied", "head"),
        ("outside of modules", "matmul0 fc matmul1"),
    ],
)
def test_names(name, layers):
    model, x = build(name)
    assert " ".join(layer.name for layer in prepare(model, Inputs((x,), {})).trace.layers) == layers


def test_each_call_of_a_layer_has_a_quantizer_of_its_own():
    model, x = build("again")
    network = prepare(model, Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [4])
    side, matmul = network.model.side, network.model.block.matmul0
    assert isinstance(side, QuantizedLayer)
    assert isinstance(matmul, QuantizedMatmul)
    assert (len(side.activation_quantizers), len(matmul.activation_quantizers)) == (3, 6)
    assert len({float(each.step[0]) for each in side.activation_quantizers}) == 3
    [layer] = [layer for layer in network.trace.layers if layer.name == "side"]
    assert (layer.calls, layer.macs) == (3, 3 * 5 * 8 * 4)


def test_a_layer_that_runs_more_often_than_traced_is_an_error():
    rounds = [2]
    model = Calls(lambda m, x: [x := m.fc(x) for _ in range(rounds[0])], fc=nn.Linear(8, 8)).eval()
    network = prepare(model, Inputs((torch.randn(2, 8),), {})).model
    rounds[0] = 3
    with pytest.raises(RuntimeError, match="'fc' runs more than the 2 times"):
        network(torch.randn(2, 8))
    rounds[0] = 2
    network(torch.randn(2, 8))


def test_an_embedding_tied_to_the_head_stays_in_float():
    model, x = build("tied")
    network = prepare(model, Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [2])
    network.configure({"head": (2, 2)})
    assert torch.equal(network.model.embed(x), model.embed(x))


def test_batch_norm_is_not_folded_into_weights_that_are_standardised():
    torch.manual_seed(0)
    model = nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_var.fill_(3.0)
    x = torch.randn(2, 3, 6, 6)
    network = prepare(model, Inputs((x,), {}))
    assert network.trace.batch_norms == ()
    torch.testing.assert_close(network.model(x), model(x))


def test_a_module_that_multiplies_otherwise_in_another_call_is_named():
    def call(m, x, flag):
        return x @ m.table if flag else x @ x.mT

    inner = Calls(call, table=weights(8, 8))
    model = Calls(lambda m, x: m.inner(x, True) + m.inner(x, False).sum(), inner=inner).eval()
    with pytest.raises(ValueError, match="- inner: multiplies other things in one of its calls"):
        prepare(model, Inputs((torch.randn(*TOKENS),), {}))


@torch.library.custom_op("ribs_tests::mix", mutates_args=())
def mix(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def flex(m, x):
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(*(part[:, None] for part in m.qkv(x).chunk(3, -1)))


def native(m, x):
    fc = m.qkv
    return torch._native_multi_head_attention(x, x, x, 8, 2, fc.weight, fc.bias, fc.weight[:8], fc.bias[:8])[0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, x: flash(*m.qkv(x).chunk(3, -1)), "ribs_tests::flash_attn"),
        (flex, r"torch.nn.attention.flex_attention"),
        (native, "_native_multi_head_attention"),
    ],
    ids=["custom", "flex", "native"],
)
def test_fused_attention_is_named_with_what_opens_it(call, name):
    model = nn.Sequential(Calls(call, qkv=nn.Linear(8, 24))).eval()
    with pytest.raises(ValueError, match=f"- 0: runs {name}.*attn_implementation.*set_fused_attn"):
        prepare(model, Inputs((torch.randn(*TOKENS),), {}))


def test_an_operator_that_may_multiply_is_named():
    model = nn.Sequential(Calls(lambda m, x: mix(m.fc(x), x), fc=nn.Linear(8, 8))).eval()
    with pytest.warns(UserWarning, match=r"0 \(ribs_tests::mix, which may multiply\)"):
        prepare(model, Inputs((torch.randn(*TOKENS),), {}))


def test_a_recurrent_layer_is_named_with_its_macs():
    """By hand: 4 gates of (8 + 8) x 8 weights on each of 5 tokens."""
    model = Calls(lambda m, x: m.head(m.lstm(x)[0]), lstm=nn.LSTM(8, 8, batch_first=True), head=nn.Linear(8, 3)).eval()
    with pytest.warns(UserWarning, match="2,560 MACs stay in float .* in lstm"):
        network = prepare(model, Inputs((torch.randn(*TOKENS),), {}))
    assert network.trace.unquantized == {"lstm": 5 * 4 * 8 * 16}


def test_rows_that_are_masked_everywhere():
    """torch's fused attention gives 0 for them; what a module opens itself gives NaN, whose reader is named."""
    mask = torch.zeros(5, 5)
    mask[2] = float("-inf")
    x = torch.randn(*TOKENS)
    for given in (mask, mask == 0):
        fused = Calls(
            lambda m, x, given=given: F.scaled_dot_product_attention(m.fc(x), x, x, given.to(x.device)),
            fc=nn.Linear(8, 8),
        )
        network = prepare(fused.eval(), Inputs((x,), {}))
        with torch.no_grad():
            torch.testing.assert_close(network.model(x), fused(x), rtol=1e-5, atol=1e-6)
        assert not network.model(x)[:, 2].any()
    opened = Calls(lambda m, x: (m.fc(x) @ x.mT + mask.to(x.device)).softmax(-1) @ x, fc=nn.Linear(8, 8)).eval()
    with pytest.raises(ValueError, match=r"entering 'matmul1'.*NaN"):
        calibrate(prepare(opened, Inputs((x,), {})), [Inputs((x,), {})], [4])


def test_lengths_that_vary_and_lengths_of_nothing():
    model, x = build("encoder")
    network = prepare(model, Inputs((x,), {}))
    longer = torch.randn(3, 9, 8)
    calibrate(network, [Inputs((x,), {}), Inputs((longer,), {})], [8])
    network.configure({unit.name: (8, 8) for unit in network.units})
    with torch.no_grad():
        assert (network.model(longer) - model(longer)).abs().max() < 0.2
    with pytest.raises(ValueError, match=r"in_proj_weight_linear0'.*(empty|no values|elements)"):
        calibrate(network, [Inputs((x[:, :0],), {})], [8])


def test_half_precision_is_refused_by_name():
    model, x = build("encoder")
    with pytest.raises(ValueError, match=r"are torch.float16, and ribs needs float32"):
        prepare(model.half(), Inputs((x.half(),), {}))


def test_a_copy_of_a_quantized_network_stands_alone():
    model, x = build("again")
    network = prepare(model, Inputs((x,), {}))
    calibrate(network, [Inputs((x,), {})], [2])
    network.configure({unit.name: (2, 2) for unit in network.units})
    other = copy.deepcopy(network.model)
    with torch.no_grad():
        expected = network.model(x)
        network.configure({unit.name: (32, 32) for unit in network.units})
        assert torch.equal(other(x), expected)
