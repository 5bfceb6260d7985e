"""`compare` against a slow float64 loop over conditions, layers and tokens with whole softmaxes."""

import itertools

import pytest
import torch

from nbhelpers.measures import lens_conditions
from nbhelpers.models.unembedding import Unembedding
from tests.grafted import slow_readings

WIDTH, TOKENS, LAYERS = 16, 7, 4
TEACHER, BASELINE = 0, [0, 1, 1, 0]


def rms(h):
    return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def unembedding(vocabulary=150, *, size=0.4, softcap=None, seed=0):
    """A random unembedding whose ids are neither consecutive nor in order: part of the vocabulary is masked."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randperm(3 * vocabulary, generator=g)[:vocabulary]
    return Unembedding(rms, size * torch.randn(vocabulary, WIDTH, generator=g), ids, softcap)


def streams(seed=1, size=1.0):
    """Residuals of four conditions; the third is the second up to layer 1, the fourth the first up to layer 2."""
    g = torch.Generator().manual_seed(seed)
    stacks = [[size * torch.randn(TOKENS, WIDTH, generator=g) for _ in range(LAYERS)] for _ in range(4)]
    stacks[2][:2], stacks[3][:3] = stacks[1][:2], stacks[0][:3]
    return stacks


def draw_targets(of, seed=2):
    g = torch.Generator().manual_seed(seed)
    return of.token_ids[torch.randint(len(of.token_ids), (TOKENS,), generator=g)]


def slow_log_probabilities(h, of):
    z = rms(h.double()) @ of.weight.double().T
    z = of.softcap * torch.tanh(z / of.softcap) if of.softcap else z
    return z.log_softmax(-1)


def slow(stacks, of, targets):
    """{read-out: [condition, layer, token]}, token by token."""
    logp = [torch.stack([slow_log_probabilities(h, of) for h in stack]) for stack in stacks]
    found = []
    for condition, own in enumerate(logp):
        base, teacher = logp[BASELINE[condition]], logp[TEACHER]
        rows = [of.token_ids.tolist().index(int(target)) for target in targets]
        each = [slow_readings(own[:, t], base[:, t], teacher[:, t], row) for t, row in enumerate(rows)]
        found.append({name: torch.stack([one[name] for one in each], dim=-1) for name in each[0]})
    whole = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    return whole | {"top1": of.token_ids[whole["top1"]]}


def compare(stacks, of, targets, **options):
    return lens_conditions.compare(stacks, of, targets, teacher=TEACHER, baseline=BASELINE, **options)


@pytest.mark.parametrize("vocabulary", [1, 50, 64, 150, 1000])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_reading_equals_the_slow_loop(vocabulary, softcap):
    of, stacks = unembedding(vocabulary, softcap=softcap), streams()
    targets = draw_targets(of)
    found, expected = compare(stacks, of, targets), slow(stacks, of, targets)
    assert set(found) == set(expected) == set(lens_conditions.READOUTS)
    for name, values in found.items():
        assert values.shape == (4, LAYERS, TOKENS)
        if name in lens_conditions.INTEGERS:
            assert torch.equal(values, expected[name]), name
        else:
            torch.testing.assert_close(values, expected[name].float(), rtol=2e-5, atol=2e-6)


def slow_overlap(stacks, of, condition, layer, token, k):
    """The Jaccard index of two Python sets of the k tokens with the largest logits."""
    rows = (slow_log_probabilities(stacks[i][layer], of)[token] for i in (condition, BASELINE[condition]))
    one, other = ({*row.argsort(descending=True)[:k].tolist()} for row in rows)
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("vocabulary", [12, 150])
@pytest.mark.parametrize("cells", [None, 1, 3 * 8 * 150])
def test_overlaps_of_the_best_tokens_by_sets(vocabulary, cells):
    of, stacks = unembedding(vocabulary), streams()
    targets, k = draw_targets(of), min(20, vocabulary)
    plain = compare(stacks, of, targets, cells=cells)
    found = compare(stacks, of, targets, cells=cells, candidates=([1, 2, 3], [1, 2, 3]))
    overlap = found.pop(lens_conditions.OVERLAP)
    for name, values in plain.items():
        assert torch.equal(found[name], values), name
    assert overlap[0].isnan().all() and overlap[:, 0].isnan().all()
    for condition, layer, token in itertools.product([1, 2, 3], [1, 2, 3], range(TOKENS)):
        wanted = slow_overlap(stacks, of, condition, layer, token, k)
        assert float(overlap[condition, layer, token]) == pytest.approx(wanted)
    # A baseline, and what is shared with it.
    assert (overlap[1, 1:] == 1).all() and (overlap[2, 1] == 1).all()
    assert vocabulary < 20 or (overlap[2, 2:] < 1).all()


def test_overlaps_of_some_layers_and_no_condition():
    of, stacks = unembedding(), streams()
    targets = draw_targets(of)
    whole = compare(stacks, of, targets, candidates=([2, 3], [2, 3]))[lens_conditions.OVERLAP]
    part = compare(stacks, of, targets, layers=[1, 3], candidates=([2, 3], [2, 3]))[lens_conditions.OVERLAP]
    assert torch.equal(part[2:, 1], whole[2:, 3]) and part[:, 0].isnan().all()
    assert compare(stacks, of, targets, candidates=([], [2, 3]))[lens_conditions.OVERLAP].isnan().all()


def test_peaked_distributions_are_not_clipped():
    """Logits of hundreds: divergences far above 27.6 nats, where a log(p + eps) would stop."""
    of, stacks = unembedding(size=40.0), streams()
    targets = draw_targets(of)
    found, expected = compare(stacks, of, targets), slow(stacks, of, targets)
    assert expected["kl_layer_final"].max() > 200 and expected["target_log_probability"].min() < -200
    for name in lens_conditions.READOUTS:
        if name not in lens_conditions.INTEGERS:
            torch.testing.assert_close(found[name], expected[name].float(), rtol=1e-4, atol=2e-3)


def test_identities():
    of, stacks = unembedding(), streams()
    found = compare(stacks, of, draw_targets(of))
    for name in lens_conditions.DIVERGENCES:
        assert (found[name] >= 0).all()
    for name in ("kl_layer_final", "kl_final_layer"):
        assert (found[name][:, -1] == 0).all() and (found[name][:, :-1] > 0).all()
    for name in ("kl_layer_teacher", "kl_teacher_layer", "js_teacher"):
        assert (found[name][TEACHER] == 0).all() and (found[name][3, :3] == 0).all()
        assert (found[name][1] > 0).all()
    assert (found["js_teacher"] <= 0.6931473).all()
    assert torch.equal(found["kl_layer_baseline_final"][:2], found["kl_layer_final"][:2])
    assert torch.equal(found["kl_layer_teacher_final"][0], found["kl_layer_final"][0])
    assert ((found["target_rank"] >= 1) & (found["target_rank"] <= len(of.weight))).all()


def test_tiles_change_nothing():
    of, stacks = unembedding(), streams()
    targets = draw_targets(of)
    whole, layers = compare(stacks, of, targets), compare(stacks, of, targets, layers=[1, 3])
    for cells in (1, 8 * 150, 3 * 8 * 150):
        part = compare(stacks, of, targets, cells=cells)
        for name, values in whole.items():
            torch.testing.assert_close(part[name], values, rtol=1e-5, atol=1e-6)
    for name, values in whole.items():
        torch.testing.assert_close(layers[name], values[:, [1, 3]], rtol=1e-5, atol=1e-6)


def test_what_conditions_share_is_read_once():
    read = []

    def counted(h):
        read.append(h.shape[:-1].numel())
        return rms(h)

    of, stacks = unembedding(), streams()
    counting = Unembedding(counted, of.weight, of.token_ids)
    compare(stacks, counting, draw_targets(of))
    # Four last layers; below, two at each of layers 0 and 1, and three at layer 2.
    assert sum(read) == (4 + 2 + 2 + 3) * TOKENS


def test_distinct_residuals_with_the_teachers_first():
    a, b, c = (torch.zeros(1) for _ in range(3))
    assert lens_conditions.distinct([[a, b], [c, b], [a, c]], [0, 1], teacher=1) == [
        (0, 0, [1]), (0, 0, [0, 2]), (1, 1, [0, 1]), (1, 1, [2])
    ]  # fmt: skip
    assert lens_conditions.distinct([[a, b], [c, b]], [1], teacher=0) == [(0, 1, [0, 1])]


def test_ties_and_ranks_by_hand():
    """Logits 2, 2, 1, 2 at ids 7, 3, 5, 1: the first row of a tie leads, and a tied target is nobody's better."""
    of = Unembedding(lambda h: h, torch.tensor([[2.0], [2.0], [1.0], [2.0]]), torch.tensor([7, 3, 5, 1]))
    one = [[torch.ones(4, 1)]]
    found = lens_conditions.compare(one, of, torch.tensor([7, 3, 5, 1]), teacher=0, baseline=[0])
    assert found["top1"][0, 0].tolist() == [7, 7, 7, 7]
    assert found["target_rank"][0, 0].tolist() == [1, 1, 4, 1]


def test_half_precision_models_are_read_in_full():
    of, stacks = unembedding(), streams()
    half = Unembedding(rms, of.weight.bfloat16(), of.token_ids)
    states, targets = [[h.bfloat16() for h in stack] for stack in stacks], draw_targets(of)
    found = compare(states, half, targets)

    # The norm rounds to bfloat16; from there on nothing does.
    def whole(h):
        return rms(h.bfloat16()).to(h.dtype)

    logp = (whole(states[1][0].float()).double() @ half.weight.double().T).log_softmax(-1)
    torch.testing.assert_close(
        found["entropy"][1, 0], -(logp.exp() * logp).sum(-1).float(), rtol=1e-4, atol=1e-5
    )


def test_targets_outside_the_real_vocabulary():
    of = unembedding()
    masked = next(i for i in range(450) if i not in set(of.token_ids.tolist()))
    with pytest.raises(ValueError, match=rf"The tokens \[{masked}\] are not in the real vocabulary"):
        compare(streams(), of, torch.full((TOKENS,), masked))
    assert torch.equal(of.token_ids[of.rows(of.token_ids[5:9])], of.token_ids[5:9])


def test_tokens_read_together_stay_within_the_cells():
    assert lens_conditions.tile_rows(1000, 8, 10_000, 80_000) == 10  # what is allowed
    assert lens_conditions.tile_rows(100, 8, 10_000, 1 << 30) == 5242  # what a cache holds
    assert lens_conditions.tile_rows(1 << 20, 8, 10_000, 1 << 40) == 64  # what fills a product
    assert (
        lens_conditions.tile_rows(1 << 20, 8, 5, 1 << 40) == 5
        and lens_conditions.tile_rows(1 << 20, 8, 5, 1) == 1
    )


def test_tiles_fit_a_cache_on_a_cpu_and_the_memory_on_a_gpu():
    assert lens_conditions.tile_rows(262_144, 18, 4096, 1 << 23) == 1
    assert lens_conditions.tile_rows(262_144, 18, 4096, 1 << 29, cached=False) == (1 << 29) // (18 * 262_144)
    assert lens_conditions.tile_rows(1000, 8, 300, 1 << 29, cached=False) == 300
    assert lens_conditions.cells_for(torch.device("cpu")) == lens_conditions.CELLS
