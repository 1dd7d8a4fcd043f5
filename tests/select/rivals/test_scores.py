"""The numbers by which rivals choose, each against another way to get them."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import hessian
from torch.func import functional_call

import ribs
import settings
from ribs.quant.quantizer import code_range
from ribs.quant.reparameterize import scale_norms
from ribs.select.loss import kl_divergence
from ribs.select.rivals import feasible, fisher, greedy, hawq, ompq, random, sqnr, uniform, weight_error
from ribs.select.rivals.setting import best_by, best_by_weights, near_the_weights, nearest, weight_scores
from small import loader, network


def configured(given, changes):
    """The network with some units at given bits and the others in float."""
    given.in_float()
    for unit, bits in changes.items():
        given.network.set_bits(given.network.units[unit], bits)
    return given.network.model


@torch.no_grad()
def losses_of(given, loss, changes):
    model = network()
    outputs = [(inputs.call(model), inputs.call(configured(given, changes))) for inputs in given.inputs]
    return float(torch.cat([loss(*pair) for pair in outputs]).mean())


@pytest.mark.parametrize("loss", [None, sqnr.noise_over_signal])
def test_each_alone_with_the_others_in_float(loss):
    given = settings.setting(pins={"last": 4})
    table = given.alone(loss)
    for unit, options in enumerate(given.plan.candidates):
        for candidate, bits in enumerate(options):
            expected = losses_of(given, loss or kl_divergence, {unit: bits})
            assert table[unit, candidate] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(table[2, 1:]).all()


def test_noise_over_signal():
    reference, output = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    assert sqnr.noise_over_signal(reference, output).tolist() == [1 / 25, 0.0]
    pair = sqnr.noise_over_signal({"a": reference, "b": output}, {"a": output, "b": output})
    assert pair[0] == pytest.approx(1 / (25 + 18))


def test_weight_error_by_codes():
    given = settings.setting()
    scores = weight_scores(given, weight_error.squared_error)
    for unit, name, layer in given.layers():
        weight = dict(network().named_parameters())[f"{name}.weight"].detach().double()
        for candidate, bits in enumerate(settings.BITS):
            step = layer.weight_quantizer.step[candidate].double().reshape(-1, *[1] * (weight.dim() - 1))
            low, high = code_range(bits, symmetric=True)
            error = (weight - (weight / step).round().clamp(low, high) * step).square().sum()
            assert scores[unit, candidate] == pytest.approx(float(error), rel=1e-5)


def test_weight_error_is_that_of_weights_that_are_held():
    """Where a layer norm was scaled, those that are multiplied."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    with torch.no_grad():
        layer.norm1.weight.copy_(torch.logspace(-1, 0.5, 8))
    tokens = list(torch.randn(8, 5, 8).split(4))
    given = settings.setting(layer.eval(), data=tokens, loss=ribs.losses.Embedding())
    scale_norms(given.network)
    held = given.network.model.get_submodule("self_attn.in_proj_weight_linear0")
    scores = weight_scores(given, weight_error.squared_error)
    assert held.held is not None
    assert scores[0, -1] < 1e-4 * float(held.held.square().sum()) < scores[0, 0]


def test_hawq_traces_are_those_of_the_whole_hessian():
    """Many random vectors of signs, against the Hessian written out."""
    given = settings.setting(data=loader(1, 4))
    model, [inputs] = network(), given.inputs
    target = inputs.call(model).detach()

    def trace_of(name):
        weight = model.get_parameter(f"{name}.weight").detach()

        def loss(flat):
            weights = {f"{name}.weight": flat.reshape(weight.shape)}
            return kl_divergence(target, functional_call(model, weights, inputs.args)).mean()

        return float(torch.trace(hessian(loss, weight.flatten())))

    found = hawq.traces(given, probes=1500)
    for _, name, _ in given.layers():
        assert found[name] == pytest.approx(trace_of(name), rel=0.1)
    assert given.passes == 3 + 4 * 1500


def test_hawq_trace_is_exact_where_the_hessian_is_diagonal():
    """A loss with sum (y - y0)^2 of independent weights: every vector of signs gives the trace itself."""
    conv = torch.nn.Conv2d(3, 3, 1, groups=3, bias=False).eval()
    data = [torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(n)) for n in range(2)]

    def squares(reference, output):
        return (reference - output).double().square().flatten(1).sum(1)

    given = settings.setting(model=conv, data=data, loss=squares)
    expected = 2 * float(torch.cat(data).square().sum()) / 10
    assert hawq.traces(given, probes=1)[""] == pytest.approx(expected, rel=1e-5)


def test_orm_by_double_loop():
    given = settings.setting(model=settings.blocks())
    features = ompq.outputs(given)
    model, seen = settings.blocks(), {}
    for name in (layer.name for layer in given.network.trace.layers):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output.detach().clone()})
        )
    with torch.no_grad():
        model(torch.cat([inputs.args[0] for inputs in given.inputs]))
    ys = [(y.double().flatten(1) - y.double().flatten(1).mean(0)).numpy() for y in seen.values()]
    expected = np.array([[np.square(a.T @ b).sum() / _norms(a, b) for b in ys] for a in ys])
    orm = ompq.orthogonality(features)
    np.testing.assert_allclose(orm, expected, rtol=1e-4)
    assert (np.diag(orm) == pytest.approx(1.0)) and orm.min() < 0.9
    theta = [math.exp(-sum(orm[i, j] for j in range(len(ys)) if j != i)) for i in range(len(ys))]
    coefficients = np.array([np.mean(theta[i:]) for i in range(len(ys))])
    np.testing.assert_allclose(ompq.importances(orm), coefficients / coefficients.max(), rtol=1e-9)


def _norms(a, b):
    return np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)


def test_ompq_gives_bits_to_the_layers_of_most_importance():
    given = settings.setting(budget=None, size="4/4", activation_bits=8)
    scores = ompq.scores_of(given, np.array([1.0, 0.5, 0.25]))
    np.testing.assert_allclose(scores, -np.outer([1.0, 0.5, 0.25], settings.BITS))
    value = {c: sum(scores[i, k] for i, k in enumerate(c)) for c in settings.every(given.plan)}
    best = min(value[c] for c in value if feasible.fits(given.plan, c))
    assert value[best_by(given, scores)] == pytest.approx(best)


@pytest.mark.parametrize("model", [network, settings.blocks])
def test_fisher_by_gradients_of_single_samples(model):
    given = settings.setting(model=model(), bits=(2, 8), data=loader(2, 4))
    found = fisher.scores_of(given)
    expected = np.zeros_like(found)
    generator = given.generator()
    labels = [fisher.own_labels(inputs.call(model()).detach(), generator) for inputs in given.inputs]
    for unit, name, layer in given.layers():
        for inputs, classes in zip(given.inputs, labels, strict=True):
            for sample, label in zip(inputs.args[0], classes, strict=True):
                seen = []
                plain = model()
                plain.get_submodule(name).register_forward_hook(
                    lambda module, args, output, seen=seen: (
                        seen.extend([args[0].detach().clone(), output.clone()]) or output.add(seen_delta(output, seen))
                    )
                )
                loss = F.cross_entropy(plain(sample[None]), label[None])
                x, y, delta = seen
                [gradient] = torch.autograd.grad(loss, delta)
                for candidate, bits in enumerate((2, 8)):
                    layer.set_bits(bits, bits)
                    error = (layer(x) - y).detach()
                    expected[unit, candidate] += float((gradient * error).double().square().sum()) / given.samples
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert given.passes == 5


def seen_delta(output, seen):
    seen.append(torch.zeros_like(output, requires_grad=True))
    return seen[-1]


def test_fisher_wants_logits():
    with pytest.raises(TypeError, match=r"\[fisher\] the model's output is a \(4, 3, 1, 1\) tensor"):
        fisher.own_labels(torch.zeros(4, 3, 1, 1), torch.Generator())


def test_own_labels_come_as_often_as_the_network_believes_in_them():
    logits = torch.tensor([[0.0, math.log(3.0)]]).expand(4000, 2)
    share = fisher.own_labels(logits, torch.Generator().manual_seed(0)).double().mean()
    assert float(share) == pytest.approx(0.75, abs=0.03)


def test_greedy_walks_from_the_least_loss_on():
    given = settings.setting(bits=(2, 4, 8), budget="4/4")
    losses = np.array([[9.0, 1.0, 0.5], [8.0, 2.0, 0.1], [7.0, 3.0, 0.2]])
    order = [(0, 1), (1, 1), (2, 1), (2, 0), (1, 0), (0, 0)]  # of entries below 8 bits, by loss
    choice, steps = [2, 2, 2], iter(order)
    while not feasible.fits(given.plan, choice):
        unit, candidate = next(steps)
        choice[unit] = min(choice[unit], candidate)
    assert greedy.walk(given, losses) == tuple(choice)


@pytest.mark.parametrize("seed", range(20))
def test_greedy_ends_within_several_budgets(seed):
    """From both sides, an entry that is taken for one budget may stand in the way of another."""
    given = settings.setting(budget=("4.9/4.9", "5/5"), size=("4/4", "6/6"), bits=range(2, 9))
    losses = np.random.default_rng(seed).exponential(size=(3, 7))
    assert feasible.fits(given.plan, greedy.walk(given, losses))


@pytest.mark.parametrize(
    "bounds", [{"budget": "5/5", "size": "6/6"}, {"budget": ("4/4", "5/5"), "size": ("3/3", None)}]
)
def test_random_configurations_use_the_budget(bounds):
    given = settings.setting(bits=range(2, 9), **bounds)
    drawn = {random.draw(given, np.random.default_rng(seed)) for seed in range(40)}
    assert len(drawn) > 3
    for choice in drawn:
        assert feasible.fits(given.plan, choice)
        for unit, candidate in itertools.product(range(3), range(7)):
            raised = (*choice[:unit], candidate, *choice[unit + 1 :])
            assert candidate <= choice[unit] or not feasible.fits(given.plan, raised)


def test_lowered_configurations_fit_and_lose_no_more_than_needed():
    given = settings.setting(budget="3/3")
    for choice in settings.every(given.plan):
        lowered = feasible.lowered(given.plan, choice, given.cheapest, np.random.default_rng(0))
        assert feasible.fits(given.plan, lowered)
        assert all(a <= b for a, b in zip(lowered, choice, strict=True))
        assert lowered == choice or not feasible.fits(given.plan, choice)


def test_lowered_configurations_fit_between_bounds():
    given = settings.setting(budget=("4/4", "5/5"), size=("4/4", "6/6"))
    for choice in settings.every(given.plan):
        lowered = feasible.lowered(given.plan, choice, given.cheapest, np.random.default_rng(0))
        assert feasible.fits(given.plan, lowered)
        assert lowered == choice or not feasible.fits(given.plan, choice)


def test_uniform_is_the_most_that_fits():
    assert uniform.choose(settings.setting(budget="7/7")) == (1, 1, 1)
    assert uniform.choose(settings.setting(budget="8/8")) == (2, 2, 2)
    assert uniform.choose(settings.setting(budget=200_000, pins={"0": 8, "2": 4})) == (0, 0, 1)
    assert uniform.choose(settings.setting(budget=None, size="7/7", activation_bits=3)) == (1, 1, 1)
    assert uniform.choose(settings.setting(budget=("3/3", "7/7"))) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"\[uniform\] no pair of bits"):
        uniform.choose(settings.setting(budget=("5/5", "7/7")))
    with pytest.raises(ValueError, match=r"\[uniform\] no pair of bits"):
        uniform.choose(settings.setting(allowed={"0": (2, 3), "2": (4, 8)}, budget="8/8", bits=(2, 3, 4, 8)))


def test_uniform_matmuls_have_the_bits_of_activations():
    given = settings.setting(model=settings.vit(), bits=(4, 8), activation_bits=(4, 8), budget="8/8")
    found = [given.plan.configuration(choice) for choice in feasible.uniform(given.plan)]
    weighted = {unit.name: given.plan.table.has_weights(unit) for unit in given.network.units}
    assert False in weighted.values()
    assert found == [{name: (w if has else a, a) for name, has in weighted.items()} for w in (4, 8) for a in (4, 8)]


def test_units_without_scores_take_the_uniform_bits():
    given = settings.setting()
    scores = np.array([[4.0, 2.0, 1.0], [0.0, 0.0, 0.0], [9.0, 3.0, 1.0]])
    assert best_by(given, scores)[1] == 1


def test_weights_alone_keep_the_nearest_activations():
    given = settings.setting()
    given.plan.candidates[0] = [(4, 2), (4, 3), (4, 5), (2, 2)]
    given.plan.candidates[1] = [(4, 8), (2, 8)]
    kept = near_the_weights(given.plan, np.zeros([3, 4]))
    assert np.isfinite(kept[0]).tolist() == [False, False, True, True]
    assert np.isfinite(kept[1, :2]).all()
    assert nearest([(4, 8), (2, 8), (4, 2), (4, 6)]) == [1, 3]


def total(scores, choice):
    return sum(scores[unit, candidate] for unit, candidate in enumerate(choice))


@pytest.mark.parametrize("size", [None, ("7/7", None)])
def test_weights_alone_take_other_activations_where_the_nearest_do_not_fit(size):
    given = settings.setting(budget="5/5", size=size, activation_bits=(2, 4, 8))
    plan, generator = given.plan, np.random.default_rng(0)
    of_weights = -np.cumsum(generator.exponential(size=(3, 3)), axis=1)
    scores = of_weights.repeat(3, axis=1)  # candidates are 2/2, 2/4, 2/8, 4/2, ...
    fitting = [choice for choice in settings.every(plan) if feasible.fits(plan, choice)]
    near = np.isfinite(near_the_weights(plan, scores))
    nearest_ones = [choice for choice in fitting if all(near[unit, k] for unit, k in enumerate(choice))]
    assert bool(nearest_ones) == (size is None)
    found = best_by_weights(given, scores)
    assert found in fitting
    least = min(total(scores, choice) for choice in nearest_ones or fitting)
    assert total(scores, found) == pytest.approx(least)
    distances = np.array([[abs(w - a) for w, a in options] for options in plan.candidates])
    if size is not None:
        equals = [choice for choice in fitting if total(scores, choice) == pytest.approx(least)]
        assert total(distances, found) == min(total(distances, choice) for choice in equals)


def test_units_without_scores_give_way_where_uniform_bits_do_not_fit():
    """Beside two units at 8 bits, all that their scores leave them."""
    given = settings.setting(budget=185_000)
    assert uniform.choose(given) == (1, 1, 1)
    scores = np.array([[np.nan, np.nan, 1.0], [0.0, 0.0, 0.0], [np.nan, np.nan, 1.0]])
    found = best_by(given, scores)
    assert found == (2, 0, 2) and feasible.fits(given.plan, found)
    assert not feasible.fits(given.plan, (2, 1, 2))


def test_only_excluded_candidates_within_the_budget_are_no_infeasible_budget():
    given = settings.setting(budget="2/2")
    with pytest.raises(ValueError, match=r"\[rivals\] candidates whose score is NaN or Inf are excluded") as error:
        best_by(given, np.array([[np.inf, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    assert not isinstance(error.value, ribs.InfeasibleBudgetError)
