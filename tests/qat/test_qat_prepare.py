"""`ribs.qat.prepare` and `finish`: what is trained is what is saved, in any trainer."""

import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from nets import NETS, Convs
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.checkpoint import checkpoint

import ribs
from ribs.qat import finish, parameter_groups, prepare
from ribs.quant.layers import QuantizedLayer
from small import in_children, loader, network

DISTANCE = ribs.losses.Embedding()


def build(name):
    """A network whose norms scale by numbers of both signs, its input, and what it is compared by."""
    make, x = NETS[name]
    torch.manual_seed(1)
    model = make().eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.5)
    return model, x


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def adam(model):
    return torch.optim.Adam(parameter_groups(model, lr=1e-2, step_lr=1e-3))


def train(model, x, steps, optimizer=None):
    optimizer = optimizer or adam(model)
    losses = []
    for _ in range(steps):
        y = model(x)
        loss = (y - torch.arange(y.numel()).reshape(y.shape).sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("options", [{}, {"method": "lsq+", "per_channel": True}], ids=["lsq", "lsq+"])
@pytest.mark.parametrize("name", NETS)
def test_a_trained_network_becomes_a_result_that_gives_the_same_and_loads_bit_equal(tmp_path, name, options):
    model, x = build(name)
    before = state(model)
    trained = prepare(model, [x], (3, 7), **options)
    losses = train(trained, x, 12)
    assert losses[-1] < losses[0]
    trained.eval()
    own = state(trained)
    result = finish(trained, model, [x], loss=DISTANCE)
    assert not any(module.training for module in result.model.modules())
    assert same(state(model), before) and same(state(trained), own)
    torch.testing.assert_close(result.model(x), trained(x), rtol=1e-5, atol=1e-5)
    assert trained(x).std(0).max() > 0
    assert not any(each.requires_grad for each in result.model.parameters())
    result.save(tmp_path / "saved")
    loaded = ribs.load(tmp_path / "saved", model)
    assert torch.equal(loaded.model(x), result.model(x)) and loaded.loss == result.loss > 0


def test_every_code_of_weights_stays_when_norms_are_folded():
    model, x = build("convs")
    trained = prepare(model, [x], 2)
    train(trained, x, 5)
    for name in ("stem", "depthwise", "up"):  # between two values: what rounds in float32 once more may go to the other
        layer = trained.get_submodule(name)
        layer.layer.weight.data.uniform_(-2, 2).floor_().add_(0.5).mul_(layer.weight_quantizer.present[0])
    result = finish(trained.eval(), model, [x], loss=DISTANCE)
    for name in ("stem", "depthwise", "up"):
        layer, folded = trained.get_submodule(name), result.model.get_submodule(name)
        quantizer = layer.weight_quantizer
        sign = quantizer.norm.weight.sign().reshape([-1 if d == quantizer.channel_axis else 1 for d in range(4)])
        codes = (layer.quantized_weight() * sign / quantizer.present[0]).round().to(torch.int8)
        assert (sign < 0).any() and torch.equal(folded.weight_quantizer.codes(folded.weight), codes)
        assert torch.equal(folded.weight_quantizer(folded.weight), folded.quantized_weight())
    assert isinstance(trained.stem_norm, nn.BatchNorm2d) and isinstance(result.model.stem_norm, nn.Identity)


def test_a_search_result_keeps_its_bits_units_skips_and_budget():
    model, x = build("convs")
    budget = ribs.Budget(bops="4/4")
    options = {"skip": ["fc"], "bits": (2, 4, 8), "iterations": 2, "loss": DISTANCE, "progress": False}
    with pytest.warns(UserWarning, match="skipped fc"):
        found = ribs.search(model, [x], budget, **options)
    with pytest.warns(UserWarning, match="skipped fc"):
        trained = prepare(model, [x], found)
    result = finish(trained.eval(), model, [x], loss=DISTANCE)
    assert (result.bits, result.bops, result.limits) == (found.bits, found.bops, found.limits)
    assert isinstance(trained.fc, nn.Linear)


def test_layers_at_32_bits_and_what_was_frozen_stay():
    model, x = build("convs")
    model.fc.requires_grad_(False)
    bits = {"stem": 32, "depthwise": (4, 32), "up": (32, 4), "fc": 4}
    trained = prepare(model, [x], bits)
    kinds = [(q.weight_quantizer.bits, q.input_quantizer.bits) for q in map(trained.get_submodule, bits)]
    assert kinds == [(32, 32), (4, 32), (32, 4), (4, 4)]
    train(trained, x, 3)
    assert torch.equal(trained.fc.layer.weight, model.fc.weight)
    assert not torch.equal(trained.stem.layer.weight, model.stem.weight)
    torch.testing.assert_close(finish(trained.eval(), model, [x], loss=DISTANCE).model(x), trained(x))


def test_training_goes_on_from_a_state_dict():
    model, x = build("convs")
    whole, first = (prepare(model, [x], 3, method="lsq+") for _ in range(2))
    optimizer = adam(first)
    losses = train(whole, x, 6)
    train(first, x, 3, optimizer)
    second = prepare(model, [x], 3, method="lsq+")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = adam(second)
    resumed.load_state_dict(optimizer.state_dict())
    assert train(second, x, 3, resumed) == losses[3:]
    assert same(state(second), state(whole))


def test_the_average_of_weights_is_finished_as_well():
    model, x = build("convs")
    trained = prepare(model, [x], 4)
    average = ModelEmaV3(trained, decay=0.5)
    optimizer = adam(trained)
    for _ in range(4):
        train(trained, x, 1, optimizer)
        average.update(trained)
    assert average.module.stem.weight_quantizer.norm is average.module.stem_norm
    with torch.no_grad():
        want = average.module(x)
    result = finish(average.module, model, [x], loss=DISTANCE)
    torch.testing.assert_close(result.model(x), want, rtol=1e-5, atol=1e-5)
    assert not torch.equal(want, trained.eval()(x))


def test_weights_that_change_without_a_trace_are_rounded_anew():
    """As by optimizers that write to `.data`."""
    model, x = build("tied")
    trained = prepare(model, [x], 4).eval()
    with torch.no_grad():
        before = trained(x)
        trained.a.layer.weight.data.mul_(-1)
        assert not torch.equal(trained(x), before)


class Checkpointed(Convs):
    recompute = False

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))

        def rest(x):
            return self.up(F.relu(self.norm(self.depthwise(x))))

        x = checkpoint(rest, x, use_reentrant=False) if self.recompute else rest(x)
        return self.fc(F.relu(self.up_norm(x)).mean((2, 3)))


def test_gradients_under_checkpointing_autocast_and_compile():
    _, x = build("convs")
    trained = prepare(Checkpointed().eval(), [x], 4)

    def gradients(model):
        model.zero_grad()
        model(x).float().square().mean().backward()
        return [each.grad.clone() for each in model.parameters() if each.grad is not None]

    want = gradients(trained)
    assert len(want) == len([each for name, each in trained.named_parameters() if not name.startswith("last")])
    torch.testing.assert_close(gradients(torch.compile(trained, backend="aot_eager", fullgraph=True)), want)
    Checkpointed.recompute = True
    torch.testing.assert_close(gradients(trained), want)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(trained)
    assert all(each.dtype == torch.float32 and each.isfinite().all() for each in found)
    assert F.cosine_similarity(torch.cat([*map(torch.flatten, found)]), torch.cat([*map(torch.flatten, want)]), 0) > 0.9


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(tmp_path):
    model = prepare(network(), loader(), 4)
    x, labels = torch.cat(loader(2)), torch.arange(16) % 5

    def gradients(model, part):
        F.cross_entropy(model(x[part]), labels[part]).backward()
        return {name: each.grad.clone() for name, each in model.named_parameters()}

    def process(rank):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=rank, world_size=2)
        found = gradients(nn.parallel.DistributedDataParallel(model), slice(8 * rank, 8 * rank + 8))
        torch.save(found, tmp_path / f"gradients-{rank}")
        dist.destroy_process_group()

    for child in in_children(lambda: process(0), lambda: process(1)):
        os.waitpid(child, 0)
    want = gradients(model, slice(16))
    for rank in range(2):
        found = {k.removeprefix("module."): v for k, v in torch.load(tmp_path / f"gradients-{rank}").items()}
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-7)


def test_the_trainer_of_transformers_trains_saves_and_goes_on(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    shape = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(num_channels=1, num_labels=3, **shape)
    model, x = transformers.ResNetForImageClassification(config).eval(), torch.randn(16, 1, 16, 16)
    data = [{"pixel_values": image, "labels": torch.tensor(number % 3)} for number, image in enumerate(x)]
    options = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_steps": 2, "learning_rate": 1e-2}
    arguments = transformers.TrainingArguments(tmp_path, max_steps=4, per_device_train_batch_size=8, **options)
    whole, resumed = (prepare(model, [{"pixel_values": x}], 4) for _ in range(2))
    transformers.Trainer(model=whole, args=arguments, train_dataset=data).train()
    result = finish(whole, model, [{"pixel_values": x}])
    with torch.no_grad():
        torch.testing.assert_close(result.model(pixel_values=x).logits, whole.eval()(pixel_values=x).logits)
    trainer = transformers.Trainer(model=resumed, args=arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(state(resumed), state(whole))


def test_groups_have_every_parameter_once_and_decay_weights_alone():
    model, x = build("convs")
    trained = prepare(model, [x], 4)
    groups = parameter_groups(trained, lr=0.1, step_lr=0.01, weight_decay=1e-4)
    assert [(each["lr"], each["weight_decay"]) for each in groups] == [(0.1, 1e-4), (0.1, 0.0), (0.01, 0.0)]
    found = [id(each) for group in groups for each in group["params"]]
    assert sorted(found) == sorted(id(each) for each in trained.parameters())
    layers = [layer for layer in trained.modules() if isinstance(layer, QuantizedLayer)]
    steps = {id(step) for layer in layers for step in (layer.weight_quantizer.step, layer.input_quantizer.step)}
    assert {id(each) for each in groups[2]["params"]} == steps


BAD = {
    "bits of other layers": ({"bits": {"conv": 4}}, ValueError, "names no unit"),
    "bits of some layers": ({"bits": {"stem": 4}}, ValueError, "leaves out"),
    "bits out of range": ({"bits": 9}, ValueError, "is not allowed"),
    "method": (
        {"method": "dorefa"},
        ValueError,
        r"method='dorefa' is not supported; give one of \('lsq', 'lsq\+', 'pact'\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_prepare_refuses(name):
    model, x = build("convs")
    options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        prepare(model, [x], **{"bits": 4, **options})


def test_a_result_of_another_model_is_refused():
    result = ribs.quantize(network(), loader(), 4, progress=False)
    model, x = build("convs")
    with pytest.raises(ValueError, match="matches no layer"):
        prepare(model, [x], result)
    with pytest.raises(ValueError, match="are those of the result"):
        prepare(network(), loader(), result, skip=["0"])


def test_what_finish_refuses():
    model, x = build("convs")
    with pytest.raises(ValueError, match=r"network=Convs is not what ribs.qat.prepare returned"):
        finish(model, model, [x])
    trained = prepare(model, [x], 4)
    with torch.no_grad():
        trained.fc.layer.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"fc.layer.bias holds NaN or Inf"):
        finish(trained, model, [x], loss=DISTANCE)
