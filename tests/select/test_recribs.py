"""Searches that reconstruct every configuration: what is measured, against `ribs.reconstruct` from the float model."""

import math
import random

import pytest
import torch
from torch import nn

import ribs
from ribs.quant.inputs import collect
from ribs.quant.network import calibrate, prepare
from ribs.select.configurations import beginnings
from ribs.select.errors import JournalError
from ribs.select.loss import kl_divergence
from ribs.select.reconstructed import Reconstructed
from ribs.select.search import repeated_ilp
from small import content, counting, journaled, loader, network, search
from test_ranks import together

FACTS = {"iterations": 6, "weight_lr": 0.2}
METHODS = {
    "adaround": ribs.AdaRound(**FACTS),
    "brecq": ribs.BRECQ(**FACTS, activation_lr=0.01),
    "qdrop": ribs.QDrop(**FACTS, activation_lr=0.01),
}
QDROP = METHODS["qdrop"]
BITS = ((2, 2), (4, 4))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class Skip(nn.Module):
    """Two blocks, the first of which is read again after the second, and a layer that is no piece by itself."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(1, 4, 3, stride=2), Block(), Block()
        self.pair, self.head = nn.Linear(36, 4), nn.Linear(4, 5)

    def forward(self, x):
        first = self.first(self.stem(x))
        x = (self.second(first) + first).flatten(1)
        return self.head(self.pair(x) + self.pair(-x / 2))


def skip():
    torch.manual_seed(1)
    return Skip().eval()


def measured(build, method, units, choices, **options):
    batches = collect(build(), loader(2, 12), 24)
    prepared = prepare(build(), batches[0], units)
    losses = Reconstructed(prepared, batches, [BITS] * len(prepared.units), kl_divergence, method, **options)
    calibrate(prepared, batches, (2, 4))
    names = [unit.name for unit in prepared.units]
    found = {}
    for reference, *others in choices(len(names)):
        rows = losses.measure([reference, *others], 0)
        found |= {choice: row.mean() for choice, row in zip([reference, *others], rows, strict=True)}
    return names, found


def there_and_back(units):
    """A reference, changes of one unit and of several, another reference, and the first one's changes again."""
    draw = random.Random(0)
    first = tuple(draw.randrange(2) for _ in range(units))
    second = (first[0], *(1 - k for k in first[1:]))
    changes = [tuple(k ^ (i == unit) for i, k in enumerate(first)) for unit in range(units)]
    draw.shuffle(changes)
    return [[first, *changes[:2], second], [second, first, *changes[2:]], [first, *changes]]


def same_as_reconstruct(build, method, units, names, found):
    for choice, loss in found.items():
        bits = dict(zip(names, (BITS[k] for k in choice), strict=True))
        alone = ribs.reconstruct(build(), loader(2, 12), bits, method=method, units=units, progress=False)
        assert loss == pytest.approx(alone.loss, rel=1e-12), bits


@pytest.mark.parametrize("name", METHODS)
def test_each_loss_is_that_of_a_reconstruction_of_its_own(name):
    names, found = measured(network, METHODS[name], "layer", there_and_back)
    assert len(found) == 5
    same_as_reconstruct(network, METHODS[name], "layer", names, found)


@pytest.mark.filterwarnings("ignore:.*'pair' is left as it is")
@pytest.mark.parametrize(
    "units", ["layer", "block", {"ends": ["stem", "head"], "rest": ["first.*", "second.*", "pair"]}]
)
def test_whatever_the_units_and_the_topology(units):
    def few(count):
        return [choices[:3] for choices in there_and_back(count)]

    names, found = measured(skip, QDROP, units, few)
    same_as_reconstruct(skip, QDROP, units, names, found)


def test_nothing_stored_gives_the_same():
    assert measured(network, QDROP, "layer", there_and_back, cache_mib=0) == measured(
        network, QDROP, "layer", there_and_back
    )


def test_pieces_in_front_are_not_reconstructed_again(monkeypatch):
    steps = []
    step = ribs.recon.optimise.Optimisation.step
    monkeypatch.setattr("ribs.recon.optimise.Optimisation.step", lambda *args: steps.append(1) or step(*args))
    measured(
        network, QDROP, "layer", lambda units: [[(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], [(0, 1, 0), (0, 1, 1)]]
    )
    assert len(steps) == 6 * (3 + 3 + 2 + 1 + 1)


@torch.no_grad()
def test_alone_a_unit_is_put_among_those_of_the_reference():
    """Its module, of a network that is reconstructed at the changed bits, in that of the reference."""
    batches = collect(network(), loader(2, 12), 24)
    prepared = prepare(network(), batches[0], "layer")
    losses = Reconstructed(prepared, batches, [BITS] * 3, kl_divergence, QDROP)
    calibrate(prepared, batches, (2, 4))
    for unit, choice in enumerate([(0, 1, 1), (1, 0, 1), (1, 1, 0)]):
        found = losses.measure_alone((1, 1, 1), choice)
        whole, changed = (
            ribs.reconstruct(
                network(), loader(2, 12), {"0": BITS[a], "2": BITS[b], "5": BITS[c]}, method=QDROP, progress=False
            ).model
            for a, b, c in ((1, 1, 1), choice)
        )
        place = (0, 2, 5)[unit]
        whole[place] = changed[place]
        expected = torch.cat([kl_divergence(network()(x), whole(x)) for x in loader(2, 12)])
        torch.testing.assert_close(torch.from_numpy(found), expected.double(), rtol=1e-4, atol=1e-7)
        following = losses.measure([choice], 0)[0]
        assert (found == following).all() == (unit == 2)  # nothing follows the last


@pytest.mark.parametrize("name", METHODS)
def test_a_share_of_all_iterations_is_all_of_them(name):
    """What is done once for each bit-width is then nothing, and variables begin as they do anyway."""
    plain = measured(network, METHODS[name], "layer", there_and_back)
    assert measured(network, METHODS[name], "layer", there_and_back, share=1.0) == plain


def test_with_a_share_losses_are_still_those_of_the_configuration_alone(monkeypatch):
    steps = []
    step = ribs.recon.optimise.Optimisation.step
    monkeypatch.setattr("ribs.recon.optimise.Optimisation.step", lambda *args: steps.append(1) or step(*args))
    _, found = measured(network, QDROP, "layer", there_and_back, share=0.5)
    counted = len(steps)
    for choice, loss in found.items():
        steps.clear()
        _, alone = measured(network, QDROP, "layer", lambda units, own=choice: [[own]], share=0.5)
        assert alone[choice] == loss
        assert len(steps) == 6 * 3 * len(set(choice)) + 3 * 3
    # Both bit-widths once, and half of six for each piece that changes.
    assert counted <= 6 * 3 * 2 + 3 * 3 * len(found)


def test_weights_and_activations_begin_at_their_own_bits():
    assert beginnings([(2, 2), (4, 4)]) == {(0, 2): (2, 2), (1, 2): (2, 2), (0, 4): (4, 4), (1, 4): (4, 4)}
    apart = beginnings([(w, a) for w in (2, 4) for a in (4, 8)])
    assert apart == {(0, 2): (2, 4), (0, 4): (4, 4), (1, 4): (4, 4), (1, 8): (4, 8)}
    options = {"activation_bits": (4, 8), "budget": "4/4", "iterations": 1}
    assert math.isfinite(recribs(profile="race", **options).loss)


def recribs(**options):
    return search(
        **{"data": loader(2, 12), "bits": (2, 4), "budget": "3/3", "reconstruct": QDROP, "finish": QDROP} | options
    )


@pytest.fixture(scope="module", params=["paper", "adaptive"])
def done(request):
    return request.param, recribs(algorithm=request.param)


def test_the_configuration_found_is_the_best_one_and_reconstructed(done):
    """Of all within the budget, each reconstructed by itself; three units of two candidates are few enough."""
    _, result = done
    costs, losses = result.costs, {}
    for number in range(8):
        bits = dict(zip(costs.units, (BITS[number >> i & 1] for i in range(3)), strict=True))
        if costs.bops(bits) <= result.limits["bops"]:
            alone = ribs.reconstruct(network(), loader(2, 12), bits, method=QDROP, progress=False)
            losses[alone.loss] = bits
    assert result.bits == losses[min(losses)]
    assert result.loss == result.loss_as_searched == pytest.approx(min(losses), rel=1e-12)


def test_it_is_reconstructed_in_the_end_from_its_float_weights(done):
    algorithm, result = done
    longer = ribs.QDrop(**FACTS | {"iterations": 12})
    found = recribs(algorithm=algorithm, finish=longer)
    alone = ribs.reconstruct(network(), loader(2, 12), result.bits, method=longer, progress=False)
    assert found.bits == result.bits and found.loss_as_searched == result.loss
    assert found.loss == pytest.approx(alone.loss, rel=1e-12)
    same = zip(found.model.state_dict().values(), alone.model.state_dict().values(), strict=False)
    assert torch.equal(found.model[0].weight, alone.model[0].weight) and all(a.shape == b.shape for a, b in same)


def test_most_iterations_done_once_lead_to_a_loss_within_the_error(done):
    algorithm, result = done
    found = recribs(algorithm=algorithm, profile="race")
    assert found.cost_of_search.forward_equivalents != result.cost_of_search.forward_equivalents
    assert abs(found.loss - result.loss) <= 2 * math.hypot(found.standard_error, result.standard_error)


def test_a_killed_search_loses_one_configuration(done, tmp_path):
    algorithm, result = done
    calls = []
    recribs(algorithm=algorithm, loss=counting(calls))
    for at in range(3, len(calls) - 2, 7):
        folder, again = tmp_path / str(at), []
        with pytest.raises(KeyboardInterrupt):
            recribs(algorithm=algorithm, journal=folder, loss=counting([], stop_at=at))
        kept = len(journaled(folder))
        assert kept == (at - 2) // 2  # two calls for the float network, and two batches each
        assert content(recribs(algorithm=algorithm, journal=folder, loss=counting(again))) == content(result)
        assert len(again) == len(calls) - 2 * kept


def test_processes_find_the_same_together(done, tmp_path):
    algorithm, result = done
    folder = tmp_path / "journal"
    assert (
        together(tmp_path, 2, lambda rank: content(recribs(algorithm=algorithm, journal=folder)))
        == [content(result)] * 2
    )
    assert len(journaled(folder)) == len(set(journaled(folder)))
    assert all(journaled(folder, rank) for rank in range(2))


def test_a_journal_of_another_reconstruction_is_refused(tmp_path):
    recribs(journal=tmp_path)
    others = [{"reconstruct": each, "finish": None} for each in (None, ribs.QDrop(**FACTS), METHODS["brecq"])]
    for other in (*others, {"profile": "race"}):
        with pytest.raises(JournalError, match="reconstruction"):
            recribs(journal=tmp_path, **other)


@pytest.mark.parametrize("algorithm", ["paper", "adaptive"])
def test_out_of_time_it_returns_what_it_has(algorithm):
    """Algorithm 1 still comes to a configuration within the budget; the adaptive search begins with one."""
    found = recribs(algorithm=algorithm, max_seconds=0)
    assert found.stopped and found.bops <= found.limits["bops"] and math.isfinite(found.loss)
    assert len(found.history) == (1 if algorithm == "paper" else 0)


def test_between_candidates_it_looks_whether_to_stop():
    """Four units of three candidates; the first that lie within the budget are reached after the first iteration."""
    asked, looks = [], []

    def measure(choices, shard):
        asked.append(len(choices) - 1)
        return [[float(sum((3 - k) * (i + 1) for i, k in enumerate(choice)))] * 2 for choice in choices]

    def stop():
        looks.append(len(asked))
        return len(looks) == 3  # after the first iteration; after two candidates of the second; after four

    costs = [[(k,) for k in range(3)]] * 4
    options = {"measure": measure, "shards": [2], "at_a_time": 2, "stop": stop, "update_sizes": [4, 4, 4]}
    trace = repeated_ilp((2, 2, 2, 2), costs, [5], **options)
    assert trace.stopped and len(trace.iterations) == 2
    first, second = trace.iterations
    assert first.standing.all() and (first.samples == 2).all()
    # Its own, two that the first iteration measured, and two times two.
    assert (second.samples == 2).sum() == 4 + 2 + 2 * 2 and (second.standing == (second.samples == 2)).all()
    assert sum(trace.best_choice) <= 5


REFUSED = [
    ({"reconstruct": "qdrop"}, TypeError, "reconstruct='qdrop' is not supported; give a ribs.AdaRound"),
    ({"finish": 100}, TypeError, "finish=100 is not supported"),
    ({"reconstruct": None}, ValueError, "finish is for a search with reconstruct"),
    ({"reconstruct": ribs.BRECQ(fisher=True)}, ValueError, "fisher=True is not supported"),
    ({"execution": "int8"}, ValueError, "execution='int8' is not supported with reconstruct"),
    ({"recipe": "repq+"}, ValueError, "reconstruct is not supported with recipe='repq\\+'"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda value: str(value)[:24])
def test_refuses(options, error, message):
    with pytest.raises(error, match=r"\[search\] .*" + message):
        recribs(**options)
