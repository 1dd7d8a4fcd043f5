"""What saved networks take on the disk beside what is claimed, and how long saving and loading take.

Run: python benchmarks/saving.py [network ...]
Weights are random, and so are the mixed bits. Every line is checked: the loaded network, made of other weights, gives
the outputs of the one saved to the last bit; and the file has nothing but its header and its tensors, of which the
packed ones have the bits that are claimed, filled up to 32 for each layer.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import transformers
from torch import nn

import ribs
from ribs.quant.inputs import as_inputs
from ribs.quant.network import calibrate, prepare
from ribs.select.cost import CostTable
from ribs.select.plan import bit_widths
from ribs.select.result import SearchCost
from ribs.select.table import text_table


def small_bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=1000
    )
    return transformers.BertForSequenceClassification(config)


IDS = torch.arange(64).reshape(4, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], object]] = {
    "resnet18": (lambda: timm.create_model("resnet18"), torch.randn(2, 3, 64, 64)),
    "mobilenetv2_050": (lambda: timm.create_model("mobilenetv2_050"), torch.randn(2, 3, 64, 64)),
    "deit_tiny": (lambda: timm.create_model("deit_tiny_patch16_224", img_size=64), torch.randn(2, 3, 64, 64)),
    "small bert": (small_bert, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}),
}


def quantized(model: nn.Module, batch: object, bits: int | None) -> ribs.Result:
    """At these bits, or random ones, without measuring a loss."""
    inputs = as_inputs(model, batch)
    network = prepare(model, inputs, "layer")
    table, choose = CostTable.of(network.trace, network.units), random.Random(0)
    configuration = table.configuration(bits or {unit: (choose.randint(2, 8), 8) for unit in table.units})
    calibrate(network, [inputs], bit_widths(configuration.values()))
    network.configure(configuration)
    numbers = {"loss": 0.0, "standard_error": 0.0, "loss_as_searched": 0.0, "cost_of_search": SearchCost(0.0, 0.0)}
    costs = {"bops": table.bops(configuration), "size_mib": table.size_mib(configuration), "costs": table}
    rest = {"limits": {}, "spending": (), "history": (), "stopped": False}
    return ribs.Result(bits=configuration, model=network.model, **numbers, **costs, **rest)


@torch.no_grad()
def outputs(model: nn.Module, batch: object) -> list[torch.Tensor]:
    found = as_inputs(model, batch).call(model)
    return [each for each in torch.utils._pytree.tree_leaves(found) if isinstance(each, torch.Tensor)]


def row(name: str, bits: int | None) -> list[str]:
    make, batch = NETWORKS[name]
    result = quantized(make().eval(), batch, bits)
    with tempfile.TemporaryDirectory() as root:
        folder, other = Path(root) / "saved", make().eval()
        began = time.perf_counter()
        result.save(folder)
        saved = time.perf_counter()
        loaded = ribs.load(folder, other)
        seconds = saved - began, time.perf_counter() - saved
        weights, described = (folder / "weights.safetensors").read_bytes(), (folder / "result.json").stat().st_size
    pairs = zip(outputs(result.model, batch), outputs(loaded.model, batch), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    header = int.from_bytes(weights[:8], "little")
    tensors = json.loads(weights[8 : 8 + header])
    sizes = {tensor: each["data_offsets"][1] - each["data_offsets"][0] for tensor, each in tensors.items()}
    packed = {tensor: size for tensor, size in sizes.items() if tensor.endswith("weight_packed")}
    steps = sum(size for tensor, size in sizes.items() if tensor.endswith("weight_scale"))
    claimed, taken = result.costs.weight_bits(result.bits) / 8, sum(packed.values())
    assert 0 <= taken - claimed < 4 * len(packed) and len(weights) == 8 + header + sum(sizes.values())
    counts = [claimed, taken - claimed, steps, sum(sizes.values()) - taken - steps, 8 + header, described]
    return [name, str(bits or "mixed"), *(f"{count:,.9g}" for count in counts), *(f"{each:.2f}" for each in seconds)]


def main() -> None:
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(NETWORKS)
    head = ["network", "bits", "claimed", "filled up", "steps", "in float", "header", "JSON", "save s", "load s"]
    rows = [row(name, bits) for name in names for bits in (2, 8, None)]
    print("Bytes of weights.safetensors, but for JSON:\n")
    print(text_table(head, rows, right=range(2, len(head))))


if __name__ == "__main__":
    main()
