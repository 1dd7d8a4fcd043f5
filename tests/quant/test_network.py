import pytest
import torch
from torch import nn

from ribs import ops
from ribs.quant.inputs import Inputs
from ribs.quant.network import calibrate, prepare


def batch(*shape: int) -> Inputs:
    return Inputs((torch.randn(*shape),), {})


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def test_the_model_is_not_touched():
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = list(map(id, model.modules()))
    network = prepare(model, batch(2, 3, 6, 6))
    calibrate(network, [batch(2, 3, 6, 6)], [4])
    assert list(map(id, model.modules())) == modules
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_activation_steps_are_the_mean_over_batches():
    batches = [Inputs((torch.rand(8, 3, 6, 6) * scale,), {}) for scale in (1.0, 2.0, 4.0)]
    network = prepare(small(), batches[0])
    calibrate(network, batches, [2, 8])
    each = torch.stack([ops.search_steps(b.args[0], [2, 8], symmetric=False).step for b in batches])
    torch.testing.assert_close(network.model.get_submodule("0").input_quantizer.step, each.mean(0))


def test_pooled_steps_are_those_of_all_batches_together():
    batches = [Inputs((torch.randn(n, 3, 6, 6) * scale,), {}) for n, scale in ((80, 1.0), (200, 2.0), (30, 4.0))]
    network = prepare(small(), batches[0])
    calibrate(network, batches, [2, 8], pooled=True)
    together = torch.cat([each.args[0] for each in batches])
    want = ops.search_steps(together, [2, 8], symmetric=False)
    quantizer = network.model.get_submodule("0").input_quantizer
    assert torch.equal(quantizer.step, want.step) and torch.equal(quantizer.zero_point, want.zero_point)


def test_a_shared_layer_is_replaced_everywhere():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared).eval()
    network = prepare(model, batch(2, 4))
    assert network.model[0] is network.model[2]
    calibrate(network, [batch(2, 4)], [4])
    assert model[0] is shared


def test_a_single_layer_is_a_model_too():
    network = prepare(nn.Linear(4, 4).eval(), batch(2, 4))
    calibrate(network, [batch(2, 4)], [4])
    network.configure({network.units[0].name: (4, 4)})
    assert network.model(torch.randn(2, 4)).shape == (2, 4)


def nan_weight() -> nn.Module:
    model = small()
    model[3].weight.data[0, 0] = float("nan")
    return model


def two_dtypes() -> nn.Module:
    model = small()
    model[3].half()
    return model


def on_meta() -> nn.Module:
    model = small()
    model[3].to("meta")
    return model


def training_norm() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].train()
    return model


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nan_weight(), ValueError, "- 3: its weight holds NaN or Inf"),
        (two_dtypes(), ValueError, "- 3: its (weight|bias) is torch.float16.*float"),
        (on_meta(), ValueError, "on several devices .*meta"),
        (training_norm(), ValueError, "1 is in training mode"),
        (small().train(), ValueError, "Sequential is in training mode"),
    ],
    ids=["nan weight", "half", "meta", "norm in training", "training"],
)
def test_unfit_models(model, error, message):
    with pytest.raises(error, match=message):
        prepare(model, batch(2, 3, 6, 6))


class Overflows(nn.Module):
    def forward(self, x):
        return x / 0


def test_activations_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(4, 4), Overflows(), nn.Linear(4, 4)).eval()
    network = prepare(model, batch(2, 4))
    with pytest.raises(ValueError, match="activations entering '2'"):
        calibrate(network, [batch(2, 4)], [4])


def test_products_left_in_float_are_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.table = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return torch.tensordot(self.layer(x), self.table, 1)

    with pytest.warns(UserWarning, match="16 MACs stay in float"):
        prepare(Own().eval(), batch(2, 4))
