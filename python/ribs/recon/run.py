"""Reconstruction of a quantized network: its pieces one after the other, each given what those before it give."""

from __future__ import annotations

import copy
import functools
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ribs.quant.inputs import Inputs
from ribs.quant.layers import QuantizedLayer, QuantizedMatmul
from ribs.quant.quantizer import FLOAT_BITS, FakeQuantizer, Quantizer
from ribs.quant.redirect import call_alone
from ribs.quant.trace import Layer
from ribs.recon.batches import Batches
from ribs.recon.captures import Captures
from ribs.recon.learned import Finished, learned, put
from ribs.recon.methods import Method, Phase
from ribs.recon.optimise import Optimisation
from ribs.recon.pieces import Piece, find_pieces
from ribs.recon.soft import Begun, SoftRounding, SoftStep, learnable
from ribs.recon.store import ShapeError, Stored, joined, rows_of, run_to, samples_of, size_of

Loss = Callable[[Any, Any, Inputs], Tensor]  # (float output, quantized output, inputs) -> [samples]
CHECK_EVERY = 100  # steps: to look whether all is finite waits for the device
MIB = 2**20


class Reconstruction:
    """A network under reconstruction.

    model: quantized, at the bits chosen, with its float weights; it is changed.
    layers: as they were traced.
    batches: the calibration set.
    loss: the task loss, for the Fisher weights of BRECQ.
    store_mib: limits what is stored of a piece; where all samples do not fit, it is reconstructed on the first that do.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        batches: Sequence[Inputs],
        method: Method,
        *,
        loss: Loss,
        store_mib: float = 1024,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.model, self.layers, self.method, self.loss = model, layers, method, loss
        device = next(model.parameters()).device
        self.batches = joined([inputs.to(device) for inputs in batches])
        self.store_mib = store_mib
        self.seed = seed
        self.generator = torch.Generator(device).manual_seed(seed)
        self.progress = progress
        self._captures = Captures(device)
        self._singles: dict[str, tuple[Any, Any]] = {}
        self.reference = copy.deepcopy(model)
        for quantizer in _quantizers(self.reference):
            quantizer.set_bits(FLOAT_BITS)

    @property
    def _steps_of_a_piece(self) -> int:
        return sum(phase.iterations for phase in self.method.phases)

    @functools.cached_property
    def pieces(self) -> list[Piece]:
        """What is reconstructed, in execution order; a warning names what is not."""
        [whole] = {phase.whole for phase in self.method.phases}
        return find_pieces(self.reference, self.layers, whole, self.batches[0].head(2))

    def run(self, finished: Finished | None = None) -> None:
        """Reconstruct all pieces.

        finished: those in it are taken from there, and all others are added.
        Raises: ValueError naming a piece whose output has no gradient.
        """
        pieces = self.pieces
        with self._bar(len(pieces)) as bar:
            for piece in pieces:
                found = finished.get(piece.name) if finished is not None else None
                if found is not None:
                    put(self.model, piece.layers, found)
                    _advance(bar, self._steps_of_a_piece, f"{piece.name} was finished before")
                    continue
                self.rebuild(piece, bar)
                if finished is not None:
                    finished.add(piece.name, learned(self.model, piece.layers))

    def rebuild(
        self, piece: Piece, bar: tqdm[None] | None = None, *, share: float = 0.0, begun: Sequence[Begun] = ()
    ) -> list[Begun]:
        """Reconstruct a piece, which is as calibrated, for the inputs that those before it give now.

        Its random numbers are its own: what is found depends on the bits up to here, and not on what ran before.

        share: of the iterations of each phase, its last ones.
        begun: for each phase, variables from which only these are done.

        Returns: for each phase, the variables with which they begin; of none where `share` is 0.
        """
        found = []
        for number, phase in enumerate(self.method.phases):
            mixed = hashlib.blake2b(f"{self.seed} {number} {piece.name}".encode(), digest_size=8).digest()
            self.generator.manual_seed(int.from_bytes(mixed, "little") >> 1)
            last = round(share * phase.iterations)
            with self._activations(phase):
                found.append(self._reconstruct(piece, phase, last, begun[number] if begun else None, bar))
        return found

    def _reconstruct(self, piece: Piece, phase: Phase, last: int, begun: Begun | None, bar: tqdm[None] | None) -> Begun:
        roundings, steps = self._softs(piece, phase)
        found = Begun()
        if not roundings and not steps:
            _advance(bar, phase.iterations, f"{piece.name} has nothing to learn")
            return found
        if begun is not None:
            begun.put(roundings, steps)
        module = self.model.get_submodule(piece.name)
        try:
            store = self._stored(piece, phase)
        except ShapeError as problem:
            raise ValueError(f"[reconstruct] {piece.name!r}: {problem}") from None
        call = functools.partial(call_alone, self.model, module)
        first = phase.iterations - last if begun is not None else 0
        optimisation = Optimisation(self.method, phase, call, roundings, steps, first)
        batches = Batches(store, phase.keep, self.method.batch_size, self.generator)

        step = self._captures.repeated(lambda: optimisation.step(*batches.present()), phase.iterations - first)
        for iteration in range(first, phase.iterations):
            if last and iteration == phase.iterations - last:
                found = Begun.of(roundings, steps)
            batches.draw()
            optimisation.begin(iteration)
            try:
                step()
            except ValueError as problem:
                raise ValueError(f"[reconstruct] {piece.name!r}: {problem}") from None
            if (iteration + 1) % CHECK_EVERY == 0 or iteration + 1 == phase.iterations:
                if not optimisation.finite or not bool(optimisation.error.isfinite()):
                    optimisation.go_back()
                    warnings.warn(
                        f"[reconstruct] {piece.name!r}: its error became NaN or Inf by step {iteration + 1}; it keeps "
                        "its last good rounding and steps; lower the learning rates, or look at its inputs",
                        stacklevel=2,
                    )
                    break
                optimisation.remember()
                _advance(bar, iteration % CHECK_EVERY + 1, f"{piece.name} error {float(optimisation.error):.4g}")
        optimisation.finish()
        return found

    def _softs(self, piece: Piece, phase: Phase) -> tuple[list[SoftRounding], list[SoftStep]]:
        """What stands in for the quantizers of a piece; layers in float have none."""
        roundings, steps = [], []
        for name in piece.layers:
            layer = self.model.get_submodule(name)
            assert isinstance(layer, (QuantizedLayer, QuantizedMatmul))
            if phase.rounding and isinstance(layer, QuantizedLayer) and layer.weight_quantizer.bits != FLOAT_BITS:
                if learnable(self.model, layer):
                    roundings.append(SoftRounding(layer, name))
                else:
                    warnings.warn(
                        f"[reconstruct] the weights of {name!r} are rounded to nearest: they are computed, or shared",
                        stacklevel=2,
                    )
            if phase.steps:
                # Levels of softmax outputs stay as they were fitted.
                for call, quantizer in enumerate(layer.activation_quantizers):
                    if isinstance(quantizer, FakeQuantizer) and quantizer.bits != FLOAT_BITS:
                        steps.append(SoftStep(quantizer, phase.keep, self.generator, f"{name} {call}"))
        return roundings, steps

    def _stored(self, piece: Piece, phase: Phase) -> Stored:
        """(inputs as quantized so far, inputs of the float network, target, weights of errors) of a piece.

        None takes the place of what is not needed.
        """
        module = self.model.get_submodule(piece.name)
        store = None
        for batch, inputs in enumerate(self.batches):
            float_inputs, target = self.floating(piece, batch)
            weights = self._fisher(module, inputs) if phase.fisher else None
            quantized = None if phase.float_inputs else self.quantized(piece, phase, batch)
            if not phase.float_inputs and phase.keep == 1:
                float_inputs = None
            tree = (quantized, float_inputs, target, weights)
            if store is None:
                called, returned = self._single(piece)
                own_tree = (called, called, returned, returned)
                one = tuple(None if part is None else own for part, own in zip(tree, own_tree, strict=True))
                if not rows_of(target, returned, inputs.samples)[0]:
                    raise ShapeError("its output does not have the samples along its first dimension")
                store = Stored(self._samples(piece, size_of(tree, one, inputs.samples)), one)
            store.add(tree, inputs.samples)
            if store.full:
                break
        assert store is not None
        return store

    def _single(self, piece: Piece) -> tuple[Any, Any]:
        """The (args, kwargs) that a piece gets in the float network for one sample, and what it returns."""
        if piece.name not in self._singles:
            module, sample = self.reference.get_submodule(piece.name), self.batches[0].head(1)
            self._singles[piece.name] = run_to(module, lambda: sample.call(self.reference), through=True)
        return self._singles[piece.name]

    def floating(self, piece: Piece, batch: int) -> tuple[Any, Any]:
        """The (args, kwargs) that a piece gets in the float network, and what it returns."""
        module, inputs = self.reference.get_submodule(piece.name), self.batches[batch]
        return run_to(module, lambda: inputs.call(self.reference), through=True)

    def quantized(self, piece: Piece, phase: Phase, batch: int) -> Any:
        """The (args, kwargs) that a piece gets in the network as quantized so far, within a phase."""
        module, inputs = self.model.get_submodule(piece.name), self.batches[batch]
        return run_to(module, lambda: inputs.call(self.model), through=False)[0]

    def _samples(self, piece: Piece, size: float) -> int:
        """How many samples of so many bytes are stored."""
        samples = samples_of(self.batches)
        fit = max(1, min(samples, int(self.store_mib * MIB / max(size, 1))))
        if fit < samples:
            warnings.warn(
                f"[reconstruct] {piece.name!r} is reconstructed on {fit} of {samples} samples: each takes "
                f"{size / MIB:.3g} MiB, and store_mib={self.store_mib:g}",
                stacklevel=2,
            )
        return fit

    def _fisher(self, module: nn.Module, inputs: Inputs) -> Tensor:
        """The square of 1 + |gradient of the task loss| at what the module returns.

        The squares of gradients are the diagonal of BRECQ (Li et al., 2021, on the Hessian of outputs); the authors'
        code adds the 1.
        """
        outputs = []

        def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_())
            return outputs[-1].clone()  # what follows may change it in place

        with torch.no_grad():
            expected = inputs.call(self.reference)
        handle = module.register_forward_hook(cut)
        try:
            with torch.enable_grad():
                loss = self.loss(expected, inputs.call(self.model), inputs).sum()
        finally:
            handle.remove()
        [gradient] = torch.autograd.grad(loss, outputs)
        return (1 + gradient.abs()).square()

    @contextmanager
    def _activations(self, phase: Phase) -> Iterator[None]:
        """Within, activations are in float, unless the phase quantizes them."""
        changed: dict[Quantizer, int] = {}
        for module in self.model.modules():
            if not phase.activations and isinstance(module, (QuantizedLayer, QuantizedMatmul)):
                changed |= {each: each.bits for each in module.activation_quantizers}
        try:
            for quantizer in changed:
                quantizer.set_bits(FLOAT_BITS)
            yield
        finally:
            for quantizer, bits in changed.items():
                quantizer.set_bits(bits)

    @contextmanager
    def _bar(self, pieces: int) -> Iterator[tqdm[None] | None]:
        if not self.progress:
            yield None
            return
        with tqdm(total=pieces * self._steps_of_a_piece, desc="reconstruction", unit="step", file=sys.stderr) as bar:
            yield bar


def _advance(bar: tqdm[None] | None, steps: int, text: str) -> None:
    if bar is not None:
        bar.set_postfix_str(text, refresh=False)
        bar.update(steps)


def _quantizers(model: nn.Module) -> list[Quantizer]:
    return [module for module in model.modules() if isinstance(module, Quantizer)]
