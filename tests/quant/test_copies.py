"""Models in the wrappers of torch, and copies of what deepcopy refuses."""

import copy
import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn

import ribs
from ribs.quant.copies import copy_model, unwrap

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
WRAPPERS = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A group of one process, which DistributedDataParallel asks for."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("inner", [False, True], ids=["whole", "part"])
def test_a_wrapped_model_is_the_model_within(kind, inner):
    model, wrapped = small(), small()
    if inner:
        wrapped[2] = WRAPPERS[kind](wrapped[2])
    else:
        wrapped = WRAPPERS[kind](wrapped)
    before = list(map(id, wrapped.modules()))
    options = {"bits": (2, 8), "iterations": 1, "progress": False}
    found = [ribs.search(each, [X], ribs.Budget(bops="4/4"), **options) for each in (model, wrapped)]
    assert found[0].bits == found[1].bits and list(found[0].bits) == ["0", "2.0", "3"]
    assert found[0].loss == found[1].loss
    assert ribs.count(wrapped, X).units == ribs.count(model, X).units
    assert ribs.quantize(wrapped, [X], 4, progress=False).loss == ribs.quantize(model, [X], 4, progress=False).loss
    assert list(map(id, wrapped.modules())) == before


def test_a_dict_goes_by_the_names_of_the_model_within():
    class Named(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model = Named(*small()).eval()
    result = ribs.quantize(torch.compile(model), [{"x": X, "labels": X}], 4, progress=False)
    assert result.loss == ribs.quantize(model, [X], 4, progress=False).loss


def test_parts_share_their_tensors_with_the_model():
    model = small()
    model[2] = torch.compile(model[2])
    bare = unwrap(model)
    assert isinstance(bare[2], nn.Sequential)
    assert {id(p) for p in bare.parameters()} == {id(p) for p in model.parameters()}
    assert unwrap(bare) is bare


@pytest.mark.parametrize("data", [True, False], ids=["real", "meta"])
def test_what_cannot_be_copied_is_named_and_shared(data):
    model = small()
    model[0].lock, model[2].lock = threading.Lock(), [threading.Lock()]
    with pytest.raises(TypeError, match="lock"):
        copy.deepcopy(model)
    made, reasons = copy_model(model, data=data)
    assert {name: reason.partition(" (")[0] for name, reason in reasons.items()} == {
        "0": "its lock cannot be copied",
        "2": "its lock cannot be copied",
    }
    assert made[0].lock is model[0].lock
    assert made[0].weight is not model[0].weight
    assert made[0].weight.is_meta is not data


def test_copies_of_quantized_networks_give_the_same():
    """Parametrized modules have a way of being copied of their own, which is theirs and not of what is around them."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()
    quantized = ribs.quantize(model, [torch.randn(9, 6)], 3, progress=False).model
    x = torch.randn(4, 6)
    assert torch.equal(copy.deepcopy(quantized)(x), quantized(x))


def test_a_model_on_several_devices_is_named():
    model = small()
    model[3].to("meta")
    with pytest.raises(ValueError, match=r"several devices \('0.weight' on cpu, '3.weight' on meta\)"):
        ribs.quantize(model, [X], 4, progress=False)
    with pytest.raises(ValueError, match="meta device and has no weights"):
        ribs.quantize(model.to("meta"), [X], 4, progress=False)
