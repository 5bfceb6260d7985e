"""Forced readings where memory runs out once, in a forward or in the lens: smaller batches, the same values."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbhelpers.core import depths
from nbhelpers.experiments.exp00_observations import measure as observations
from nbhelpers.experiments.exp02_prompt_kinds import measure as kinds
from nbhelpers.experiments.exp05_ablation_map import measure as ablations
from nbhelpers.experiments.exp06_steering import gap
from nbhelpers.experiments.exp06_steering import measure as steered
from nbhelpers.experiments.exp08_six_families import measure as doses
from nbhelpers.experiments.exp10_contrastive_patching import patching
from nbhelpers.experiments.exp10_contrastive_patching import steered as probed
from nbhelpers.experiments.exp10_contrastive_patching.matched import matched, matched_rows
from nbhelpers.measures import lens, steering, tuned_lens
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.attention_entropy import last_position_attention
from nbhelpers.models import fitting, forward, generation, prompts
from tests import shapes

CHOSEN = prompts.load_prompts("pocket/prompts.jsonl", 4, seed=3)
OPTIONS = SimpleNamespace(batch_size=4, lens_rows=64, doses=(1.0, 0.0, -1.0), bins=2)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No size is remembered from another test."""
    monkeypatch.setattr(fitting, "_FITTED", {})


@pytest.fixture(scope="module")
def given():
    """A small pair, the ids of its prompts, IT's replies, lenses that translate nothing, and a direction."""
    pair = shapes.pair("qwen2")
    rows = {"pt": prompts.read_as(pair.pt, CHOSEN, "raw"), "it": prompts.read_as(pair.it, CHOSEN, "chat")}
    return SimpleNamespace(
        pair=pair,
        rows=rows,
        made=generation.generate(pair.it, rows["it"], max_new_tokens=4),
        lenses={d.variant: tuned_lens.untrained(pair.n_layers, d.unembedding) for d in pair},
        direction=np.random.default_rng(0).normal(size=(pair.n_layers, pair.it.config.hidden_size)),
        late=tuple(depths.windows(pair.n_layers)["late"]),
        known={},
    )


def arms(g):
    return [
        Arm("it"),
        *(Arm(f"{dose}", change="rescale", layers=g.late, dose=dose) for dose in (0.5, 0.0, -1.0)),
    ]


def numbers(dataset):
    return {name: values.values for name, values in dataset.data_vars.items() if values.dtype.kind in "fi"}


def observed(g):
    readers = [observations.Reader(d.unembedding, g.lenses[d.variant]) for d in g.pair]
    options = {"own": readers[1], "other": readers[0], "batch_size": 4, "with_neurons": True}
    return numbers(observations.observe(g.pair.it, g.rows["it"], g.made, **options))


def residuals(g):
    batches = forward.residuals(g.pair.it, g.rows["it"], batch_size=4)
    return {"states": torch.cat([torch.stack(h) for h in batches], 1).numpy()}


def under_doses(g):
    found, states, prompt = doses.under_doses(g.pair, CHOSEN, g.made, g.direction, OPTIONS)
    return numbers(found) | {f"states {dose}": h for dose, h in states.items()} | {"prompt": prompt}


def both(g):
    rows = matched_rows(g.pair, CHOSEN, g.made)
    found = matched(g.pair, rows, g.made, g.lenses, per_prompt=3, batch_size=4, lens_rows=64)
    return {"gap": found.gap} | {name: values.numpy() for name, values in found.difference.items()}


def patches(g):
    rows, made = matched_rows(g.pair, CHOSEN, g.made), g.made
    test = matched(g.pair, rows, made, g.lenses, per_prompt=9, batch_size=4, lens_rows=64)
    layers, delta = [0, 2], test.difference["residual"]
    plan = torch.stack([torch.stack([0 * delta[k], delta[k], -delta[k]], 1) for k in layers], 1)
    options = (test, plan, layers, g.lenses["pt"])
    return {"shift": patching.patched(g.pair.pt, rows, made, *options, batch_size=24)}


READ = {
    "exp00": observed,
    "exp02": lambda g: numbers(kinds.measure(g.pair.it, g.rows["it"], g.made, batch_size=4)),
    "exp05": lambda g: numbers(ablations.parent(g.pair, CHOSEN, g.made, batch_size=32)),
    "exp06, NLL": lambda g: {"nll": steered.mean_nll(g.pair.it, g.rows["it"], g.made, batch_size=4)},
    "exp06, gap": lambda g: numbers(
        gap.gap(g.pair, arms(g)[1:], CHOSEN, g.made, {"mean": g.direction}, g.lenses, OPTIONS)
    ),
    "exp08": under_doses,
    "exp10, both models": both,
    "exp10, patches": patches,
    "exp10, steered": lambda g: numbers(
        probed.forced(g.pair.it, arms(g), g.rows["it"], g.made, {"mean": g.direction}, g.lenses["it"], g.late,
                      batch_size=4, lens_rows=64)
    ),
    "forced arms": lambda g: numbers(steering.forced(g.pair, arms(g), CHOSEN, g.made, {"mean": g.direction}, batch_size=16)),
    "residuals": residuals,
    "prompt's end": lambda g: vars(last_position_attention(g.pair.it, g.rows["it"], batch_size=4)),
}  # fmt: skip
WITH_LENS = ("exp00", "exp02", "exp06, NLL", "exp06, gap", "exp08", "exp10, both models", "exp10, steered")


def fails(own, nth, rows=lambda x, *_: len(x)):
    """A call that fails once: at the nth time that it is given more than one row."""
    calls = iter(range(1000))

    def call(*inputs, **options):
        if rows(*inputs) > 1 and next(calls) == nth:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(*inputs, **options)

    return call


def whole(g, name):
    """A reading with memory enough, made once."""
    if name not in g.known:
        g.known[name] = READ[name](g)
    return g.known[name]


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("nth", [0, 2])
@pytest.mark.parametrize("name", READ)
def test_a_forward_that_does_not_fit_goes_on_in_smaller_batches(name, nth, given, monkeypatch, capsys):
    wanted = whole(given, name)
    for decoder in given.pair:
        mlp = decoder.stack._module.layers[1].mlp
        monkeypatch.setattr(mlp, "forward", fails(mlp.forward, nth))
    same(READ[name](given), wanted)
    n_said = capsys.readouterr().out.count("memory does not suffice")
    assert n_said or nth  # some make fewer forwards than that


@pytest.mark.parametrize("name", WITH_LENS)
def test_a_lens_that_does_not_fit_goes_on_in_smaller_batches(name, given, monkeypatch, capsys):
    wanted = whole(given, name)
    monkeypatch.setattr(lens, "lens_metrics", fails(lens.lens_metrics, 0, rows=lambda *_: 2))
    same(READ[name](given), wanted)
    assert "memory does not suffice for a batch of 4; it goes on with 2" in capsys.readouterr().out


def test_arms_that_do_not_fit_with_one_prompt_and_then_do_not_fit_alone_end_in_one_sentence():
    """An inner batch of one that fails halves the outer one; if that is one too, it is an error."""

    def inner(rows):
        def work(_):
            if len(rows) > limit:
                raise MemoryError
            return len(rows)

        return [made for _, made in fitting.in_batches(range(4), 4, work, "arms")]

    limit = 2
    assert [made for _, made in fitting.in_batches(range(8), 8, inner, "prompts")] == [[2] * 4] * 4
    limit = 0
    with pytest.raises(fitting.TooLargeError, match="one row alone does not fit"):
        list(fitting.in_batches(range(8), 8, inner, "more prompts"))
