"""`ribs.search` and `ribs.quantize`: the whole way from a float model to a quantized one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from torch import nn

from ribs.quant.copies import unwrap
from ribs.quant.inputs import collect
from ribs.quant.network import QuantizedNetwork, calibrate, check_pooled, prepare
from ribs.quant.recipe import RecipeName, check_recipe
from ribs.quant.reparameterize import reparameterize
from ribs.quant.units import UnitScheme
from ribs.recon.methods import Method
from ribs.select.algorithm import Algorithm, Name
from ribs.select.arrange import LEVELS, PASSES, arrange
from ribs.select.bars import Bars
from ribs.select.bit_table import read_bits
from ribs.select.budget import Budget
from ribs.select.candidates import ActivationBits, Allowed, Pins, Ties
from ribs.select.cost import AnyBits, CostTable
from ribs.select.events import Events, OnIteration, OnProbe
from ribs.select.loss import TaskLoss, kl_divergence
from ribs.select.measurement import MIB, Losses, Measurement
from ribs.select.measuring import WEIGHTS_SHARE, Options, measuring
from ribs.select.plan import Plan, bit_widths
from ribs.select.race import Race
from ribs.select.reconstructed import SHARE, Reconstructed, check_recipe_of, check_reconstruction
from ribs.select.result import Result, SearchCost
from ribs.select.sampling import standard_error
from ribs.select.search import Trace
from ribs.select.sensitivity import Sensitivity
from ribs.select.setup import set_up

Profile = Literal["full", "race"]
Execution = Literal["float32", "int8"]


def search(
    model: nn.Module,
    loader: Iterable[Any],
    budget: Budget,
    *,
    bits: Iterable[int] = range(2, 9),
    activation_bits: ActivationBits = None,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    algorithm: Name = "adaptive",
    update_size: int | None = None,
    iterations: int | None = None,
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    pins: Pins | None = None,
    allowed: Allowed | None = None,
    ties: Ties | None = None,
    target: str | None = None,
    loss: TaskLoss = kl_divergence,
    reconstruct: Method | None = None,
    finish: Method | None = None,
    profile: Profile = "full",
    execution: Execution = "float32",
    max_seconds: float | None = None,
    cache_mib: float = 1024,
    store_mib: float = 1024,
    journal: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    on_iteration: OnIteration | None = None,
    on_probe: OnProbe | None = None,
) -> Result:
    """Choose the bits of every unit of a trained network that lose the least within a budget.

    model: float32, in eval mode; it is never changed. Of one that `torch.compile`, `DataParallel` or
        `DistributedDataParallel` wraps, the model within.
    loader: yields batches of inputs, no labels needed: tensors, tuples led by the input, or dicts of tensors. It is
        read once.
    budget: of bit operations, size, average bits, activation memory and costs of your own, those given.
    bits: candidate bit-widths, 1..8; the weights and activations of a unit share one by default.
    activation_bits: an int fixes those of all activations; with several, every pair of weight and activation bits is
        a candidate.
    units: "layer", "block", or a dict of layer patterns by unit name.
    recipe: which quantizers there are, and how their steps are found: "minmax"; "mse"; "asymmetric", by which weights
        have zero points; "residual", by which residual sums read quantized values too; or for transformers "repq" or
        "repq+". By default "repq+" where softmax outputs are multiplied, and "mse" elsewhere (`ribs.quant.recipe`).
    skip: names or `fnmatch` patterns of modules (with all that lies in them) and layers that stay in float, as they
        are. They are no units, and what they multiply and weigh counts at 32 bits.
    algorithm: "adaptive", or "paper" for Algorithm 1 of RIBS as it is written. docs/algorithms.md compares them.
    update_size: of "paper", the units changed in each iteration after the first, which changes all (its M), by default
        half; of "adaptive", the most units that the first program may change, by default all.
    iterations: number of integer linear programs solved (the paper's N_iter); by default 10 of "paper" and 2 for each
        unit of "adaptive", whose iterations measure four configurations each and not all candidates; in a race two, and
        by default 4 for each unit.
    calibration_samples: how many of the loader's samples are used. A search fits few too closely: the more units there
        are, the more it needs (docs/algorithms.md, "How many samples").
    pool_batches: fit the steps of activations to all batches together; by default each batch has its own, and these
        are averaged, as in the paper.
    pins: {unit name, `fnmatch` pattern, "first" or "last": bits or (weight bits, activation bits)} that stay as given;
        32 is float.
    allowed: {name or pattern as for pins: bits or (weight bits, activation bits) pairs}: the only candidates of these
        units. Bits alone are those of the weights, and of the operands in a unit without weights.
    ties: groups of names or patterns; the units of a group share their bits and become one, named "a + b". "auto" ties
        layers whose outputs are added, and linears that read the same tensor.
    target: a runtime such as "onnxruntime" or "tensorrt"; the candidates are those that it honours
        (`ribs.select.targets`).
    loss: one of `ribs.losses`, or f(float_output, quantized_output) or f(float_output, quantized_output, inputs) ->
        [samples] losses; by default the KL divergence of softmax outputs, whose logits are found in most outputs.
    reconstruct: a `ribs.AdaRound`, `ribs.BRECQ` or `ribs.QDrop`, by which every configuration is reconstructed before
        its loss is measured (recRIBS), block by block or layer by layer as it does. docs/reconstruction.md says how.
    finish: with `reconstruct`, how the configuration found is reconstructed in the end; by default by the same method
        with 20,000 iterations.
    profile: "full" measures on all samples. "race" needs several times less work: Algorithm 1 then stops measuring
        candidates that, by their errors so far, will hardly be in a solution, at the risk that `ribs.select.race.Race`
        states; the adaptive search measures on few samples first, on more only what was best, and stops measuring what
        falls behind by 1.5 standard errors. Which samples are first is drawn by how much they matter at two uniform
        configurations, for three passes over all (`ribs.select.arrange`), whatever `max_seconds`. The configuration
        returned is measured on all samples either way. With `reconstruct`, "full" does all of its iterations for every
        configuration, and "race" most of them only once for each bit-width (docs/reconstruction.md).
    execution: "int8" runs the candidates as products of 8-bit integers where there is an operator for it, several times
        faster on CPUs that can. Its losses differ from those in float32 by rounding; the difference at the
        configuration found is measured and reported, and the loss of the result is that in float32.
    max_seconds: return the best found in about this time. The first batch is always profiled. With `reconstruct`, all
        configurations are measured until one within the budget is the reference, and `finish` comes on top.
    cache_mib: MiB for outputs of the network and quantized weights that are kept to be used again. With less, more is
        computed again; the result is the same.
    store_mib: with `reconstruct`, MiB for the inputs and targets of one piece, as for `ribs.reconstruct`.
    journal: a folder in which every measured loss is kept as it comes, and every piece that `finish` has done. Killed
        at any moment, the same call goes on from there and ends with the same result; a call with another budget uses
        its losses too.
    seed: of the random choices. The same call on the same device gives the same result.
    progress: show bars.
    on_iteration: called after each iteration with a `ribs.select.events.IterationDone`.
    on_probe: called with a `ribs.select.events.ProbeDone` for each loss that was measured, soon after it was. What a
        callback raises ends the search and comes out of this call; the journal keeps all that was measured.

    Where `torch.distributed` is initialised, all of its processes must make the same call; they share the work, and
    all get the result that one process alone would have found. Only in the first of them are callbacks called.

    Raises: InfeasibleBudgetError naming the least reachable cost; ValueError or TypeError for bad input, JournalError
        for a journal of another search or one that cannot be used, all before any long work; JournalError where the
        disk is full, after which the same call goes on. The model stays as it is whatever happens.
    """
    model = unwrap(model)
    way = Algorithm(algorithm, iterations, update_size)
    _check_name("profile", profile, get_args(Profile))
    _check_name("execution", execution, get_args(Execution))
    reconstruct, finish = check_reconstruction(reconstruct, finish, execution=execution)
    options = Options(
        loss=loss,
        seed=seed,
        pool_batches=pool_batches,
        max_seconds=max_seconds,
        cache_mib=cache_mib,
        journal=journal,
        progress=progress,
        execution=execution,
        reconstruct=reconstruct,
        share=SHARE if profile == "race" and reconstruct is not None else 0.0,
        store_mib=store_mib,
    )
    setup = set_up(
        model,
        loader,
        [budget],
        units=units,
        recipe=recipe,
        skip=skip,
        calibration_samples=calibration_samples,
        bits=bits,
        activation_bits=activation_bits,
        pins=pins,
        allowed=allowed,
        ties=ties,
        target=target,
    )
    batches, network, [plan] = setup.batches, setup.network, setup.plans
    if reconstruct is not None:
        check_recipe_of(network)
    racing = profile == "race" and reconstruct is None  # a reconstruction needs all samples
    if execution == "int8":
        _check_int8(network)
    callbacks = str([on_iteration is not None, on_probe is not None])
    same = {"budget": str(plan.limits), "algorithm": str(way), "profile": profile, "callbacks": callbacks}
    with measuring(model, setup, batches, options, same) as measures:
        sensitivity, bars = measures.sensitivity, measures.bars
        losses_ahead, work = way.work(plan, racing)
        losses_ahead += racing * len(LEVELS)
        work = sensitivity.passes_before + work * sensitivity.passes_of_a_loss + racing * PASSES
        at_most = way.iterations_for(len(network.units), racing)
        events = Events(
            plan,
            measures.ranks,
            bars,
            at_most,
            started=options.started,
            on_iteration=on_iteration,
            on_probe=on_probe,
        )
        about = "about" if profile == "full" and algorithm == "paper" else "at most"
        measures.announce(f"{at_most} iterations", about, losses_ahead, work)
        measures.calibrate()
        if execution == "int8":
            network.configure(plan.configuration(plan.start))
            whole, others = network.integer_layers()
            bars.say(f"{len(whole)} layers run in int8; in float32 {', '.join(others) or 'none'}")
        bars.start_search(work)

        with _executed(network, execution, cache_mib):
            measure, sizes = events.telling(sensitivity), None
            if racing:
                assert isinstance(sensitivity, Sensitivity)
                sizes = arrange(sensitivity, measure, plan, batches, seed)
            trace = way.run(
                plan,
                measure,
                sensitivity.samples,
                race=Race() if racing else None,
                seed=seed,
                stop=measures.out_of_time,
                at_a_time=None if reconstruct is None else measures.ranks.count,
                sizes=sizes,
                agree=measures.ranks.first,
                on_iteration=lambda iteration: events.iteration(iteration, sensitivity.forward_equivalents),
            )
        if isinstance(sensitivity, Reconstructed):
            assert finish is not None
            in_the_end = sensitivity.finish(
                trace.best_choice, finish, journal=journal, progress=progress and measures.ranks.rank == 0
            )
            return _result(network, plan, trace, sensitivity, in_the_end, options.started)
        best = plan.configuration(trace.best_choice)
        changed = reparameterize(network, best, batches) or execution == "int8"
        losses_in_the_end = sensitivity.losses_of(network) if changed else None
    return _result(network, plan, trace, sensitivity, losses_in_the_end, options.started)


@contextmanager
def _executed(network: QuantizedNetwork, execution: Execution, cache_mib: float) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(network.keep_weights(int(cache_mib * MIB * WEIGHTS_SHARE)))
        if execution == "int8":
            stack.enter_context(network.integer_execution())
        yield


def _result(
    network: QuantizedNetwork,
    plan: Plan,
    trace: Trace,
    sensitivity: Measurement,
    in_the_end: Losses | None,
    started: float,
) -> Result:
    best = plan.configuration(trace.best_choice)
    return Result(
        bits=best,
        model=network.model,
        loss=trace.best_loss if in_the_end is None else float(in_the_end.mean()),
        standard_error=trace.best_standard_error if in_the_end is None else standard_error(in_the_end),
        loss_as_searched=trace.best_loss,
        bops=plan.table.bops(best),
        size_mib=plan.table.size_mib(best),
        limits=plan.limits,
        spending=plan.spending(best),
        history=tuple(map(plan.record, trace.iterations)),
        stopped=trace.stopped,
        cost_of_search=SearchCost(sensitivity.forward_equivalents, time.perf_counter() - started),
        costs=plan.table,
        recipe=network.recipe.name,
    )


def _check_int8(network: QuantizedNetwork) -> None:
    try:
        with network.integer_execution():
            pass
    except RuntimeError as error:
        raise ValueError(f"[search] execution='int8' is not possible here: {error}") from None


def _check_name(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"[search] {argument}={value!r} is not supported; give one of {allowed}")


def quantize(
    model: nn.Module,
    loader: Iterable[Any],
    bits: AnyBits | str | os.PathLike[str],
    *,
    units: UnitScheme = "layer",
    recipe: RecipeName | None = None,
    skip: Iterable[str] = (),
    calibration_samples: int = 1024,
    pool_batches: bool = False,
    loss: TaskLoss = kl_divergence,
    progress: bool = True,
) -> Result:
    """Quantize a network at a given configuration.

    bits: an int for all units, a (weight bits, activation bits) pair for all, or a dict of these by unit; 32 is float.
        Or the path of such a table: the bits.json or bits.csv of a saved result.
    The other arguments, and what is raised, are as for `ribs.search`.
    """
    started = time.perf_counter()
    if isinstance(bits, (str, os.PathLike)):
        bits = read_bits(bits)
    check_recipe(recipe)
    model = unwrap(model)
    batches = collect(model, loader, calibration_samples)
    network = prepare(model, batches[0], units, recipe=recipe, skip=skip)
    check_pooled(pool_batches, network.recipe)
    table = CostTable.of(network.trace, network.units, recipe=network.recipe.name)
    configuration = table.configuration(bits)
    with Bars(progress) as bars:
        widths = bit_widths(configuration.values())
        calibrate(network, batches, widths, pooled=pool_batches, progress=bars.calibration)
    sensitivity = Sensitivity(network, batches, [[configuration[name]] for name in table.units], loss)
    reparameterize(network, configuration, batches)
    losses = sensitivity.losses_of(network)
    return Result(
        bits=configuration,
        model=network.model,
        loss=float(losses.mean()),
        standard_error=standard_error(losses),
        loss_as_searched=float(losses.mean()),
        bops=table.bops(configuration),
        size_mib=table.size_mib(configuration),
        limits={},
        spending=(),
        history=(),
        stopped=False,
        cost_of_search=SearchCost(sensitivity.forward_equivalents, time.perf_counter() - started),
        costs=table,
        recipe=network.recipe.name,
    )
