"""Conditions: their names, windows and controls, and that each is the network it says, beside plain swaps of modules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.core import depths
from nbhelpers.models import conditions
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.forward import forward
from tests.models.test_interventions import batch, equal, families, logits, pair, swapped


def test_the_studys_conditions():
    found = {c.name: c for c in conditions.study_conditions(12)}
    assert list(found) == [
        "C",
        "A'",
        "B_early",
        "B_mid",
        "B_late",
        "D_early",
        "D_mid",
        "D_late",
        "A'_tmpl",
        "B2",
    ]
    hosts = {name: (c.host, c.prompt_format, c.baseline) for name, c in found.items()}
    assert hosts["B_mid"] == ("pt", "raw", "A'") and hosts["D_mid"] == ("it", "chat", "C")
    assert hosts["B2"] == ("pt", "chat", "A'_tmpl") and hosts["C"] == ("it", "chat", "C")
    layers = {name: c.layers for name, c in found.items()}
    assert layers["B_early"] == tuple(range(5)) and layers["D_mid"] == tuple(range(3, 8))
    assert layers["B_late"] == layers["D_late"] == layers["B2"] == tuple(range(7, 12))
    assert layers["C"] == layers["A'"] == layers["A'_tmpl"] == ()
    assert [c.name for c in conditions.symmetric_conditions(12)] == list(found)[:8]


def test_controls_join_the_study_without_repeats():
    controls = conditions.control_conditions(12, ["late"])
    assert [c.name for c in controls[2:6]] == ["B_late", "D_late", "B_late_block", "D_late_block"]
    assert len(controls) == 2 + 2 * len(conditions.CONTROLS)
    joined = list(dict.fromkeys(conditions.study_conditions(12) + controls))
    assert len(joined) == len({c.name for c in joined}) == 18


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_sliding_windows_have_one_width_and_cover_all_depths(n_layers, width, step):
    if width > n_layers:
        with pytest.raises(
            InterventionError, match=f"{width} layers does not fit: this model has {n_layers}"
        ):
            conditions.sliding_windows(n_layers, width, step)
        return
    found = conditions.sliding_windows(n_layers, width, step)
    starts = [layers.start for layers in found.values()]
    assert starts == list(range(0, n_layers - width + 1, step))
    assert all(len(layers) == width and layers.stop <= n_layers for layers in found.values())
    assert all(name == f"{layers.start}-{layers.stop - 1}" for name, layers in found.items())


@given(st.integers(2, 60))
def test_window_widths_hold_the_studys_windows(n_layers):
    width = n_layers - depths.onset(n_layers)
    found = conditions.window_widths(n_layers, [width, n_layers])
    for name, layers in depths.windows(n_layers).items():
        assert list(found[f"{name}_{width}"]) == list(layers)
        assert list(found[f"{name}_{n_layers}"]) == list(range(n_layers))


@given(st.sets(st.integers(0, 50), min_size=2), st.integers(0, 2**31))
def test_shuffled_layers_all_leave_their_place(layers, seed):
    layers = sorted(layers)
    found = conditions.shuffled(layers, seed)
    assert sorted(found) == layers and all(a != b for a, b in zip(layers, found))
    assert found == conditions.shuffled(layers, seed)


def of(control, layers=(3, 4, 6), host="pt"):
    return conditions.Condition("X", host, "raw", "A'", "w", layers, control)


@families
def test_conditions_are_the_networks_they_name(family):
    both = pair(family)
    for host, donor in (both, tuple(both)[::-1]):

        def last(control, host=host, seed=3):
            edits = conditions.condition_edits(of(control, host=host.variant), both, seed)
            return forward(host, batch(), edits).last_logits

        assert torch.equal(last("graft"), logits(swapped(host, donor, (3, 4, 6)), batch()))
        assert torch.equal(last("block"), logits(swapped(host, donor, (3, 4, 6), "block"), batch()))
        assert torch.equal(last("self"), logits(host.module, batch()))
        mixed = swapped(host, host, ())
        theirs = donor.module.get_submodule(donor.stack_path).layers
        for layer, source in zip((3, 4, 6), conditions.shuffled((3, 4, 6), 3)):
            mixed.get_submodule(host.stack_path).layers[layer].mlp = theirs[source].mlp
        assert torch.equal(last("permuted"), logits(mixed, batch()))
        assert not torch.equal(last("scrambled"), last("graft"))


def test_random_controls_follow_their_seed():
    both = pair("llama")
    for control in ("permuted", "scrambled"):
        streams = [
            forward(both.pt, batch(), conditions.condition_edits(of(control, tuple(range(12))), both, seed))
            for seed in (1, 1, 2)
        ]
        assert equal(*streams[:2]) and not equal(*streams[1:])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (of("noise"), "Control 'noise': choose from graft, block, self, permuted, scrambled"),
        (of("permuted", (5,)), r"Layers \[5\] cannot be permuted: a permuted donor needs two or more"),
    ],
)
def test_conditions_that_cannot_be_made(condition, message):
    with pytest.raises(InterventionError, match=message):
        conditions.condition_edits(condition, pair("llama"))


def test_baselines_have_no_edits():
    assert all(
        conditions.condition_edits(c, pair("llama")) == []
        for c in (*conditions.BASELINES, conditions.TEMPLATE)
    )
