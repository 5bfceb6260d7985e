"""Directions of an IT/PT difference: every function against plain loops, NumPy and PyTorch, or a case worked by hand."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.core.params import FAMILIES
from nbhelpers.measures import directions
from nbhelpers.measures.directions import CELLS, COMBINATIONS, FORMATS, SITES
from nbhelpers.models import prompts
from nbhelpers.models.decoder import block_layout
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import load_pair

LENGTHS = {"it": (3, 6, 1), "pt": (5, 2, 4)}
VARIANTS = ("pt", "it")


def made_cells(n_prompts=8, n_layers=3, width=5, seed=0):
    """Random cells, each with a mean of its own."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 2, 2, n_prompts, n_layers, width))
    values += rng.normal(size=(2, 2, 2, 1, n_layers, width))
    names = {"weights": list(VARIANTS), "history": list(VARIANTS), "prompt_format": list(FORMATS)}
    ids = {"prompt": [f"p{i}" for i in range(n_prompts)]}
    dims = ("weights", "history", "prompt_format", "prompt", "layer", "feature")
    return xr.DataArray(values.astype(np.float32), names | ids, dims)


@cache
def case(family="gemma"):
    """(pair, prompts, replies of both models) with replies of unlike lengths, one of them a single token."""
    pair = load_pair(experiments.resolve("exp00", model=f"{family}_pocket").model)
    rng = np.random.default_rng(1)
    replies = {
        v: [Continuation(tuple(rng.integers(5, 300, n).tolist()), False) for n in lengths]
        for v, lengths in LENGTHS.items()
    }
    return pair, prompts.load_prompts("pocket/prompts.jsonl", 3, seed=2), replies


def plain_mean(decoder, row, reply, layer, site):
    """The mean of what leaves a module, over the positions that predict the reply's tokens, from one unpadded forward."""
    block, kept = decoder.stack._module.layers[layer], []
    norm = {"mlp_update": "post_feedforward_layernorm", "attention_update": "post_attention_layernorm"}
    own = {
        "mlp_output": block.mlp,
        "mlp_update": block.mlp,
        "attention_update": block.self_attn,
        "residual": block,
    }
    module = own[site] if block_layout(block) == "pre" else getattr(block, norm.get(site, ""), own[site])
    handle = module.register_forward_hook(
        lambda m, i, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        decoder.module(torch.tensor([[*row, *reply.ids[:-1]]]))
    handle.remove()
    return kept[0][0, len(row) - 1 :].double().mean(0).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_is_the_mean_over_the_positions_that_predict_a_reply(family):
    pair, chosen, replies = case(family)
    cells = directions.collect(pair, chosen, replies, batch_size=2)
    for (w, h, f), (i, layer) in zip(CELLS, product(range(3), (0, 7, 11))):
        decoder = getattr(pair, w)
        row = (
            prompts.text_ids(decoder, chosen[i].text)
            if f == "raw"
            else prompts.chat_ids(decoder, chosen[i].message)
        )
        found = cells.sel(weights=w, history=h, prompt_format=f).isel(prompt=i, layer=layer)
        wanted = plain_mean(decoder, row, replies[h][i], layer, "mlp_output")
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4 * np.abs(wanted).max())
    assert cells.prompt.values.tolist() == [p.id for p in chosen] and cells.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma", "llama", "olmo", "deepseek"])
def test_the_directions_of_sites_are_of_what_leaves_their_modules(family):
    pair, chosen, replies = case(family)
    found = directions.site_directions(pair, chosen, replies, batch_size=3)
    assert found.site.values.tolist() == list(SITES)
    for site, layer in product(SITES, (1, 11)):
        means = {
            v: np.mean(
                [
                    plain_mean(getattr(pair, v), row, reply, layer, site)
                    for row, reply in zip(prompts.render(getattr(pair, v), chosen), replies[v])
                ],
                axis=0,
            )
            for v in VARIANTS
        }
        wanted = means["it"] - means["pt"]
        one = found.sel(site=site).isel(layer=layer)
        np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=5e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_exchanging_pt_and_it_flips_the_direction():
    """The whole collection is run with the models in each other's place; each keeps its own format and reply."""
    pair, chosen, replies = case("llama")
    forth = directions.collect(pair, chosen, replies, batch_size=3)
    swapped = replace(pair, pt=replace(pair.it, variant="pt"), it=replace(pair.pt, variant="it"))
    back = directions.collect(swapped, chosen, {"pt": replies["it"], "it": replies["pt"]}, batch_size=3)
    for kind in ("mean_raw", "mean_chat", "weights", "history"):
        np.testing.assert_allclose(
            directions.direction(back, kind), -directions.direction(forth, kind), atol=1e-4
        )
    np.testing.assert_allclose(
        directions.direction(back, "template"), directions.direction(forth, "template"), atol=1e-4
    )


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_exchanged_cells_turn_a_direction_round(kind):
    """IT for PT, its reply for PT's and chat for raw, all at once, turn every kind that compares the models as they run."""
    cells = made_cells()
    turned = cells.assign_coords(weights=["it", "pt"], history=["it", "pt"], prompt_format=["chat", "raw"])
    own, other = directions.direction(cells, kind), directions.direction(turned, kind)
    if kind in ("mean", "weights", "history", "template"):
        np.testing.assert_allclose(other, -own, atol=1e-6)
    else:  # the format, or the reply, is part of the question
        assert not np.allclose(other, -own, atol=0.1)


def test_the_mean_is_three_main_effects_and_their_three_way_interaction():
    cells = made_cells()
    sign = {"pt": -1, "it": 1, "raw": -1, "chat": 1}
    interaction = sum(
        sign[w]
        * sign[h]
        * sign[f]
        * cells.sel(weights=w, history=h, prompt_format=f, drop=True).astype(float)
        for w, h, f in CELLS
    ).mean("prompt")
    parts = {kind: directions.direction(cells, kind) for kind in ("weights", "history", "template")}
    np.testing.assert_allclose(
        directions.direction(cells), sum(parts.values()) + 0.25 * interaction, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "plus", "minus"),
    [
        ("mean", ("it", "it", "chat"), ("pt", "pt", "raw")), ("mean_raw", ("it", "it", "raw"), ("pt", "pt", "raw")),
        ("mean_chat", ("it", "it", "chat"), ("pt", "pt", "chat")), ("matched", ("it", "it", "raw"), ("pt", "it", "raw")),
        ("reversed", ("it", "pt", "raw"), ("pt", "pt", "raw")),
    ],
)  # fmt: skip
def test_a_difference_is_of_its_two_cells(kind, plus, minus):
    cells = made_cells().values.astype(float)
    at = [tuple((VARIANTS.index(w), VARIANTS.index(h), FORMATS.index(f))) for w, h, f in (plus, minus)]
    found = directions.differences(made_cells(), kind)
    np.testing.assert_allclose(found, cells[at[0]] - cells[at[1]])
    np.testing.assert_allclose(
        directions.direction(made_cells(), kind), (cells[at[0]] - cells[at[1]]).mean(0)
    )


@pytest.mark.parametrize(("kind", "axis"), [("weights", 0), ("history", 1), ("template", 2)])
def test_a_main_effect_is_the_mean_over_the_other_factors(kind, axis):
    values = made_cells().values.astype(float)
    upper, lower = values.take(1, axis), values.take(0, axis)
    np.testing.assert_allclose(directions.differences(made_cells(), kind), (upper - lower).mean((0, 1)))


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError):
        directions.differences(made_cells(), "sideways")


def test_unit_vectors_of_arrays_tensors_and_data_arrays():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]])
    wanted = [[0.6, 0.8], [0.0, 0.0]]
    np.testing.assert_allclose(directions.unit(vectors), wanted)
    np.testing.assert_allclose(directions.unit(torch.tensor(vectors)), wanted)
    np.testing.assert_allclose(directions.unit(xr.DataArray(vectors, dims=("layer", "feature"))), wanted)
    assert directions.cosine([3.0, 4.0], [4.0, 3.0]) == pytest.approx(0.96)
    assert directions.cosine([3.0, 4.0], [0.0, 0.0]) == 0


def test_random_directions_are_unit_isotropic_and_orthogonal_where_asked():
    axis = np.random.default_rng(5).normal(size=(2, 6))
    drawn = directions.random_directions(4000, 2, 6, orthogonal_to=axis, seed=1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=-1), 1)
    assert np.abs(np.einsum("nld,ld->nl", drawn, axis)).max() < 1e-12
    unit = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    for layer in range(2):  # what is left of the space is covered evenly
        wanted = (np.eye(6) - np.outer(unit[layer], unit[layer])) / 5
        np.testing.assert_allclose(drawn[:, layer].T @ drawn[:, layer] / 4000, wanted, atol=0.015)
    np.testing.assert_array_equal(
        drawn[:9], directions.random_directions(9, 2, 6, orthogonal_to=axis, seed=1)
    )
    assert not np.allclose(drawn[:9], directions.random_directions(9, 2, 6, orthogonal_to=axis, seed=2))
    free = directions.random_directions(4000, 1, 3)
    np.testing.assert_allclose(free[:, 0].T @ free[:, 0] / 4000, np.eye(3) / 3, atol=0.03)


def test_covariance_directions_lie_where_its_outputs_vary():
    """Two prompts vary along one line only, so every direction is that line; many vary as they do."""
    cells = made_cells(n_prompts=2)
    own = cells.sel(weights="it", history="it", prompt_format="chat").values
    line = directions.unit(own[1] - own[0])
    found = directions.covariance_directions(cells, 6)
    np.testing.assert_allclose(np.abs(np.einsum("nld,ld->nl", found, line)), 1, atol=1e-6)
    cells = made_cells(n_prompts=30, n_layers=1)
    cells.loc[{"weights": "it", "history": "it", "prompt_format": "chat"}] *= [1, 1, 1, 1, 8]
    drawn = directions.covariance_directions(cells, 400)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=-1), 1)
    assert (drawn[..., 4] ** 2).mean() > 0.8


def test_permuted_directions_are_means_of_differences_with_random_signs():
    cells = made_cells(n_prompts=3, n_layers=1)
    own = directions.differences(cells).values
    every = [np.einsum("p,pld->ld", signs, own) / 3 for signs in product((1, -1), repeat=3)]
    found = directions.permuted_directions(cells, 200)
    nearest = [min(range(8), key=lambda k: np.abs(every[k] - one).max()) for one in found]
    assert all(np.abs(every[k] - one).max() < 1e-6 for k, one in zip(nearest, found))
    assert np.bincount(nearest, minlength=8).min() > 10


def test_halves_are_disjoint_and_their_cosine_is_that_of_their_means():
    own = directions.differences(made_cells(n_prompts=7)).values
    found = directions.split_half(own, draws=4, seed=3)
    for row, (a, b) in zip(found, directions._halves(7, 4, 3)):
        assert sorted([*a, *b]) == list(range(7)) and len(a) == 3
        for layer in range(3):
            one, other = own[a, layer].mean(0), own[b, layer].mean(0)
            wanted = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert row[layer] == pytest.approx(wanted)


def test_two_prompts_have_one_split():
    own = np.array([[[1.0, 0.0]], [[1.0, 1.0]]])
    np.testing.assert_allclose(directions.split_half(own, draws=5), np.sqrt(0.5))
    np.testing.assert_allclose(directions.agreement(own), np.sqrt(0.5))


def test_a_bootstrap_resamples_prompts():
    """With two unlike prompts a draw is the first, the second or both: three cosines, in the shares 1 : 1 : 2."""
    own = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    found = directions.bootstrap_cosine(own, draws=4000)[:, 0]
    same = np.isclose(found, 1)
    assert np.isclose(found[~same], np.sqrt(0.5)).all() and same.mean() == pytest.approx(0.5, abs=0.03)


def test_agreement_leaves_a_prompt_out_of_the_mean_that_it_is_held_against():
    own = directions.differences(made_cells(n_prompts=5)).values
    wanted = [
        np.mean([
            directions.cosine(own[i, layer], np.delete(own, i, 0)[:, layer].mean(0)) for i in range(5)
        ])
        for layer in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(directions.agreement(own), wanted)


def test_auroc_counts_pairs_of_held_out_cells():
    cells = made_cells(n_prompts=6)
    found = directions.held_out_auroc(cells, draws=3, seed=4)
    own, wanted = directions.differences(cells).values, []
    plus = cells.sel(weights="it", history="it", prompt_format="chat").values
    minus = cells.sel(weights="pt", history="pt", prompt_format="raw").values
    for a, b in directions._halves(6, 3, 4):
        axis = own[a].mean(0)
        wanted.append([
            np.mean([
                (x > y) + 0.5 * (x == y)
                for x in plus[b, layer] @ axis[layer] for y in minus[b, layer] @ axis[layer]
            ])
            for layer in range(3)
        ])  # fmt: skip
    np.testing.assert_allclose(found, np.mean(wanted, 0), atol=1e-12)


def test_auroc_is_one_where_cells_lie_apart_and_half_where_they_are_alike():
    cells = made_cells(n_prompts=40) * 0.01
    cells.loc[{"weights": "it", "history": "it", "prompt_format": "chat"}] += 5
    np.testing.assert_allclose(directions.held_out_auroc(cells, draws=3), 1)
    flat = cells * 0
    np.testing.assert_allclose(directions.held_out_auroc(flat, draws=2), 0.5)


def test_the_energy_share_by_hand():
    own = np.array([[[3.0, 1.0]], [[3.0, -1.0]]])  # the mean lies on the first axis: 18 of 20
    np.testing.assert_allclose(directions.energy_share(own), 0.9)
    alike = np.tile([[[1.0, 2.0]]], (4, 1, 1))
    np.testing.assert_allclose(directions.energy_share(alike), 1)


@pytest.mark.parametrize(
    ("kind", "other"), [("mean", "mean_raw"), ("weights", "mean_raw"), ("mean_raw", "mean_chat")]
)
def test_quality_gathers_its_parts(kind, other):
    cells = made_cells(n_prompts=10)
    found, own = directions.quality(cells, kind, seed=2, draws=20), directions.differences(cells, kind).values
    halves, boot = (
        part(own, draws=20, seed=2) for part in (directions.split_half, directions.bootstrap_cosine)
    )
    wanted = {
        "split_half": halves.mean(0), "split_half_low": np.quantile(halves, 0.05, 0),
        "bootstrap": boot.mean(0), "bootstrap_low": np.quantile(boot, 0.05, 0), "agreement": directions.agreement(own),
        "auroc": directions.held_out_auroc(cells, kind, seed=2), "energy_share": directions.energy_share(own),
        "norm": [np.sqrt((own[:, layer].mean(0) ** 2).sum()) for layer in range(3)],
        "template_cosine": [
            directions.cosine(own[:, layer].mean(0), directions.direction(cells, other).values[layer]) for layer in range(3)
        ],
    }  # fmt: skip
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_directions_belong_to_their_checkpoints():
    llama, gemma = (experiments.resolve("exp00", model=f"{name}_pocket").model for name in ("llama", "gemma"))
    made = xr.Dataset(attrs={"checkpoints": directions.checkpoints(llama), "model": "llama_pocket"})
    assert directions.check_pair(made, llama) is made
    with pytest.raises(
        store.ResultError, match="belong to llama_pocket .* not to gemma_pocket: collect them anew"
    ):
        directions.check_pair(made, gemma)
    with pytest.raises(store.ResultError, match="unnamed pair with checkpoints unknown"):
        directions.check_pair(xr.Dataset(), llama)
