"""Networks in training within the loops that users have: Lightning's, and those made of timm's parts."""

import pytest
import torch
import torch.nn.functional as F

from ribs.qat import finish, parameter_groups, prepare
from small import loader, network

BATCHES = [(x, torch.arange(len(x)) % 5) for x in loader(4)]


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


def test_the_parts_of_timms_script_train():
    pytest.importorskip("timm")
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import ModelEmaV3, NativeScaler

    model = network()
    trained = prepare(model, BATCHES, 4)
    optimizer = create_optimizer_v2(groups(trained), "momentum", lr=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, "cosine", num_epochs=6, warmup_epochs=1, min_lr=1e-4)
    average, scaler = ModelEmaV3(trained, decay=0.5), NativeScaler(device="cpu")
    losses = []
    for epoch in range(epochs):
        for x, labels in BATCHES:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(trained(x), labels)
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=trained.parameters())
            average.update(trained)
            losses.append(loss.item())
        if epoch == 3:
            rates = [group["lr"] for group in optimizer.param_groups]
        scheduler.step(epoch + 1)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert rates[-1] < rates[0], "steps have a rate of their own"
    check_finished(average.module, model)
