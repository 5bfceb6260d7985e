"""Grafts by row equal a module swap, one condition at a time, on all architectures; controls do what they say."""

from contextlib import contextmanager

import pytest
import torch

from nbhelpers.core import depths
from nbhelpers.measures.arms import Arm, row_grafts
from nbhelpers.models import decoding, prompts
from nbhelpers.models.decoding import decode
from nbhelpers.models.edits import InterventionError, edited, graft, scramble
from nbhelpers.models.forward import forward
from nbhelpers.models.generation import generate
from nbhelpers.models.row_edits import RowEdit, applied, block_outputs
from nbhelpers.models.row_grafts import RowGraft, Source
from tests import shapes
from tests.models.test_interventions import batch, families, logits, pair

N_NEW = 14
EVERY = pytest.mark.parametrize("name", list(shapes.SUPPORTED))


def blocks(decoder):
    return decoder.stack._module.layers


def arms(host, n_layers):
    """The host as it is, then the early, mid and late graft."""
    spans = depths.windows(n_layers).items()
    return [
        Arm("plain", host=host),
        *(Arm(name, host=host, change="graft", layers=tuple(s)) for name, s in spans),
    ]


@contextmanager
def swapped(host, donor, layers):
    """The donor's MLP modules in place of the host's."""
    own = {layer: blocks(host)[layer].mlp for layer in layers}
    for layer in layers:
        blocks(host)[layer].mlp = blocks(donor)[layer].mlp
    try:
        yield
    finally:
        for layer, mlp in own.items():
            blocks(host)[layer].mlp = mlp


def read(decoder, n=5):
    return prompts.render(decoder, prompts.load_prompts("pocket/prompts.jsonl", n, seed=3))


def routed(both, conditions, rows, **options):
    """What every condition writes after every row, [condition][row], from one batch."""
    host = getattr(both, conditions[0].host)
    index = torch.arange(len(conditions)).repeat_interleave(len(rows))
    grafts = [one.of(index) for one in row_grafts(conditions, both)]
    made = decode(host, rows * len(conditions), grafts, max_new_tokens=N_NEW, **options).continuations
    return [made[start : start + len(rows)] for start in range(0, len(made), len(rows))]


def check_equals_swaps(both, host_name):
    host, donor = (getattr(both, name) for name in ((host_name, {"pt": "it", "it": "pt"}[host_name])))
    conditions, rows = arms(host_name, both.n_layers), read(host)
    wanted = []
    for arm in conditions:
        with swapped(host, donor, arm.layers):
            wanted.append([decode(host, [row], max_new_tokens=N_NEW).continuations[0] for row in rows])
    assert routed(both, conditions, rows) == wanted
    assert routed(both, conditions, rows, batch_size=7) == wanted
    return wanted


@families
@pytest.mark.parametrize("host", ("pt", "it"))
def test_conditions_of_one_batch_equal_module_swaps_of_single_rows(family, host):
    wanted = check_equals_swaps(pair(family), host)
    assert any(one != wanted[0] for one in wanted[1:]), "no graft changed anything"


@EVERY
def test_other_architectures_too(name):
    check_equals_swaps(shapes.pair(name), "pt")


@families
def test_a_graft_by_row_equals_the_one_of_a_trace(family):
    both = pair(family)
    late = tuple(depths.windows(both.n_layers)["late"])
    rows = read(both.pt)
    (made,) = routed(both, [Arm("late", host="pt", change="graft", layers=late)], rows)
    assert made == generate(edited(both.pt, graft(both.it, late)), rows, max_new_tokens=N_NEW)


@families
def test_the_host_is_left_as_it_was(family):
    both = pair(family)
    before = {name: module.__dict__.keys() for name, module in both.pt.module.named_modules()}
    routed(both, arms("pt", both.n_layers), read(both.pt, 1))
    with (
        pytest.raises(RuntimeError, match="stop"),
        applied(both.pt, row_grafts(arms("pt", both.n_layers), both), 4),
    ):
        raise RuntimeError("stop")
    assert {name: module.__dict__.keys() for name, module in both.pt.module.named_modules()} == before


def outputs(decoder, given):
    """What the last block returns at the measured positions, outside a trace, [position, d]."""
    (last,) = block_outputs(decoder, given.input_ids, given.attention_mask, [decoder.n_layers - 1])
    return (last[0] if isinstance(last, tuple) else last)[given.where]


@families
def test_its_own_mlps_change_nothing_and_a_scramble_is_that_of_a_trace(family):
    both, given = pair(family), batch(rows=3, padding=(0, 7, 2))
    layers, plain = (2, 5, 9), outputs(both.pt, given)
    own = [Arm("self", host="pt", change="self", layers=layers)] * 3
    with applied(both.pt, row_grafts(own, both), 3):
        assert torch.equal(outputs(both.pt, given), plain)
    one = Arm("scrambled", host="pt", change="scrambled", layers=layers)
    with applied(both.pt, row_grafts([one, Arm("plain", host="pt"), one], both), 3):
        found = outputs(both.pt, given)
    wanted = forward(both.pt, given, edits=scramble(both.it, layers)).residual[-1]
    grafted = torch.as_tensor(given.row_of_step) != 1
    assert torch.allclose(found[grafted], wanted[grafted], atol=1e-3)
    assert torch.allclose(found[~grafted], plain[~grafted], atol=1e-3)
    assert not torch.allclose(wanted, plain, atol=0.05)


def test_a_scrambled_change_has_the_donor_s_size():
    both = pair("gemma")
    (one,) = row_grafts([Arm("scrambled", host="pt", change="scrambled", layers=(4,))], both)
    host, donor = blocks(both.pt)[4].mlp, blocks(both.it)[4].mlp
    x = torch.randn(1, 5, both.pt.config.hidden_size, generator=torch.Generator().manual_seed(0))
    change, theirs = one.output(x, host) - host(x), donor(x) - host(x)
    assert torch.allclose(change.norm(dim=-1), theirs.norm(dim=-1), rtol=1e-5)
    cosine = torch.cosine_similarity(change, theirs, dim=-1)
    assert cosine.abs().max() < 0.5


def test_permuted_layers_come_from_the_same_window_and_none_keeps_its_place():
    both = pair("llama")
    grafts = row_grafts([Arm("permuted", host="pt", change="permuted", layers=(7, 8, 9, 10))], both)
    donors = [blocks(both.it)[i].mlp for i in (7, 8, 9, 10)]
    taken = [donors.index(one.sources[0].donor) for one in grafts]
    assert sorted(taken) == [0, 1, 2, 3] and all(at != i for i, at in enumerate(taken))


def test_mlps_that_no_row_uses_are_not_computed(monkeypatch):
    both, calls = pair("llama"), []
    arm = Arm("late", host="pt", change="graft", layers=(9,))
    monkeypatch.setattr(blocks(both.pt)[9].mlp, "forward", lambda x: calls.append("host"))
    with applied(both.pt, row_grafts([arm], both), 1):
        logits(both.pt.module, batch(rows=1, padding=(0,)))
    assert calls == []


def test_edits_of_activations_act_on_what_a_graft_returns():
    """A graft and a dose at one layer: the dose rescales the donor's output."""
    both, given = pair("llama"), batch(rows=1, padding=(0,))
    width = both.pt.config.hidden_size
    d = torch.nn.functional.normalize(
        torch.randn(1, width, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    dose = RowEdit(9, alpha=torch.zeros(1), direction=d)
    grafts = row_grafts([Arm("late", host="pt", change="graft", layers=(9,))], both)
    with applied(both.pt, [dose, *grafts], 1):
        found = logits(both.pt.module, given)
    with swapped(both.pt, both.it, (9,)), applied(both.pt, [dose], 1):
        assert torch.allclose(found, logits(both.pt.module, given), atol=1e-5)


def test_rows_that_finish_leave_their_donor_too(monkeypatch):
    """One row stops at once; the donors of the others stay with them."""
    both = pair("llama")
    monkeypatch.setattr(decoding, "COMPACT", 0.01)
    conditions, rows = arms("it", both.n_layers), read(both.it, 6)
    found = routed(both, conditions, rows)
    lengths = {len(one.ids) for per in found for one in per}
    assert len(lengths) > 1
    monkeypatch.setattr(decoding, "COMPACT", 2.0)
    assert routed(both, conditions, rows) == found


def test_mistakes_are_named():
    both = pair("llama")
    source = Source(blocks(both.it)[9].mlp)
    with pytest.raises(InterventionError, match="names the donors of 3 rows; this batch has 5"):
        decode(both.pt, read(both.pt), [RowGraft(9, (source,), torch.tensor([0, -1, 0]))], max_new_tokens=2)
    with pytest.raises(InterventionError, match="a donor beyond its 1"):
        decode(
            both.pt, read(both.pt), [RowGraft(9, (source,), torch.tensor([0, 1, 0, 0, 0]))], max_new_tokens=2
        )
    with pytest.raises(InterventionError, match="no layer 12"):
        decode(
            both.pt,
            read(both.pt),
            [RowGraft(12, (source,), torch.zeros(5, dtype=torch.long))],
            max_new_tokens=2,
        )
