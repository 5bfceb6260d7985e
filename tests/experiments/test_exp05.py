"""exp05: its conditions do what they say, against plain forwards; its quantities, on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import depths
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp05_ablation_map import measure, report
from nbhelpers.experiments.exp05_ablation_map.experiment import (
    EDITS,
    GRIDS,
    WIDE,
    WRITES,
    n_arms,
    skips,
    windows,
)
from nbhelpers.experiments.exp05_ablation_map.quantities import quantities
from nbhelpers.measures import steering
from nbhelpers.models import prompts, row_edits
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import load_pair
from nbhelpers.report import verdicts
from nbhelpers.report.quantities import value
from tests import made_up as generated
from tests import synthetic
from tests.specs import complete

LATE = "late"


def made_up(rng, lift, coords):
    """Results in which late MLPs count more than mid ones, and the late direction more than random ones."""
    n_layers = len(coords["layer"])
    coords |= {
        "edit": list(EDITS), "change": list(WIDE), "window": list(windows(n_layers)), "write": list(WRITES),
        "first_skipped": skips(n_layers), "place": [measure.OUTPUT, measure.UPDATE], "kind": list(measure.KINDS),
        "prompt_format": ["raw", "chat"],
    }  # fmt: skip
    found = generated.filled("exp05", rng, lift, coords)
    late = np.arange(n_layers) >= depths.onset(n_layers)
    for name, raised in {
        "kl_layer": late[:, None],
        "kl_window": _is(coords["window"], LATE)[:, None],
    }.items():
        dims, values = found[name]
        found[name] = (dims, 0.1 * values + lift * raised)
    found["kl_random"] = (found["kl_random"][0], 0.1 * found["kl_random"][1])
    sets = [" ".join(map(str, layers)) for layers in measure.layer_sets(n_layers, 3, 0)]
    category = generated.kinds(len(coords["prompt"]), ["fact", "story"])
    return found | {"set_layers": (("layer_set",), np.array(sets)), "category": (("prompt",), category)}


def _is(names, name):
    return np.array(names) == name


def opposite(d):
    """The stack the other way round, and random directions above the late one."""
    turned = d["kl_layer"].isel(layer=slice(None, None, -1)).assign_coords(layer=d.layer.values)
    return d.assign(kl_layer=turned, kl_random=d["kl_random"] + 9)


@cache
def options(**given):
    """Few prompts and controls."""
    small = {"n_prompts": 4, "n_map": 2, "n_random": 2, "n_sets": 2, "batch_size": 16}
    return experiments.experiment_params("exp05", **small | given)


@cache
def measured(key="gemma_pocket"):
    """(pair, prompts, IT's forced tokens, directions, map) of a few prompts; Gemma has a norm behind the MLP."""
    pair = load_pair(experiments.resolve("exp05", model=key).model)
    known = prompts.load_prompts("pocket/prompts.jsonl", 6, seed=1)
    rng = np.random.default_rng(0)
    texts = {
        v: [Continuation(tuple(rng.integers(5, 300, n).tolist()), False) for n in (3, 5, 4, 6)]
        for v in ("it", "pt")
    }
    model = experiments.resolve("exp05", model=key).model
    found = measure.collected(pair, known[:4], texts, model, batch_size=3)
    replies = [Continuation(tuple(rng.integers(5, 300, n).tolist()), False) for n in (4, 2)]
    return pair, known[4:], replies, found, measure.mapped(pair, known[4:], replies, found, options())


def plain(pair, prompt, reply, change=None):
    """Float64 log-probabilities of the steps of one reply, [step, token], from a forward of one row with changed modules."""
    blocks, handles = pair.it.stack._module.layers, []
    for layer, path, make in change or ():
        module = blocks[layer] if path == "block" else getattr(blocks[layer], path)
        handles.append(module.register_forward_hook(make))
    ids = [*prompts.chat_ids(pair.it, prompt.message), *reply.ids[:-1]]
    with torch.no_grad():
        logits = pair.it.module(torch.tensor([ids])).logits[0, -len(reply.ids) :].double()
    for handle in handles:
        handle.remove()
    return torch.log_softmax(logits[:, torch.as_tensor(pair.it.real_tokens)], -1)


def kl(p, q):
    """KL(p ‖ q), the mean over steps."""
    return float((p.exp() * (p - q)).sum(-1).mean())


def rescaled(direction, alpha):
    """A hook that rescales the part of an output along a direction."""
    unit = torch.as_tensor(direction / np.linalg.norm(direction))

    def change(module, inputs, output):
        return (output.double() + (alpha - 1) * (output.double() @ unit)[..., None] * unit).to(output.dtype)

    return change


def replaced(vector):
    """A hook that puts a vector in place of an output."""
    return lambda module, inputs, output: torch.as_tensor(vector).to(output).expand_as(output)


def block_left_out(module, inputs, output):
    """A hook that makes a block the identity."""
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def changes():
    """{name: (edited layers and hooks, the grid's value by prompt)}: one condition of every kind."""
    _, _, _, found, mapped = measured()
    d, out = found.direction.sel(kind="mean").values.astype(float), found.mlp_mean
    mean = out.sel(weights="it", history="it", prompt_format="chat").mean("prompt").values
    update, layer, late = (
        found.site_direction.sel(site="mlp_update").values.astype(float),
        mapped.kl_layer,
        range(7, 12),
    )
    window = mapped.kl_window
    return {
        "mean": ([(3, "mlp", replaced(mean[3]))], layer.sel(edit="mean", layer=3)),
        "zero": ([(8, "mlp", replaced(0 * mean[8]))], layer.sel(edit="zero", layer=8)),
        "skip": ([(5, "block", block_left_out)], layer.sel(edit="skip", layer=5)),
        "remove": ([(0, "mlp", rescaled(d[0], 0))], layer.sel(edit="remove", layer=0)),
        "reverse": ([(11, "mlp", rescaled(d[11], -1))], layer.sel(edit="reverse", layer=11)),
        "window": ([(i, "mlp", rescaled(d[i], 0)) for i in late], window.sel(change="remove", window=LATE)),
        "skipped": ([(i, "block", block_left_out) for i in (9, 10, 11)], mapped.kl_skipped.sel(first_skipped=9)),
        "behind the norm": (
            [(i, "post_feedforward_layernorm", rescaled(update[i], 0)) for i in late],
            mapped.kl_place.sel(place="mlp_update"),
        ),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mean", "zero", "skip", "remove", "reverse", "window", "skipped", "behind the norm"]
)
def test_a_condition_is_what_plain_hooks_make_of_one_row(name):
    pair, chosen, replies, *_ = measured()
    change, found = changes()[name]
    for i, (prompt, reply) in enumerate(zip(chosen, replies)):
        wanted = kl(plain(pair, prompt, reply), plain(pair, prompt, reply, change))
        assert float(found[i]) == pytest.approx(wanted, rel=2e-3, abs=2e-5)


@pytest.mark.slow
def test_the_rise_of_the_nll_is_of_the_replys_tokens():
    pair, chosen, replies, _, mapped = measured()
    ids = torch.as_tensor([np.flatnonzero(pair.it.real_tokens).searchsorted(t) for t in replies[1].ids])
    base = plain(pair, chosen[1], replies[1])
    edited = plain(pair, chosen[1], replies[1], [(4, "block", block_left_out)])
    rise = (base - edited).gather(1, ids[:, None]).mean()
    assert float(mapped.nll_layer.sel(edit="skip", layer=4)[1]) == pytest.approx(float(rise), rel=1e-3)
    assert float(mapped.nll_plain[1]) == pytest.approx(-float(base.gather(1, ids[:, None]).mean()), rel=1e-3)


@pytest.mark.slow
def test_pt_stands_beside_on_the_same_tokens():
    pair, chosen, replies, *_ = measured()
    found = measure.parent(pair, chosen, replies, batch_size=16)
    rows = {
        "raw": prompts.text_ids(pair.pt, chosen[0].text),
        "chat": prompts.chat_ids(pair.pt, chosen[0].message),
    }
    for name, row in rows.items():
        with torch.no_grad():
            logits = pair.pt.module(torch.tensor([[*row, *replies[0].ids[:-1]]])).logits[0]
        q = torch.log_softmax(
            logits[-len(replies[0].ids) :, torch.as_tensor(pair.pt.real_tokens)].double(), -1
        )
        wanted = kl(plain(pair, chosen[0], replies[0]), q)
        assert float(found.kl_parent.sel(prompt_format=name)[0]) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_random_directions_take_out_the_same_length():
    """At every position of a batch, to a part in a thousand, and along the direction that they are named after."""
    pair, chosen, _, found, _ = measured()
    vectors = measure.vectors(found, options())
    h = torch.randn(2, 5, pair.it.config.hidden_size)
    grid = measure.arms(pair.n_layers, options())["random"]
    for arm in grid.values.ravel():
        (edit,) = (e for e in steering.row_edits([arm], vectors, h.shape[-1]) if e.layer == 9)
        moved = row_edits.changed(h, edit) - h
        d = torch.as_tensor(vectors["mean"][9])
        wanted = (h @ (d / d.norm())).abs()
        np.testing.assert_allclose(moved.norm(dim=-1), wanted, rtol=1e-3)
        w = torch.as_tensor(vectors[arm.write][9]).float()
        np.testing.assert_allclose((moved @ w).abs(), wanted, rtol=1e-3)
    apart = np.einsum("nld,ld->nl", [vectors["isotropic_0"], vectors["isotropic_1"]], vectors["mean"])
    assert np.abs(apart).max() < 1e-5


@pytest.mark.slow
def test_the_dataset_and_the_directions_are_whole():
    pair, chosen, replies, found, mapped = measured()
    whole = measure.assembled(
        mapped, measure.parent(pair, chosen, replies, batch_size=16), measure.qualities(found), prompts=chosen
    )
    complete(whole, "exp05")
    complete(found, "exp05_directions")
    assert whole.prompt.values.tolist() == [p.id for p in chosen]
    np.testing.assert_allclose(
        found.direction.sel(kind="mean_raw"),
        (
            found.mlp_mean.sel(weights="it", history="it", prompt_format="raw")
            - found.mlp_mean.sel(weights="pt", history="pt", prompt_format="raw")
        ).mean("prompt"),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        found.site_direction.sel(site="mlp_output"), found.direction.sel(kind="mean"), atol=1e-4
    )


def test_the_grids_hold_every_condition_once():
    grids = measure.arms(12, options())
    assert {name: grid.dims for name, grid in grids.items()} == {
        name: dims for name, (dims, _) in GRIDS.items()
    }
    assert sum(grid.size for grid in grids.values()) == n_arms(12, options())
    late = tuple(range(7, 12))
    assert grids["window"].sel(change="skip", window=LATE).item().layers == late
    assert all(arm.layers == late and arm.dose == 0 for arm in grids["random"].values.ravel())
    assert [arm.layers[0] for arm in grids["skipped"].values] == [11, 10, 9, 8, 7]


@pytest.mark.parametrize("n_layers", [2, 3, 4, 5, 6])
def test_a_model_of_few_layers_has_no_window_without_a_layer(n_layers):
    grids = measure.arms(n_layers, options())
    assert all(len(arm.layers) for grid in grids.values() for arm in grid.values.ravel())
    assert ("format" in grids["window"].window) == (n_layers == 6)
    assert sum(grid.size for grid in grids.values()) == n_arms(n_layers, options())


@pytest.mark.parametrize(
    ("n", "first"), [(12, [11, 10, 9, 8, 7]), (34, [33, 32, 31, 30, 28, 26, 24, 20]), (2, [1])]
)
def test_the_skip_runs_from_the_last_layer_to_the_onset(n, first):
    assert skips(n) == first


def test_random_sets_have_a_windows_size_and_not_the_first_layer():
    sets = measure.layer_sets(12, 30, seed=0)
    assert len(set(sets)) > 20 and all(len(set(layers)) == 5 for layers in sets)
    assert {layer for layers in sets for layer in layers} == set(range(1, 12))
    assert sets == measure.layer_sets(12, 30, seed=0) and sets[:5] == measure.layer_sets(12, 5, seed=0)


def test_the_maps_prompts_are_not_those_of_the_directions():
    known = [prompts.Prompt(str(i), "ab"[i % 2], "text", "message") for i in range(20)]
    observed = xr.Dataset(coords={"prompt": [str(i) for i in range(12)]})
    chosen = measure.map_prompts(observed, known, known[:8], 10, 0)
    assert {p.id for p in chosen} == {"8", "9", "10", "11"}
    with pytest.raises(ParameterError, match="lower n_prompts"):
        measure.map_prompts(observed, known, known[:12], 4, 0)


@cache
def results():
    return synthetic.results("exp05", n_prompts=12)


def one():
    """A result whose variables may be changed."""
    return results()["Llama"].copy(deep=True)


def test_windows_of_single_layers_leave_out_the_first():
    d = one()
    d["kl_layer"] = d.kl_layer * 0 + xr.DataArray([90.0, *range(1, 12)], dims="layer")
    assert value(quantities, d, "kl_layer.mean.first") == 90
    assert value(quantities, d, "kl_layer.mean.early") == pytest.approx(np.mean([1, 2, 3, 4]))
    assert value(quantities, d, "late_less_mid.mean") == pytest.approx(9 - 5)
    assert value(quantities, d, "strongest_layer.mean") == 11


def test_a_window_is_held_against_random_sets_prompt_by_prompt():
    d = one()
    d["kl_window"], d["kl_set"] = (
        d.kl_window * 0 + 3,
        d.kl_set * 0 + xr.DataArray([1.0, 2, 6], dims="layer_set"),
    )
    found = quantities(d)["window_less_sets.mean.late"].values
    np.testing.assert_allclose(found, 0)
    assert found.dims == ("prompt",)


@pytest.mark.parametrize(("kl_of_removal", "p"), [(4.0, 1 / 4), (2.5, 2 / 4), (0.5, 1.0)])
def test_the_removal_has_its_rank_among_random_directions(kl_of_removal, p):
    d = one()
    d["kl_window"] = d.kl_window * 0 + kl_of_removal
    d["kl_random"] = d.kl_random * 0 + xr.DataArray([1.0, 2.0, 3.0], dims="control")
    assert value(quantities, d, "removal_rank_p.isotropic") == pytest.approx(p)
    assert value(quantities, d, "removal_less_random.isotropic") == pytest.approx(1000 * (kl_of_removal - 2))


def test_a_removal_that_not_all_random_directions_fall_short_of_is_undecided():
    d = one()  # three controls: the least rank p is 0.25
    assert verdicts.sides({"A": d}, quantities, report.BEYOND)[verdicts.UP] == ["A"]
    assert report.beyond_chance({"A": d})[verdicts.OPEN] == ["A"]
    many = d.isel(control=np.zeros(20, int))
    assert report.beyond_chance({"A": many})[verdicts.UP] == ["A"]


def test_figures_say_what_they_show():
    for make in (report.layer_map, report.windows, report.removal, report.skips):
        for shown in (results(), {"Llama": one()}):
            assert make(shown).to_dict()["description"].endswith(".")
    rows = report.floored(report.tidy(results(), lambda d: report.banded(0 * d["kl_layer"])))
    assert (rows["mean"] == report.FLOOR).all()
