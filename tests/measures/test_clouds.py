"""Clouds of states: against brute force, under both templates, and what is read off them."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import depths, params, store
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp04_phase_transition import measure as exp04_measure
from nbhelpers.measures import prompt_end
from nbhelpers.models import prompts
from nbhelpers.models.loading import load_pair
from tests import handmade
from tests.experiments.test_exp00 import POCKET, case, states
from tests.specs import complete

KEY, N = "gemma_pocket", 20  # windowed and global layers


@cache
def seen():
    """The clouds of a few prompts of one pair, and those prompts."""
    pair, chosen = case(KEY).pair, prompts.load_prompts(POCKET, N, seed=1)
    return prompt_end.observe_clouds(pair, chosen, n_neighbours=32, batch_size=7), chosen


@cache
def last_states(variant, template):
    """The residuals [prompt, layer, d] at the last position, each prompt alone on the bare model; and lengths."""
    decoder = getattr(case(KEY).pair, variant)
    rows = prompt_end.read_as(decoder, seen()[1], template)
    found = [torch.stack([h[-1] for h in states(decoder, row)["residual"]]) for row in rows]
    return torch.stack(found).numpy(), [len(row) for row in rows]


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def check_cloud(found, points):
    """What `cloud` keeps equals brute force over points [prompt, layer, d]."""
    points = points.astype(float)
    k = found.sizes["neighbour"]
    for layer in range(points.shape[1]):
        x, one = points[:, layer], found.isel(layer=layer)
        apart = np.linalg.norm(x[:, None] - x, axis=-1)
        np.fill_diagonal(apart, np.inf)
        np.testing.assert_allclose(one.neighbour_distance, np.sort(apart)[:, :k], rtol=1e-4)
        np.testing.assert_allclose(
            np.take_along_axis(apart, one.neighbour_index.values.astype(int), 1),
            np.sort(apart)[:, :k],
            rtol=1e-4,
        )
        values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1][: found.sizes["axis"]]
        np.testing.assert_allclose(one.spectrum, values, rtol=1e-3, atol=1e-4 * values[0])
        if layer:
            y = points[:, layer - 1]
            np.testing.assert_allclose(one.adjacent_cka, cka(x, y), rtol=1e-4)
            cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
            np.testing.assert_allclose(one.adjacent_cosine, cosine, rtol=1e-4, atol=1e-5)
        else:
            assert np.isnan(one.adjacent_cka) and np.isnan(one.adjacent_cosine).all()


@pytest.mark.parametrize("n, d", [(12, 5), (9, 20)])
def test_a_cloud_equals_brute_force(n, d):
    points = np.random.default_rng(0).normal(size=(n, 3, d)).astype("float32")
    found = prompt_end.cloud(points, 6)
    assert found.sizes["neighbour"] == 6 and found.sizes["axis"] == min(n, d)
    check_cloud(found, points)


def test_a_state_that_repeats_another_is_nobodys_neighbour():
    points = np.random.default_rng(0).normal(size=(10, 2, 4)).astype("float32")
    points[7] = points[2]
    found = prompt_end.cloud(points, 5)
    assert (found.neighbour_index.isel(cloud_prompt=7) == -1).all()
    assert not (found.neighbour_index == 7).any()
    assert found.neighbour_distance.isel(cloud_prompt=7).isnull().all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("template", prompt_end.TEMPLATES)
def test_clouds_of_a_pair_equal_each_prompt_alone(variant, template):
    points, lengths = last_states(variant, template)
    found = seen()[0].sel(variant=variant, template=template)
    check_cloud(found, points)
    window = case(KEY).pair.pt.config.sliding_window
    visible = [
        [n if everywhere else min(n, window) for everywhere in found.global_layer.values] for n in lengths
    ]
    assert found.visible_keys.values.tolist() == visible


@pytest.mark.parametrize("template", prompt_end.TEMPLATES)
def test_pt_and_it_are_compared_layer_by_layer(template):
    pt, it = (last_states(variant, template)[0].astype(float) for variant in VARIANTS)
    expected = [cka(pt[:, layer], it[:, layer]) for layer in range(pt.shape[1])]
    np.testing.assert_allclose(seen()[0].pair_cka.sel(template=template), expected, rtol=1e-4)


def test_both_templates_are_read_by_both_models():
    found, chosen = seen()
    for decoder in case(KEY).pair:
        raw, chat = (
            prompt_end.read_as(decoder, chosen[:1], template)[0] for template in prompt_end.TEMPLATES
        )
        tokenizer = decoder.tokenizer
        assert tokenizer.decode(raw, skip_special_tokens=True) == chosen[0].text
        assert "<start_of_turn>user" in tokenizer.decode(chat) and chosen[0].message in tokenizer.decode(chat)
    assert found.cloud_prompt.values.tolist() == [prompt.id for prompt in chosen]


@pytest.mark.parametrize("key, wide", [("gemma_pocket", [5, 11]), ("llama_pocket", range(12))])
def test_global_layers_are_those_without_a_window(key, wide):
    pair, few = load_pair(key), prompts.load_prompts(POCKET, 4)
    found = seen()[0] if key == KEY else prompt_end.observe_clouds(pair, few, n_neighbours=3, batch_size=4)
    assert np.flatnonzero(found.global_layer.values).tolist() == list(wide)


def test_native_is_pt_raw_and_it_chat():
    found = prompt_end.native(seen()[0])
    assert "template" not in found.dims
    for variant, template in (("pt", "raw"), ("it", "chat")):
        expected = seen()[0].spectrum.sel(variant=variant, template=template)
        np.testing.assert_array_equal(found.spectrum.sel(variant=variant), expected)


def heads():
    """Two prompts, two layers, three heads, one variant and template; the first layer sees one key only."""
    entropy = np.arange(12.0).reshape(1, 1, 2, 2, 3)
    dims = ("template", "variant", "cloud_prompt", "layer", "head")
    keys = np.array([[1, 8], [1, 16]])[None, None]
    return xr.Dataset({
        "attention_entropy": (dims, entropy), "attention_entropy_no_sink": (dims, entropy / 2),
        "attention_sink": (dims, entropy / 20), "visible_keys": (dims[:-1], keys),
    })  # fmt: skip


def test_head_means_by_hand():
    found = prompt_end.head_means(heads()).squeeze()
    np.testing.assert_allclose(found.attention_entropy, [[1, 4], [7, 10]])
    np.testing.assert_allclose(found.attention_entropy_no_sink, [[0.5, 2], [3.5, 5]])
    np.testing.assert_allclose(found.attention_sink, [[0.05, 0.2], [0.35, 0.5]])
    expected = [[np.nan, 4 / np.log(8)], [np.nan, 10 / np.log(16)]]
    np.testing.assert_allclose(found.attention_normalised, expected)


def test_uniform_attention_has_a_normalised_entropy_of_one():
    made = heads()
    made["attention_entropy"][:] = np.log(made.visible_keys)
    assert prompt_end.head_means(made).attention_normalised.isel(layer=1).values == pytest.approx(1)


def two_nn(points, discard=0.1):
    apart = np.sort(np.linalg.norm(points[:, None] - points, axis=-1))[:, 1:3]
    x = np.sort(np.log(apart[:, 1] / apart[:, 0]))
    kept = int(len(x) * (1 - discard))
    y = -np.log(1 - np.arange(1, kept + 1) / len(x))
    return x[:kept] @ y / (x[:kept] @ x[:kept])


def test_dimensions_equal_those_of_the_states_themselves():
    found = prompt_end.dimensions(seen()[0], draws=20, k=10, seed=0)
    for variant in VARIANTS:
        for template in prompt_end.TEMPLATES:
            points = last_states(variant, template)[0].astype(float)
            one = found.sel(variant=variant, template=template)
            for layer in (0, 5, 11):
                x = points[:, layer]
                assert float(one.dimension.sel(estimator="two_nn", layer=layer)) == pytest.approx(
                    two_nn(x), rel=1e-3
                )
                shares = np.clip(np.linalg.eigvalsh(np.cov(x.T)), 1e-30, None)
                shares = shares / shares.sum()
                at = one.sel(layer=layer)
                assert float(at.participation_ratio) == pytest.approx(1 / (shares**2).sum(), rel=1e-3)
                assert float(at.effective_rank) == pytest.approx(
                    np.exp(-(shares * np.log(shares)).sum()), rel=1e-3
                )
                assert float(at.first_share) == pytest.approx(shares.max(), rel=1e-3)
    assert (found.dimension_low <= found.dimension_high).all()


def test_side_panels_and_exp04_are_whole_at_the_fewest_cloud_prompts_allowed():
    fewest = experiments.experiment_params("exp00", n_cloud_prompts=16).n_cloud_prompts
    c = case(KEY)
    few = prompt_end.observe_clouds(
        c.pair, prompts.load_prompts(POCKET, fewest), n_neighbours=32, batch_size=16
    )
    few = few.assign_coords(layer=np.arange(12), depth=("layer", depths.depth(12)))
    panels = prompt_end.side_panels(few, draws=100, k=10, seed=0)
    assert {"dimension", "participation_ratio", "attention_entropy", "attention_normalised"} <= set(panels)
    expected = prompt_end.dimensions(few, draws=100, k=10, seed=0).dimension
    np.testing.assert_array_equal(panels.dimension, expected)
    found = exp04_measure.summarise(few, experiments.experiment_params("exp04", n_permutations=100))
    assert complete(found, "exp04") is found
    native = prompt_end.native(found[["dimension", "adjacent_change"]])
    shift = native.dimension.sel(estimator="two_nn")
    inside = np.isin(np.arange(12), depths.around_third(12))
    expected = exp04_measure.contrast((shift.sel(variant="it") - shift.sel(variant="pt")).values, inside)
    assert float(found.statistic.sel(profile="dimension, IT − PT")) == pytest.approx(expected)
    change = native.adjacent_change.sel(variant="pt").mean("cloud_prompt").values[1:]
    expected = exp04_measure.contrast(change, inside[1:])
    assert float(found.statistic.sel(profile="1 − cosine, PT")) == pytest.approx(expected)
    with pytest.raises(params.ParameterError, match="'n_cloud_prompts' is 15"):
        experiments.experiment_params("exp00", n_cloud_prompts=15)


def test_clouds_join_the_steps_of_their_pair():
    joined = store.joined(case(KEY).observed, seen()[0])
    assert {"kl_final_layer", "spectrum"} <= set(joined) and joined.sizes["layer"] == 12
    with pytest.raises(ValueError):
        store.joined(handmade.observed(n_layers=6), seen()[0].assign_coords(layer=np.arange(12)))
