"""The authors' own code of BRECQ and QDrop, for benchmarks/reconstruction_authors.py.

It runs as it is, but for this: on a CPU nothing is sent to 'cuda'; Adam's default learning rate is raised as all others
are; the blocks of the network are carried into their `BasicBlock`; the first and the last layer have the bits of all
others, where their scripts have 8; and what only loading ImageNet needs may be missing.
"""

import contextlib
import copy
import functools
import importlib
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

import ribs
from ribs.quant.network import Bits

BRECQ_SAMPLES, QDROP_SAMPLES = 64, 256  # that they calibrate activations on
Begin = Callable[[], None]  # called as each of their steps begins


def add_folder(folder: Path) -> None:
    """Make their modules importable from the clones in a folder."""
    for part in ("QDrop", "BRECQ", "QDrop/qdrop/solver"):  # the last has modules with names of the others
        if not (folder / part).is_dir():
            raise SystemExit(f"{folder / part} is missing; clone github.com/yhhhli/BRECQ and github.com/wimh966/QDrop")
        sys.path.insert(0, str(folder / part))
    for name in ("easydict", "yaml"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = mock.MagicMock()
    importlib.import_module("main_imagenet")
    for name in ("qdrop", "quantization"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def running(module: object, faster: float, begin: Begin | None, device: torch.device) -> Iterator[None]:
    """Within, a module of theirs runs on this device, and says when it draws the batch of a step; it prints nothing."""
    to = Tensor.to

    def stay(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        return tensor if args == ("cuda",) and device.type == "cpu" else to(tensor, *args, **kwargs)

    def drawing(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*args: object) -> Tensor:
            if begin is not None:
                begin()
            return draw(*args)

        return drawn

    adam = functools.partial(torch.optim.Adam, lr=1e-3 * faster)
    optim = SimpleNamespace(Adam=adam, lr_scheduler=torch.optim.lr_scheduler)
    draws = {name: drawing(getattr(torch, name)) for name in ("randperm", "randint")}
    theirs = SimpleNamespace(**{**vars(torch), **draws, "optim": optim})
    seen = mock.patch.object(module, "torch", theirs)
    with seen, mock.patch.object(Tensor, "to", stay), contextlib.redirect_stdout(io.StringIO()):
        yield


def carried(model: nn.Module, block: type[nn.Module]) -> nn.Module:
    """A copy of a ResNet of timm's whose blocks are `block`, their BasicBlock."""
    model = copy.deepcopy(model)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for name, old in stage.named_children():
            sizes = old.conv1.in_channels, old.conv2.out_channels, old.stride
            new = block(*sizes, old.downsample, norm_layer=nn.BatchNorm2d)
            new.conv1, new.bn1, new.conv2, new.bn2 = old.conv1, old.bn1, old.conv2, old.bn2
            setattr(stage, name, new)
    return model.eval()


def pieces_of(module: nn.Module, kinds: tuple[type, ...], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What they reconstruct at a time, in their order."""
    for name, child in module.named_children():
        if isinstance(child, kinds):
            yield prefix + name, child
        else:
            yield from pieces_of(child, kinds, f"{prefix}{name}.")


class TheirBRECQ:
    """What main_imagenet.py of BRECQ does, piece by piece: `begin` a phase, `rebuild` each of the pieces, `finish`.

    faster: the default learning rate of Adam, as a multiple of its own.
    """

    def __init__(self, model: nn.Module, images: Tensor, bits: Bits, method: ribs.BRECQ, faster: float) -> None:
        self.quant, self.images, self.method, self.faster = importlib.import_module("quant"), images, method, faster
        weights = {"n_bits": bits[0], "channel_wise": True, "scale_method": "mse"}
        activations = {"n_bits": bits[1], "channel_wise": False, "scale_method": "mse", "leaf_param": True}
        network = carried(model, importlib.import_module("models.resnet").BasicBlock)
        self.model = self.quant.QuantModel(network, weights, activations).eval()
        self.pieces = dict(pieces_of(self.model.model, (self.quant.QuantModule, self.quant.BaseQuantBlock)))

    def floating(self, images: Tensor) -> Tensor:
        """Logits without quantizers."""
        self.model.set_quant_state(False, False)
        return self.model(images)

    @torch.no_grad()
    def begin(self, phase: int) -> None:
        self.model.set_quant_state(True, phase == 1)
        self.model(self.images[:BRECQ_SAMPLES])
        if phase == 1:
            self.model.disable_network_output_quantization()

    def rebuild(self, name: str, phase: int, begin: Begin | None = None) -> None:
        method, facts, piece = self.method, self.method.phases[phase], self.pieces[name]
        kind = "block" if isinstance(piece, self.quant.BaseQuantBlock) else "layer"
        options = {"cali_data": self.images, "batch_size": method.batch_size, "iters": facts.iterations}
        if phase == 0:
            options |= {"weight": method.penalty, "asym": True, "b_range": method.beta, "warmup": method.warm_up}
        else:
            options |= {"act_quant": True, "lr": method.step_lr, "p": facts.power}
        module = importlib.import_module(f"quant.{kind}_recon")
        with running(module, self.faster, begin, self.images.device):
            getattr(module, f"{kind}_reconstruction")(self.model, piece, opt_mode="mse", **options)

    def finish(self) -> nn.Module:
        self.model.set_quant_state(True, True)
        return self.model.eval()


class TheirQDrop:
    """What qdrop/solver/main_imagenet.py of QDrop does, as `TheirBRECQ` has it."""

    def __init__(self, model: nn.Module, images: Tensor, bits: Bits, method: ribs.QDrop, faster: float) -> None:
        self.images, self.method, self.faster = images, method, faster
        main = importlib.import_module("main_imagenet")
        self.recon, self.state = (importlib.import_module(name) for name in ("recon", "qdrop.quantization.state"))
        network = carried(model, importlib.import_module("qdrop.model").BasicBlock)
        main.search_fold_and_remove_bn(network)
        facts = {"observer": "MSEObserver", "symmetric": False}
        weights = SimpleNamespace(quantizer="AdaRoundFakeQuantize", bit=bits[0], ch_axis=0, **facts)
        activations = SimpleNamespace(quantizer="LSQFakeQuantize", bit=bits[1], ch_axis=-1, **facts)
        quantized = main.quantize_model(network, SimpleNamespace(w_qconfig=weights, a_qconfig=activations))
        self.model = quantized.to(images.device).eval()
        for name, module in self.model.named_modules():
            if isinstance(module, main.QuantizeBase):
                module.set_bit(bits[0] if "weight" in name else bits[1])
        self.original = copy.deepcopy(self.model)
        self.state.disable_all(self.original)
        kinds = (main.QuantizedLayer, main.QuantizedBlock)
        self.pieces, self.originals = (dict(pieces_of(each, kinds)) for each in (self.model, self.original))

    def floating(self, images: Tensor) -> Tensor:
        """Logits without quantizers."""
        return self.original(images)

    @torch.no_grad()
    def begin(self, phase: int) -> None:
        for kind, samples in (("act_fake_quant", QDROP_SAMPLES), ("weight_fake_quant", 2)):
            self.state.enable_calibration_woquantization(self.model, quantizer_type=kind)
            self.model(self.images[:samples])
        self.state.enable_quantization(self.model)

    def rebuild(self, name: str, phase: int, begin: Begin | None = None) -> None:
        method = self.method
        config = SimpleNamespace(batch_size=method.batch_size, iters=method.iterations, scale_lr=method.step_lr)
        config.warm_up, config.weight, config.b_range = method.warm_up, method.penalty, method.beta
        config.drop_prob, config.keep_gpu, config.round_mode = method.keep, True, "learned_hard_sigmoid"
        with running(self.recon, self.faster, begin, self.images.device):
            self.recon.reconstruction(
                self.model, self.original, self.pieces[name], self.originals[name], self.images, config
            )

    def finish(self) -> nn.Module:
        return self.model.eval()


Theirs = TheirBRECQ | TheirQDrop
THEIRS: dict[str, type[Theirs]] = {"BRECQ": TheirBRECQ, "QDrop": TheirQDrop}
