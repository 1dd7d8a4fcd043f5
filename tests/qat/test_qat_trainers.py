"""Networks in training within the loops that users have: Lightning's, and that of timm's train.py."""

from argparse import Namespace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, dispatch_clip_grad

import ribs
from ribs.qat import finish, parameter_groups, prepare
from small import loader, network

BATCHES = [(x, torch.arange(len(x)) % 5) for x in loader(4)]
SHOWING = [(x + 3 * loader(1)[0][labels], labels) for x, labels in BATCHES]  # the label of each image
TIMM = {"in_chans": 1, "num_classes": 5}


def float_of_timm(**options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", **options).eval()


def groups(trained):
    return parameter_groups(trained, lr=0.05, step_lr=0.01, weight_decay=1e-4)


def check_finished(trained, model):
    """What was trained becomes a result that gives the same."""
    result = finish(trained, model, BATCHES)
    with torch.no_grad():
        torch.testing.assert_close(result.model(BATCHES[0][0]), trained.eval()(BATCHES[0][0]), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of what it imports and of loaders without workers
def test_lightning_trains_and_goes_on_from_its_checkpoint(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.network = prepare(model, BATCHES, 4)

        def training_step(self, batch, index):
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(groups(self.network), momentum=0.9)

    def train(task, epochs, checkpoint=None):
        options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(max_epochs=epochs, enable_checkpointing=False, **options)
        trainer.fit(task, torch.utils.data.DataLoader(BATCHES, batch_size=None), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")

    model = network()
    whole, first, second = (Task(model) for _ in range(3))
    train(first, 2)
    train(second, 4, tmp_path / "last.ckpt")
    train(whole, 4)
    resumed = second.network.state_dict()
    assert all(torch.equal(each, resumed[name]) for name, each in whole.network.state_dict().items())
    check_finished(whole.network, model)


class TimmScript:
    """The calls that timm's train.py makes, in its order, of a network that it creates by name."""

    def __init__(self, name, folder, resume=None):
        self.network = timm.create_model(name, **TIMM, drop_path_rate=None, checkpoint_path="")
        self.network.set_grad_checkpointing(enable=True)
        self.network.to(memory_format=torch.channels_last)
        self.task = ClassificationTask(self.network, verbose=False)
        self.optimizer = create_optimizer_v2(groups(self.network), "momentum", lr=0.05, weight_decay=1e-4)
        self.first = 0
        if resume is not None:
            self.first = resume_task_checkpoint(self.task, resume, self.optimizer, log_info=False)
        self.task.setup_ema(decay=0.5)
        if resume is not None:
            load_task_ema_checkpoint(self.task, resume)
        options = {"args": Namespace(model=name), "checkpoint_dir": folder, "decreasing": True}
        self.saver = CheckpointSaver(self.network, self.optimizer, task=self.task, **options)
        self.scheduler, _ = create_scheduler_v2(self.optimizer, "cosine", num_epochs=6, warmup_epochs=1)
        self.scheduler.step(self.first)

    def train(self, epochs):
        """Returns: the loss of every step, and that of the average of weights after the last epoch."""
        losses = []
        for epoch in range(self.first, epochs):
            self.task.get_trainable_module().train()
            for number, (x, labels) in enumerate(SHOWING, start=1 + epoch * len(SHOWING)):
                loss = self.task(x.contiguous(memory_format=torch.channels_last), labels)["loss"]
                loss.backward()
                dispatch_clip_grad(self.task.get_clip_parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.task.update_ema(step=number)
                losses.append(loss.item())
            evaluator = self.task.create_evaluator()
            with torch.inference_mode():
                for x, labels in SHOWING:
                    evaluator.update(self.task.get_eval_model(ema=True)(x), labels)
            measured = evaluator.compute()["loss"]
            self.saver.save_checkpoint(epoch, metric=measured)
            self.scheduler.step(epoch + 1)
        return losses, measured


def test_timms_script_trains_a_network_by_name_and_goes_on(tmp_path):
    @timm.models.register_model
    def ribs_qat_4x4(**options):
        return prepare(float_of_timm(**options), SHOWING, 4)

    def script(name, resume=None):
        (tmp_path / name).mkdir()
        return TimmScript("ribs_qat_4x4", tmp_path / name, resume)

    losses, measured = script("whole").train(3)
    script("first").train(1)
    resumed = script("second", tmp_path / "first" / "last.pth.tar").train(3)
    assert resumed == (losses[len(SHOWING) :], measured)
    assert sum(losses[-len(SHOWING) :]) < 0.9 * sum(losses[: len(SHOWING)])
    model = float_of_timm(**TIMM)
    network = timm.create_model("ribs_qat_4x4", **TIMM, checkpoint_path=tmp_path / "second" / "last.pth.tar")
    finish(network, model, SHOWING).save(tmp_path / "saved")
    loaded = ribs.load(tmp_path / "saved", model).model
    with torch.no_grad():
        found = sum(F.cross_entropy(loaded(x), labels).item() for x, labels in SHOWING) / len(SHOWING)
    assert found == pytest.approx(measured, rel=1e-2)


def test_timms_own_groups_let_no_step_decay():
    network = prepare(float_of_timm(**TIMM), SHOWING, 4)
    names = {id(each): name for name, each in network.named_parameters()}
    for options in ({}, {"layer_decay": 0.5}):
        made = create_optimizer_v2(network, "momentum", lr=0.05, weight_decay=1e-4, **options).param_groups
        decaying = {names[id(each)] for group in made if group["weight_decay"] for each in group["params"]}
        assert decaying and not any(name.endswith("quantizer.step") for name in decaying)
