"""exp07_0a: stability, composition and calibration of directions, each against a plain loop or a case worked by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

from functools import cache, partial

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import depths, stats
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp07_0a_directions import calibration, decomposition, measure, report, stability
from nbhelpers.experiments.exp07_0a_directions.quantities import quantities
from nbhelpers.measures import directions
from nbhelpers.measures.directions import CELLS, FORMATS
from nbhelpers.models import prompts
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import Prompt
from nbhelpers.report.quantities import value
from tests import synthetic
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp07_0a", n_draws=10, n_boot=100)
EFFECTS = {"weights": 1.0, "history": 2.0, "template": 0.5}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


def collection(rng, n=24, n_layers=3, width=8, noise=0.3, effects=None):
    """Cells (weights, history, prompt_format, prompt, layer, feature) with known main effects along three axes, and noise."""
    sizes = EFFECTS | (effects or {})
    found = noise * rng.standard_normal((2, 2, 2, n, n_layers, width))
    for axis, size in enumerate(sizes.values()):
        upper = tuple(1 if i == axis else slice(None) for i in range(3))
        found[upper][..., axis] += size
    return xr.DataArray(
        found, dims=("weights", "history", "prompt_format", "prompt", "layer", "feature"),
        coords={"weights": ["pt", "it"], "history": ["pt", "it"], "prompt_format": list(FORMATS),
                "prompt": [f"p{i}" for i in range(n)]},
    )  # fmt: skip


def made_up(rng, lift, coords):
    """Results of a stable direction that is mostly history, and of calibration sets that do the same."""
    cells = collection(rng, n_layers=len(coords["layer"]), noise=0.1 + 0.1 * lift)
    parts = [measure.stable(cells, OPTIONS), measure.composed(cells, OPTIONS)]
    contrast = np.linspace(1, 0, 24)
    sets, held = calibration.thirds(contrast, 0), coords["prompt"]
    names = [*sets, calibration.ALL, calibration.EXCHANGED]
    kl = 0.01 * lift * rng.uniform(0.8, 1.2, len(held)) * np.ones((len(names), 1))
    kl = kl + 1e-5 * rng.standard_normal(kl.shape)
    kl[-1] *= 0.3
    effects = {
        name: (("set", "prompt"), kl if name == "kl_unedited" else 0.1 + kl) for name in calibration.EFFECTS
    }
    parts.append(
        measure.calibrated(cells, contrast, sets, xr.Dataset(effects, {"set": names, "prompt": held}))
    )
    found = measure.gathered(*parts)
    coords |= {name: found[name].values for name in found.coords if name not in ("prompt", "layer", "depth")}
    return {name: (v.dims, v.values) for name, v in found.data_vars.items()}


def opposite(d):
    """A direction no more stable than chance, made of weights more than of text, and a top third that does twice as much."""
    order = ["history" if p == "weights" else "weights" if p == "history" else p for p in d.part.values]
    turned = d.sel(part=order).assign_coords(part=d.part.values)
    kl = d.removal_kl.copy(deep=True)
    kl.loc[{"set": "top"}] *= 3
    return turned.assign(split_half=d.chance - 1, cosine=-turned.cosine, removal_kl=kl)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def unit(v):
    return v / np.linalg.norm(v)


def test_halves_share_no_prompt_and_a_nested_subset_agrees_by_construction(rng):
    own = np.eye(20)[:, None, :]  # every prompt's difference has an axis of its own
    disjoint = stability.disjoint_curve(own, [1, 5, 10], draws=4)
    nested = stability.nested_curve(own, [1, 5, 20], draws=4)
    assert np.all(disjoint == 0)
    np.testing.assert_allclose(nested.mean((1, 2)), np.sqrt([1 / 20, 5 / 20, 1]))


def test_the_size_curve_ends_at_the_split_half_of_a_plain_loop(rng):
    own = rng.standard_normal((12, 2, 5)) + 1
    found = stability.disjoint_curve(own, [3, 6], draws=5, seed=3)
    for k, order in enumerate(stability.halves(12, 5, 3)):
        for layer in range(2):
            half = unit(own[order[:6], layer].mean(0))
            for s, size in enumerate((3, 6)):
                other = unit(own[order[6 : 6 + size], layer].mean(0))
                assert found[s, k, layer] == pytest.approx(half @ other)


def test_exchanged_labels_leave_nothing_to_agree_on(rng):
    own = 1 + 0.1 * rng.standard_normal((40, 1, 6))
    found = stability.exchanged(own, draws=200)
    assert abs(found.mean()) < 0.15 and found.std() > 0.5
    assert stability.disjoint_curve(own, [20])[0].min() > 0.99


def test_pairwise_stability_is_that_of_a_double_loop(rng):
    own = rng.standard_normal((9, 2, 4)) + 0.5
    found = stability.pairwise(own, draws=6, seed=2)
    counts = np.random.default_rng(2).multinomial(9, np.full(9, 1 / 9), 6)
    for layer in range(2):
        drawn = [unit((count[:, None] * own[:, layer]).sum(0)) for count in counts]
        loop = [drawn[a] @ drawn[b] for a in range(6) for b in range(a)]
        assert found[layer] == pytest.approx(np.mean(loop))


def test_shares_are_those_of_the_effects_that_were_put_in(rng):
    cells = collection(rng, noise=0.0)
    found = decomposition.decompose(cells, {"late": range(1, 3)}, draws=20, confidence=0.9, seed=0)
    total = sum(size**2 for size in EFFECTS.values())
    for name, size in EFFECTS.items():
        share = found.share.sel(part=name, place="late")
        np.testing.assert_allclose(share, size**2 / total)
        np.testing.assert_allclose(found.norm.sel(part=name, place="0"), size)
        cosine = found.cosine.sel(part=name, against="mean", place="1")
        np.testing.assert_allclose(cosine, size / np.sqrt(total))
    np.testing.assert_allclose(found.cosine.sel(part="weights", against="history", end="mean"), 0, atol=1e-12)


def test_the_four_shares_add_up_and_raw_parts_are_those_of_raw_cells(rng):
    cells = collection(rng, noise=1.0)
    found = decomposition.decompose(cells, {"late": range(1, 3)}, draws=20, confidence=0.9, seed=0)
    four = found.share.sel(part=list(decomposition.FACTORS), end="mean").sum("part")
    np.testing.assert_allclose(four, 1)
    weight = dict(zip(decomposition.PARTS, decomposition.coefficients()))
    np.testing.assert_allclose(weight["weights_raw"] + weight["history_raw"], weight["mean_raw"])
    pt_cells = [i for i, cell in enumerate(CELLS) if cell[0] == "pt"]
    assert not weight["reversed_as_run"][pt_cells].any(), (
        "the study's reversed condition has no PT weights in it"
    )
    assert weight["reversed"][pt_cells].any() and weight["matched"][pt_cells].any()


def test_exchanging_the_models_turns_the_direction_and_leaves_the_shares(rng):
    cells = collection(rng, noise=1.0)
    turned = cells.assign_coords(weights=["it", "pt"], history=["it", "pt"], prompt_format=["chat", "raw"])
    np.testing.assert_allclose(
        directions.direction(turned, "mean").values, -directions.direction(cells, "mean").values
    )
    one, other = (
        decomposition.decompose(each, {"late": range(1, 3)}, draws=20, confidence=0.9, seed=0)
        for each in (cells, turned)
    )
    factors = {"part": list(decomposition.FACTORS[:3]), "end": "mean"}
    np.testing.assert_allclose(one.share.sel(factors), other.share.sel(factors))


def test_intervals_are_bca(rng):
    x = rng.gamma(2, 1, (30, 2))
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 4000) / 30
    left = (x.sum(0) - x) / 29
    found = decomposition.bca(x.mean(0), draws @ x, left, 0.95)
    for column in range(2):
        wanted = scipy.stats.bootstrap(
            (x[:, column],), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(1)
        ).confidence_interval
        np.testing.assert_allclose(found[1:, column], [wanted.low, wanted.high], rtol=0.03)


def test_thirds_are_disjoint_and_ranked():
    contrast = np.array([5.0, 1, 3, 2, 4, 0, 6])
    sets = calibration.thirds(contrast, 0)
    assert sets["top"].tolist() == [0, 6] and sets["bottom"].tolist() == [1, 5]
    assert sets["middle"].tolist() == [2, 3, 4]
    for group in (calibration.RANDOM, calibration.RANKED):
        joined = np.concatenate([sets[name] for name in group])
        assert len(set(joined.tolist())) == len(joined)
    with pytest.raises(ParameterError, match="5 prompts are too few"):
        calibration.thirds(contrast[:5], 0)


def test_a_contrast_adds_structure_and_surprise():
    observed = xr.Dataset(
        {
            "text": (("variant", "prompt"), [["plain words", "plain words"], ["- plain words here", "plain words"]]),
            "target_log_probability": (
                ("variant", "lens", "layer", "step"),
                np.array([-9.0, -1.0, -3.0, -8.0] * 2).reshape(2, 1, 1, 4),
            ),
        },
        {
            "variant": ["pt", "it"], "prompt": ["a", "b"], "lens": ["raw"],
            "history": ("step", ["pt", "it", "it", "it"]), "prompt_index": ("step", [0, 0, 0, 1]),
        },
    )  # fmt: skip
    np.testing.assert_allclose(calibration.contrasts(observed, ["a", "b"]), [0.25 + 2 / 8, 1.0])


def test_held_out_prompts_gave_no_direction():
    known = [Prompt(f"p{i}", "all", "x", "x") for i in range(6)]
    observed = xr.Dataset(coords={"prompt": [p.id for p in known]})
    held = calibration.held_out(observed, known, ["p0", "p1", "p2"], 5, 0)
    assert [p.id for p in held] == ["p3", "p4", "p5"]
    with pytest.raises(ParameterError, match="none is left to remove them on"):
        calibration.held_out(observed, known, ["p0", "p1", "p2", "p3", "p4"], 5, 0)


@cache
def removed():
    """What removing directions of made-up cells does to the pocket pair of Llama."""
    pair = load_pair("llama_pocket")
    rng, width = np.random.default_rng(0), pair.it.config.hidden_size
    cells = collection(rng, n=9, n_layers=pair.n_layers, width=width)
    found = calibration.set_directions(cells, calibration.thirds(np.arange(9.0), 0))
    chosen = prompts.load_prompts("pocket/prompts.jsonl", 2, seed=0)
    replies = [Continuation(tuple(rng.integers(5, 300, 4).tolist()), False) for _ in chosen]
    return found, calibration.removals(pair, cells, found, chosen, replies, batch_size=8, seed=0)


@pytest.mark.slow
def test_removals_change_something_and_exchanged_labels_change_as_much():
    found, effects = removed()
    assert effects["set"].values.tolist() == [*found, calibration.EXCHANGED]
    assert (effects["kl_unedited"] > 0).all()
    dose = effects["residual_change"].mean("prompt")
    assert float(dose.sel(set=calibration.EXCHANGED)) == pytest.approx(
        float(dose.sel(set=calibration.ALL)), rel=0.5
    )


def test_quantities_are_those_of_the_dataset():
    d = synthetic.dataset("llama", "exp07_0a", n_prompts=12)
    complete(d, "exp07_0a")
    late = list(depths.windows(12)["late"])
    assert value(quantities, d, "split_half.late") == pytest.approx(
        float(d.split_half.sel(layer=late).mean()), rel=1e-5
    )
    assert value(quantities, d, "sets_alike") == 3
    assert value(quantities, opposite(d), "sets_alike") == 2
    assert value(quantities, d, "share.history.late") == pytest.approx(4 / 5.25, abs=0.1)
    assert value(quantities, d, "inflation.late") > 0
    kl = opposite(d).removal_kl
    gap = kl.sel(set="top").values - kl.sel(set="bottom").values
    np.testing.assert_allclose(quantities(opposite(d))["third_gap.top_less_bottom"].values, gap)
    assert value(quantities, opposite(d), "equivalence.top_less_bottom") > 0.5
    assert value(quantities, d, "equivalence.top_less_bottom") < 0.05


@pytest.mark.slow
def test_each_validation_has_a_verdict_of_its_own():
    results = {f"Pocket {t}": d for t, d in synthetic.results("exp07_0a", n_prompts=12).items()}
    for say in (report.verdict_0a, report.verdict_0b, report.verdict_0h):
        made, turned = say(results), say({t: opposite(d) for t, d in results.items()})
        assert made.words <= 60 and str(made) != str(turned) and "nan" not in str(made)
    assert "yes" in report.verdict_0a(results).answer and "in all six" in report.verdict_0h(results).answer
    assert "in part" in report.verdict_0b(results).answer
