"""Steps found anew in a network in training."""

import pytest
import torch
from torch import nn

import ribs
from ribs.qat import finish, parameter_groups, prepare, recalibrate
from small import loader, network


def trained(per_channel=True):
    """A network whose weights are twice what they were, and whose steps are far off."""
    model = prepare(network(), loader(), 4, method="lsq+", per_channel=per_channel)
    with torch.no_grad():
        for index in (0, 2, 5):
            model[index].layer.weight.mul_(2)
            model[index].weight_quantizer.step.mul_(5)
            model[index].input_quantizer.step.mul_(0.1)
            model[index].input_quantizer.offset.zero_()
    return model


@pytest.mark.parametrize("per_channel", [False, True])
def test_steps_are_those_of_least_error_for_what_there_is(per_channel):
    model = trained(per_channel=per_channel)
    parameters, training = list(map(id, model.parameters())), [module.training for module in model.modules()]
    recalibrate(model, loader())
    assert list(map(id, model.parameters())) == parameters
    assert [module.training for module in model.modules()] == training
    first = model[0]
    want = ribs.ops.search_steps(first.layer.weight, [4], symmetric=True, axis=0 if per_channel else None)
    assert torch.equal(first.weight_quantizer.step, want.step)
    assert torch.equal(first.weight_quantizer.floor, want.step / 1024)
    pooled = ribs.ops.search_steps(ribs.ops.sketch(torch.cat(loader())), [4], symmetric=False)
    assert torch.equal(first.input_quantizer.step, pooled.step)
    assert torch.equal(first.input_quantizer.present[1], pooled.zero_point[0])


def test_other_bits_are_trained_at_and_finished_at_those_prepared_for():
    model, x = trained(), torch.cat(loader())
    units = {"0": (8, 8), "2": (6, 4), "5": (4, 4)}
    recalibrate(model, loader(), units)
    assert (model[2].weight_quantizer.bits, model[2].input_quantizer.bits) == (6, 4)
    assert len(model[0].quantized_weight()[0].unique()) > 7  # of 9 weights: more than 4 bits of other steps give
    optimizer = torch.optim.SGD(parameter_groups(model, lr=0.01))
    nn.functional.cross_entropy(model(x), torch.arange(24) % 5).backward()
    optimizer.step()
    with pytest.raises(ValueError, match="'0' has other bits than it was prepared for"):
        finish(model, network(), loader())
    recalibrate(model, loader())
    assert finish(model, network(), loader()).bits == dict.fromkeys(units, (4, 4))


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"\[recalibrate\] network=Sequential is not what"):
        recalibrate(network(), loader())
    with pytest.raises(ValueError, match="leaves out"):
        recalibrate(trained(), loader(), {"0": 4})
