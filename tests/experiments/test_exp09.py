"""Every number of exp09's dataset for two pocket pairs, from a slow loop over tokens and layers in plain PyTorch."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp00_observations import measure as exp00_measure
from nbhelpers.experiments.exp00_observations import quantities as exp00_quantities
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from nbhelpers.measures import prompt_end, tuned_lens
from nbhelpers.models import generation, loading, prompts
from nbhelpers.report.quantities import value
from tests.experiments.test_exp00 import COMBINATIONS, KEYS, LENSES, POCKET, case, slow
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp09", n_resamples=2000)
RULES = (
    "top1_first", "top1_strict", "top1_stable3", "kl_first_0.1",
    *(f"kl_stays_{threshold}" for threshold in (0.05, 0.1, 0.2, 0.5, 1.0)),
    "majority_0.1", "majority_below_0.1", "kl_qualified_0.5_3x", "entropy_0.2", "cosine_0.95",
)  # fmt: skip
COMPONENTS = ("block", "attention", "mlp")
CHECKED = set()
every_case = pytest.mark.parametrize("key", KEYS)


@cache
def result(key):
    """exp09's dataset of one pair, without the side panels."""
    return exp09_measure.summarise(case(key).observed, OPTIONS)


def found(key, name, *dims, **selection):
    """A variable of the dataset as an array with dims in this order; notes that it was checked."""
    CHECKED.add(name)
    return result(key)[name].sel(**selection).transpose(*dims).values


def close(ours, theirs, atol=3e-5):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def texts(key, variant, history=None, steps=slice(1, None)):
    """The slow loop's steps of every prompt, the first left out: [prompt][step]."""
    return [rows[steps] for rows in slow(key)[0][variant, history or variant]]


def mean_of(rows, like):
    return np.mean(rows, axis=0) if len(rows) else np.full(np.shape(like), np.nan)


def means(key, name, variant, history=None, steps=slice(1, None), chosen=lambda row: True):
    """Mean over each prompt's chosen steps, [prompt, …]."""
    like = slow(key)[0][variant, variant][0][0][name]
    kept = [[row[name] for row in rows if chosen(row)] for rows in texts(key, variant, history, steps=steps)]
    return np.array([mean_of(rows, like) for rows in kept])


def first_layer(flags):
    """The first layer whose flag is set, the last layer if none is."""
    return next((layer for layer, flag in enumerate(flags) if flag), len(flags) - 1)


def slow_commitment(kl, agrees, entropy, cosine):
    """Commitment layers of one step through one lens, each rule written out."""
    n, layers = len(kl), range(len(kl))
    below = lambda layer: sum(d < 0.1 for d in kl[layer:]) / (n - layer) >= 0.9  # noqa: E731
    rules = {
        "top1_first": first_layer(agrees),
        "top1_strict": first_layer([all(agrees[layer:]) for layer in layers]),
        "top1_stable3": first_layer([all(agrees[layer : layer + 3]) for layer in layers]),
        "kl_first_0.1": first_layer([d < 0.1 for d in kl]),
        "majority_0.1": first_layer([below(layer) for layer in layers]),
        "majority_below_0.1": first_layer([kl[layer] < 0.1 and below(layer) for layer in layers]),
    }
    for threshold in (0.05, 0.1, 0.2, 0.5, 1.0):
        stays = [all(d < threshold for d in kl[layer:]) for layer in layers]
        rules[f"kl_stays_{threshold}"] = first_layer(stays)
    rules["kl_qualified_0.5_3x"] = first_layer([kl[i] < 0.5 and max(kl[i:]) < 1.5 for i in layers])
    rules["entropy_0.2"] = first_layer([all(h < 0.2 for h in entropy[i:]) for i in layers])
    rules["cosine_0.95"] = first_layer([all(c >= 0.95 for c in cosine[i:]) for i in layers])
    return rules


@cache
def commitments(key, variant, lens):
    """{rule: [prompt][step]} of commitment layers, free running."""
    at = LENSES.index(lens)
    each = [
        [
            slow_commitment(
                *(row[n][at] for n in ("kl_final_layer", "top1_agreement", "entropy")), row["cosine_to_final"]
            )
            for row in rows
        ]
        for rows in texts(key, variant)
    ]
    return {rule: [[step[rule] for step in rows] for rows in each] for rule in RULES}


@every_case
@pytest.mark.parametrize("variant", VARIANTS)
def test_curves_are_means_over_each_prompts_steps(key, variant):
    for name in (
        "kl_final_layer",
        "kl_layer_final",
        "entropy",
        "kl_adjacent",
        "top1_agreement",
        "top1_probability",
    ):
        close(found(key, name, "prompt", "lens", "layer", variant=variant), means(key, name, variant))
    for name in ("kl_final_layer", "kl_layer_final", "entropy"):
        first = means(key, name, variant, steps=slice(0, 1))
        close(found(key, f"{name}_first", "prompt", "lens", "layer", variant=variant), first)
    for name in ("delta_cosine", "update_norm"):
        close(found(key, name, "prompt", "component", "layer", variant=variant), means(key, name, variant))
    for name in ("residual_norm", "cosine_to_final"):
        close(found(key, name, "prompt", "layer", variant=variant), means(key, name, variant))


@every_case
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_final_entropy_is_that_of_the_capture_s_page(key, variant):
    last = result(key).sel(variant=variant, lens="raw").isel(layer=-1)
    for name in ("entropy", "top1_probability"):
        found = value(exp00_quantities.quantities, case(key).observed, f"final_{name}.{variant}")
        assert found == pytest.approx(float(last[name].mean()), rel=1e-5)


@every_case
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lens", LENSES)
def test_commitment_by_every_rule(key, variant, lens):
    assert set(result(key).rule.values) == set(RULES)
    n_layers = result(key).sizes["layer"]
    for rule, layers in commitments(key, variant, lens).items():
        chosen = dict(variant=variant, lens=lens, rule=rule)
        close(found(key, "commitment", "prompt", **chosen), [mean_of(rows, 0.0) for rows in layers])
        counts = np.bincount(sum(layers, []), minlength=n_layers)
        assert found(key, "commitment_count", "layer", **chosen).tolist() == counts.tolist()


@every_case
@pytest.mark.parametrize("variant, history", COMBINATIONS)
def test_matched_curves(key, variant, history):
    for name in ("kl_final_layer", "kl_layer_final"):
        curves = found(
            key, f"{name}_matched", "basis", "prompt", "lens", "layer", variant=variant, history=history
        )
        close(curves[0], means(key, name, variant, history))
        close(curves[1], means(key, f"{name}_cross", variant, history))
        if variant == history:
            np.testing.assert_array_equal(
                curves[0], found(key, name, "prompt", "lens", "layer", variant=variant)
            )
    assert result(key).basis.values.tolist() == ["own", "other"]


@every_case
@pytest.mark.parametrize("owner", VARIANTS)
def test_strata_of_confidence_free_and_matched(key, owner):
    """A step's stratum is its writer's final probability of its own first token: below 0.5, below 0.9, the rest."""
    edges = {"low": (0, 0.5), "medium": (0.5, 0.9), "high": (0.9, 1.1)}
    confident = [[row["top1_probability"][0, -1] for row in rows] for rows in texts(key, owner)]
    for name, (low, high) in edges.items():
        inside = [[low <= p < high for p in rows] for rows in confident]
        count = found(key, "steps_by_confidence", variant=owner, stratum=name)
        assert int(count) == sum(map(sum, inside))
        curves = {
            reader: np.array([
                mean_of([row["kl_final_layer"] for row, kept in zip(rows, keeps) if kept], rows[0]["kl_final_layer"])
                for rows, keeps in zip(texts(key, reader, owner, steps=slice(None)), [[False, *k] for k in inside])
            ])
            for reader in VARIANTS
        }  # fmt: skip
        order = ("prompt", "lens", "layer")
        close(found(key, "kl_by_confidence", *order, variant=owner, stratum=name), curves[owner])
        for reader in VARIANTS:
            chosen = dict(history=owner, variant=reader, stratum=name)
            close(found(key, "kl_by_confidence_matched", *order, **chosen), curves[reader])


@every_case
@pytest.mark.parametrize("variant", VARIANTS)
def test_cosine_by_generation_step(key, variant):
    steps = found(key, "delta_cosine_by_step", "token", "layer", variant=variant)
    rows_of_prompts = texts(key, variant, steps=slice(None))
    for token, curve in enumerate(steps):
        at = [rows[token]["delta_cosine"][0] for rows in rows_of_prompts if token and len(rows) > token]
        close(curve, np.mean(at, axis=0) if len(at) >= 5 else np.full(len(curve), np.nan))
    assert np.isnan(steps[0]).all() and np.isfinite(steps[1]).all()


def rounded_mean(values, axis):
    """The mean, such that resampled means that tie with it do so to the last digit: SciPy counts ties exactly."""
    return np.round(np.mean(values, axis=axis), 10)


def scipys(differences):
    """The places that an end of SciPy's BCa interval of a mean may take, (lowest, highest) of each end.

    A pair with a NaN is left out. Means of so few prompts come in steps, with gaps between them, and the rounding of a
    float32 may move an end by a resample: it lies between the second mean below SciPy's own end and the second above.
    """
    values = differences[~np.isnan(differences)]
    if np.ptp(values) == 0:
        return [(values[0], values[0])] * 2
    rng = np.random.default_rng(OPTIONS.seed)
    size = dict(n_resamples=OPTIONS.n_resamples, confidence_level=OPTIONS.confidence)
    found = scipy_stats.bootstrap((values,), rounded_mean, method="BCa", rng=rng, **size)
    means, places = np.sort(found.bootstrap_distribution), []
    for end in found.confidence_interval:
        at = np.searchsorted(means, end)
        places.append((means[max(at - 2, 0)], means[min(at + 1, len(means) - 1)]))
    return places


def check_estimate(key, name, differences, **chosen):
    close(found(key, name, **chosen), np.nanmean(differences))
    for end, (lowest, highest) in zip(("low", "high"), scipys(differences)):
        slack = 1e-6 + 1e-4 * np.nanmax(np.abs(differences))
        assert lowest - slack <= found(key, f"{name}_{end}", **chosen) <= highest + slack


@every_case
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("direction", ["final_layer", "layer_final"])
def test_convergence_gap(key, lens, direction):
    name, at, half = f"kl_{direction}", LENSES.index(lens), result(key).sizes["layer"] // 2
    curves = {variant: means(key, name, variant)[:, at] for variant in VARIANTS}
    chosen = dict(lens=lens, direction=direction)
    check_estimate(key, "convergence_gap", (curves["it"] - curves["pt"])[:, half:].mean(1), **chosen)
    pooled = {v: np.mean([row[name][at] for rows in texts(key, v) for row in rows], axis=0) for v in VARIANTS}
    gap = (pooled["it"] - pooled["pt"])[half:].mean()
    close(found(key, "convergence_gap_tokens", **chosen), gap)


@every_case
@pytest.mark.parametrize("lens", LENSES)
def test_commitment_delay(key, lens):
    for rule in RULES:
        it, pt = (
            np.array([mean_of(rows, 0.0) for rows in commitments(key, v, lens)[rule]]) for v in ("it", "pt")
        )
        check_estimate(key, "commitment_delay", it - pt, lens=lens, rule=rule)


@every_case
def test_the_dataset_is_whole_with_its_side_panels(key):
    c = case(key)
    for name in ("n_tokens", "stopped", "category"):
        CHECKED.add(name)
        assert result(key)[name].equals(c.observed[name])
    for name in ("prompt", "layer", "depth"):
        assert result(key)[name].equals(c.observed[name])
    many = prompts.load_prompts(POCKET, 16)
    seen = prompt_end.observe_clouds(c.pair, many, n_neighbours=32, batch_size=8)
    panels = prompt_end.side_panels(store.joined(c.observed, seen), draws=100, k=10, seed=0)
    weights = ("group", "layer"), np.zeros((6, result(key).sizes["layer"])), {"units": "1", "long_name": "w"}
    whole = store.joined(result(key), panels).assign(weight_rms=weights, weight_relative=weights)
    assert complete(whole, "exp09") is whole


def test_every_variable_was_checked():
    """Holds when the whole file is run."""
    if len(CHECKED) > 25:
        assert CHECKED == set(result(KEYS[0]).data_vars)


def summarised(pair, ids, made, chosen, **sizes):
    """exp09's dataset of a few prompts, both lenses untrained."""
    lenses = {d.variant: tuned_lens.untrained(pair.n_layers, d.unembedding) for d in pair}
    steps = exp00_measure.observe_pair(pair, ids, made, lenses, **sizes)
    return exp09_measure.summarise(exp00_measure.with_texts(steps, made, chosen, pair.it.tokenizer), OPTIONS)


def test_the_same_parameters_give_the_same_dataset_whatever_the_batches():
    c = case(KEYS[0])

    def run(size):
        made = {
            d.variant: generation.generate(d, c.ids[d.variant], max_new_tokens=9, batch_size=size)
            for d in c.pair
        }
        return summarised(c.pair, c.ids, made, c.chosen, batch_size=size, lens_rows=10 * size)

    one, again, other = run(4), run(4), run(7)
    assert one.identical(again)
    for name in one:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=3e-5, err_msg=name)
        else:
            assert one[name].equals(other[name])


def test_swapping_pt_and_it_flips_every_difference():
    pair = loading.load_pair(KEYS[0])
    swapped = replace(pair, pt=replace(pair.it, variant="pt"), it=replace(pair.pt, variant="it"))
    # Raw prompts for both, so that the only difference is which model is called which.
    chosen = prompts.load_prompts(POCKET, 6)
    ids = dict.fromkeys(VARIANTS, [prompts.text_ids(pair.pt, p.text) for p in chosen])
    forth, back = (
        summarised(
            p, ids, {d.variant: generation.generate(d, ids["pt"], max_new_tokens=8) for d in p}, chosen
        )
        for p in (pair, swapped)
    )
    for name in ("convergence_gap", "convergence_gap_tokens", "commitment_delay"):
        np.testing.assert_allclose(forth[name], -back[name], rtol=1e-6, atol=1e-9)
    matched = [one.kl_final_layer_matched.sel(basis="own") for one in (forth, back)]
    np.testing.assert_allclose(matched[0], matched[1].isel(history=[1, 0], variant=[1, 0]), rtol=1e-6)
