"""Training on a GPU; left out where there is none."""

import pytest
import torch
from nets import Convs
from torch import nn

import ribs
from ribs.qat import Freezing, dampening, finish, parameter_groups, prepare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
X, LABELS = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 5


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Float32 products in float32, so that the two devices differ by roundings alone."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def trained(device, steps=5, precision=None, **options):
    torch.manual_seed(0)
    model, x, labels = Convs(6).eval().to(device), X.to(device), LABELS.to(device)
    network = prepare(model, [x], 4, **options)
    optimizer = torch.optim.SGD(parameter_groups(network, lr=0.01, step_lr=0.001), momentum=0.9)
    freezing, losses = Freezing(network, 0.02), []
    for _ in range(steps):
        with torch.autocast(device, precision, enabled=precision is not None):
            loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        (loss + 1e-3 * dampening(network)).backward()
        optimizer.step()
        freezing.step()
        losses.append(loss.item())
    return network, finish(network, model, [x]), losses


@pytest.mark.parametrize("options", [{}, {"method": "lsq+", "per_channel": True}], ids=["lsq", "lsq+"])
def test_losses_fall_as_on_the_cpu(options, tmp_path):
    (network, result, found), (_, _, want) = trained("cuda", **options), trained("cpu", **options)
    assert found == pytest.approx(want, rel=1e-2) and found[-1] < found[0]
    x = X.cuda()
    torch.testing.assert_close(result.model(x), network.eval()(x), rtol=1e-3, atol=1e-3)
    result.save(tmp_path / "saved")
    assert torch.equal(ribs.load(tmp_path / "saved", Convs(6).eval().cuda()).model(x), result.model(x))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["lsq", "lsq+"])
def test_half_precision(method, precision):
    network, _, losses = trained("cuda", precision=precision, method=method)
    assert losses == pytest.approx(trained("cuda", method=method)[2], rel=0.1)
    assert all(each.dtype == torch.float32 for each in network.parameters())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_ready_loop(precision):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    torch.manual_seed(0)
    model = Convs(6).eval().cuda()
    training = ribs.qat.Training(epochs=3, lr=0.05, step_lr=0.01)
    accelerator = accelerate.Accelerator(mixed_precision=precision)
    fitted = ribs.qat.fit(
        model,
        4 * [(X, LABELS)],
        4,
        training=training,
        accelerator=accelerator,
        validation=[(X, LABELS)],
        progress=False,
    )
    assert fitted.history[-1].loss < fitted.history[0].loss
    assert next(fitted.result.model.parameters()).is_cuda
    accelerate.state.AcceleratorState._reset_state(True)
