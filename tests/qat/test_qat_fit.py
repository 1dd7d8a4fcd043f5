"""`ribs.qat.fit`: what it trains, how it goes on, and what it refuses."""

import json
import os
import socket

import pytest
import torch
from nets import Convs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ribs
from ribs.qat import Training, fit
from ribs.quant.layers import QuantizedLayer
from small import in_children, network

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """The state of accelerate is that of the process."""
    yield
    accelerate.state.AcceleratorState._reset_state(True)


def with_norm():
    torch.manual_seed(0)
    convs = [nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*convs, nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).eval()


def samples(count=64, seed=0):
    """Images with a bright quarter, which is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(x, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    return x, labels


def batches(size=16, shuffle=True, **options):
    return DataLoader(TensorDataset(*samples(**options)), size, shuffle=shuffle)


FAST = {"lr": 0.05, "step_lr": 0.01, "momentum": 0.9}
SHORT = Training(epochs=3, **FAST)


def trained(model=None, loader=None, bits=3, training=SHORT, **options):
    loader = batches() if loader is None else loader
    return fit(model or with_norm(), loader, bits, training=training, progress=False, **options)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def accuracy(model, data):
    x, labels = data
    return 100 * float((model(x).argmax(1) == labels).float().mean())


def test_it_learns_what_the_labels_say():
    model = with_norm()
    before = state(model)
    found = trained(model, training=Training(epochs=8, **FAST), validation=batches(seed=1, shuffle=False))
    accuracies = [each.accuracy for each in found.history]
    assert max(accuracies) == accuracy(found.result.model, samples(seed=1)) > 70
    assert [each.number for each in found.history] == list(range(8))
    assert found.history[-1].loss < 0.5 * found.history[0].loss
    assert same(state(model), before) and not model.training
    assert found.result.bits == dict.fromkeys(found.result.bits, (3, 3))


def test_a_trained_network_gives_the_same_classes_in_onnxruntime(tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result, x = trained(bits=4, training=Training(epochs=8, **FAST)).result, samples(seed=1)[0]
    result.export_onnx(tmp_path / "trained.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "trained.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        want = result.model(x).argmax(1)
    assert torch.equal(torch.from_numpy(found).argmax(1), want) and len(want.unique()) == 4


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_teacher_is_followed(share):
    teacher = trained(bits=32, training=Training(epochs=12, **FAST)).result.model
    own = state(teacher)
    x, labels = samples()
    loader = [(x[i : i + 16],) if share == 1 else (x[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    found = trained(None, loader, training=Training(epochs=12, distillation=share, **FAST), teacher=teacher)
    assert accuracy(found.result.model, samples(seed=1)) > 70
    assert same(state(teacher), own)


def test_the_objective_is_the_formula():
    from ribs.qat.objective import Objective
    from ribs.quant.inputs import Inputs

    student, teacher, labels = torch.randn(5, 4), nn.Linear(3, 4), torch.tensor([0, 3, 1, 1, 2])
    x = torch.randn(5, 3)
    facts = Training(epochs=1, distillation=0.3, temperature=2.0, label_smoothing=0.1)
    found = Objective(facts, teacher)(student, Inputs((x,), {}), labels)
    p, q = (teacher(x).double() / 2).softmax(1), (student.double() / 2).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    smooth = torch.full((5, 4), 0.1 / 4, dtype=torch.float64)
    smooth[torch.arange(5), labels] += 0.9
    entropy = -(smooth * student.double().log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found.double(), 0.7 * entropy + 0.3 * 4 * divergence, rtol=1e-5, atol=0)


def test_features_add_the_mean_of_their_relative_squared_errors():
    from ribs.qat.objective import Objective
    from ribs.quant.inputs import Inputs

    network, teacher = (nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double() for _ in range(2))
    x, labels = torch.randn(5, 3).double(), torch.tensor([0, 3, 1, 1, 2])
    facts = Training(epochs=1, distillation=0.0, features=(("0", "0"), ("1", "1")), feature_weight=0.5)
    objective = Objective(facts, teacher)
    with objective.watch(network):
        objective(network(x), Inputs((x,), {}), labels).backward()
    found = network[0].weight.grad.clone()
    network.zero_grad()
    a, b = network[0](x), teacher[0](x).detach()
    parts = [((p - q) ** 2).sum() / (q**2).sum() for p, q in ((a, b), (a.tanh(), b.tanh()))]
    (nn.functional.cross_entropy(network(x), labels) + 0.5 * sum(parts) / 2).backward()
    torch.testing.assert_close(found, network[0].weight.grad, rtol=1e-5, atol=1e-7)


def test_a_network_comes_nearer_to_the_features_of_its_teacher():
    model, (x, _) = with_norm(), samples()
    facts = [Training(epochs=6, distillation=0.0, features=pairs, **FAST) for pairs in ((), (("4", "4"),))]
    results = [trained(model, training=each, teacher=model).result.model for each in facts]
    with torch.no_grad():
        errors = [float((each[:5](x) - model[:5](x)).square().mean()) for each in results]
    assert errors[1] < 0.5 * errors[0], errors
    assert not any(each._forward_hooks for result in results for each in result.modules())


class KilledError(Exception):
    pass


class Dies(TensorDataset):
    """Ends the run at a sample."""

    def __init__(self, *tensors, at):
        super().__init__(*tensors)
        self.left = at

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            raise KilledError
        return super().__getitem__(index)


WAYS = {
    "plain": {},
    "average": {"ema": 0.7},
    "oscillations": {"dampening": 0.1, "freezing": 0.015},
    "stages": {"progressive": (8, 5, 4), "ema": 0.7, "freezing": 0.1},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, way):
    facts = Training(epochs=4, warm_up=0.5, **WAYS[way], **FAST)
    options = {"training": facts, "validation": batches(seed=1, shuffle=False), "method": "lsq+"}
    whole = trained(**options, folder=tmp_path / "whole")
    seen_before = 16 + 64  # a batch to look at, and the calibration
    seen_before += 64 * len(facts.progressive)  # again where a stage begins, of which each epoch is one
    dying = DataLoader(Dies(*samples(), at=seen_before + 2 * 64 + 40), 16, shuffle=True)
    with pytest.raises(KilledError):
        trained(loader=dying, **options, folder=tmp_path / "a")
    history = json.loads((tmp_path / "a" / "history.json").read_text())
    assert [each["number"] for each in history] == [0, 1]
    found = trained(**options, folder=tmp_path / "a")
    assert found.history == whole.history
    assert same(state(found.result.model), state(whole.result.model))
    last = [torch.load(tmp_path / name / "last.pt", weights_only=True)["network"] for name in ("whole", "a")]
    assert same(*last)
    again = trained(**options, folder=tmp_path / "a")
    assert same(state(again.result.model), state(whole.result.model)), "a run that is done is read"


def test_stages_have_more_bits_and_only_the_last_is_ranked(monkeypatch):
    seen = []
    original = ribs.qat.run.Run._accuracy

    def measured(self, validation):
        layers = [layer for layer in self.network.modules() if isinstance(layer, QuantizedLayer)]
        seen.append([(layer.weight_quantizer.bits, layer.input_quantizer.bits) for layer in layers])
        return 100.0 if len(seen) <= 4 else original(self, validation)

    monkeypatch.setattr(ribs.qat.run.Run, "_accuracy", measured)
    facts = Training(epochs=6, progressive=(8, 4), **FAST)
    found = trained(bits={"0": 8, "4": (2, 5), "7": 32}, training=facts, validation=batches(seed=1, shuffle=False))
    stages = [[(8, 8)] * 2, [(8, 8), (4, 5)], [(8, 8), (2, 5)]]
    assert seen == [[*stages[number // 2], (32, 32)] for number in range(6)]
    assert found.result.bits == {"0": (8, 8), "4": (2, 5), "7": (32, 32)}
    assert accuracy(found.result.model, samples(seed=1)) == max(each.accuracy for each in found.history[4:])


def test_a_folder_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    trained(training=Training(epochs=1), folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with method=lsq, and this has method=lsq\+"):
        trained(training=Training(epochs=1), folder=tmp_path, method="lsq+")
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"last.pt is damaged"):
        trained(training=Training(epochs=1), folder=tmp_path)


def test_steps_of_gradients_that_are_not_finite_are_skipped_and_leave_no_trace():
    x, labels = samples()
    clean = [(x[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    bad = x[:16].clone()
    bad[3, 0, 0, 0] = torch.nan
    facts, few = Training(epochs=1, **FAST), {"calibration_samples": 32}
    model = with_norm()
    model[3] = nn.Identity().eval()  # random numbers would be others
    want = trained(model, clean[:2], training=facts, **few)
    dirty = [*clean[:2], (bad, labels[:16])]
    found = trained(model, dirty, training=Training(epochs=1, lr=0.05, step_lr=0.01, momentum=0.9), **few)
    assert found.history[0].skipped == 1 and want.history[0].skipped == 0
    assert all(each.isfinite().all() for each in found.result.model.parameters())
    with pytest.raises(ValueError, match=r"gradients of 3 steps in a row are NaN or infinite, in epoch 0"):
        trained(model, clean[:2] + 3 * [(bad, labels[:16])], training=Training(epochs=1, most_skipped=2), **few)


def test_steps_have_a_learning_rate_of_their_own():
    model = with_norm()
    start = ribs.qat.prepare(model, batches(shuffle=False), 3)
    found = trained(model, batches(shuffle=False), training=Training(epochs=1, lr=0.05, step_lr=0.0))
    for name in ("4", "7"):  # no norm is folded into their steps
        fixed, first = found.result.model.get_submodule(name), start.get_submodule(name)
        torch.testing.assert_close(fixed.input_quantizer.step, first.input_quantizer.step, rtol=0, atol=0)
        assert not torch.equal(fixed.weight, first.weight)


def test_half_precision_and_another_optimizer():
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    made = []

    def adam(groups):
        made.append(torch.optim.AdamW(groups))
        return made[0]

    found = trained(accelerator=accelerator, optimizer=adam, training=Training(epochs=6, lr=0.01, step_lr=1e-3))
    assert found.history[-1].loss < 0.8 * found.history[0].loss
    assert [group["weight_decay"] for group in made[0].param_groups] == [1e-4, 0.0, 0.0]
    assert found.result.model(samples()[0]).dtype == torch.float32


def test_half_precision_of_products_by_functionals():
    """Their forward is an object of its own, which is no method of the network."""
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    found = trained(Convs(6).eval(), accelerator=accelerator, training=Training(epochs=2, lr=0.01, step_lr=1e-3))
    assert found.result.model(samples()[0]).dtype == torch.float32


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    facts = {"training": Training(epochs=2, **FAST), "validation": batches(shuffle=False, seed=1), "bits": 4}
    facts["calibration_samples"] = 8  # of one batch whatever its size: steps of several are averaged

    def run(size):
        return trained(network(), batches(size, shuffle=False), **facts)

    want = run(16)
    accelerate.state.AcceleratorState._reset_state(True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def process(rank):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in places.items()}
        found = run(8)
        normed = trained(training=Training(epochs=1, ema=0.5, **FAST))  # whose processes see other statistics
        states = [state(each.result.model) for each in (found, normed)]
        torch.save((found.history[-1].accuracy, states), tmp_path / f"{rank}.pt")

    for child in in_children(lambda: process(0), lambda: process(1)):
        os.waitpid(child, 0)
    (reached, [weights, normed]), other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert reached == want.history[-1].accuracy == other[0]
    torch.testing.assert_close(weights, state(want.result.model), rtol=1e-3, atol=1e-5)
    assert same(weights, other[1][0]) and same(normed, other[1][1])


def with_features(*pairs):
    return Training(epochs=1, features=pairs)


class Unused(nn.Sequential):
    """Has modules that it does not call."""

    def __init__(self):
        super().__init__(*with_norm())

    def forward(self, x):
        return self[7](x.new_zeros(len(x), 96))


def test_what_fit_refuses():
    x, labels = samples(32)
    cases = [
        ({"loader": [x, x]}, "the loader yields no labels"),
        ({"loader": [(x, labels.float())]}, r"labels are torch.float32 \(32,\); give one integer a sample"),
        ({"loader": [(x, labels + 1)]}, r"labels lie in 1..4, and the model has 4 classes"),
        ({"loader": iter([(x, labels)])}, "has no length; give a DataLoader or a list"),
        ({"loader": []}, "has no length"),
        ({"bits": {"0": 4}}, "leaves out"),
        (
            {"teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 5))},
            r"teacher's output is \(2, 5\) and the model's \(2, 4\)",
        ),
        (
            {"training": with_features(("4", "4"))},
            r"features=.* are those of a teacher, and there is none",
        ),
        ({"training": with_features(("9", "4")), "teacher": with_norm()}, "names '9', which Sequential does not have"),
        ({"training": with_features(("4", "4")), "teacher": Unused()}, "'4', which the teacher does not call"),
        (
            {"training": with_features(("0", "7")), "teacher": with_norm()},
            r"features of '0' are \(6, 6, 6\) a sample in the model, and those of '7' \(4,\) in the teacher",
        ),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            trained(**options)
    with pytest.raises(ValueError, match=r"\[Training\] lr=0 is not supported; give a positive number"):
        Training(lr=0)
    with pytest.raises(ValueError, match=r"progressive=\(4, 8\) is not supported; give falling bits"):
        Training(progressive=(4, 8))
    with pytest.raises(ValueError, match=r"features=\('4', '4'\) is not supported; give a tuple of pairs"):
        Training(features=("4", "4"))
    with pytest.raises(ValueError, match=r"distillation=2 is not supported; give a share in 0..1"):
        Training(distillation=2)
    model = with_norm()
    with pytest.raises(ValueError, match="is in training mode"):
        trained(model.train())
