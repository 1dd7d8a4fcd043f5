"""AIMET's encodings: what they say gives the quantized values again."""

import json

import numpy as np
import pytest
from nets import NETS
from saved import made, quantized

from ribs.io.encodings import encodings, save_encodings
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul


def decoded(x, encoding, axis=None):
    """AIMET's arithmetic, in double precision: (clamp(round(x / scale) - offset, 0, 2^bw - 1) + offset) x scale."""
    if encoding["dtype"] == "FLOAT":
        return x.double().numpy()
    shape = [-1 if dim == axis else 1 for dim in range(x.dim())]
    scale, offset = (np.array(encoding[name], np.float64).reshape(shape) for name in ("scale", "offset"))
    codes = np.clip(np.rint(x.double().numpy() / scale) - offset, 0, 2 ** encoding["bw"] - 1)
    return (codes + offset) * scale


@pytest.mark.parametrize("bits", [None, (32, 4)])
@pytest.mark.parametrize("net", ["convs", "attention", "computed"])
def test_encodings_mean_what_the_quantizers_do(net, bits, tmp_path):
    make, batch = NETS[net]
    result = quantized(made(make, 1), batch, bits)
    inputs = {}

    def keep(name):
        def hook(module, args, output):
            inputs[name] = args[0].detach(), output.detach()

        return hook

    for name, module in result.model.named_modules():
        if isinstance(module, (QuantizedLayer, QuantizedMatmul)):
            places = {QuantizedLayer: ("input",), QuantizedMatmul: ("left", "right")}[type(module)]
            for number, quantizer in enumerate(module.activation_quantizers):
                call, place = divmod(number, len(places))
                quantizer.register_forward_hook(keep(f"{name}.{places[place]}" + f".{call}" * (call > 0)))
    result.model(batch)
    save_encodings(result, tmp_path / "a.json")
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == encodings(result) and found["version"] == "1.0.0"
    activations = {each["name"]: each for each in found["activation_encodings"]}
    assert activations.keys() == inputs.keys() and len(activations) == len(found["activation_encodings"])
    for name, (x, output) in inputs.items():
        np.testing.assert_allclose(
            output.detach().numpy(), decoded(x.detach(), activations[name]), rtol=1e-6, atol=1e-7
        )
    parameters = {each["name"]: each for each in found["param_encodings"]}
    for name, layer in result.model.named_modules():
        if isinstance(layer, QuantizedLayer):
            encoding = parameters.pop(f"{name}.weight" if layer.layer is not None else name)
            want = decoded(layer.multiplied.detach(), encoding, layer.weight_quantizer.axis)
            np.testing.assert_allclose(layer.quantized_weight().detach().numpy(), want, rtol=1e-6)
    assert not parameters


def test_the_bits_are_those_of_the_units():
    make, batch = NETS["convs"]
    result = quantized(made(make, 1), batch)
    found = {each["name"].removesuffix(".weight"): each["bw"] for each in encodings(result)["param_encodings"]}
    assert found == {unit: weight for unit, (weight, _) in result.bits.items()}
