"""exp07_0c: controls, windows and formulas do what they say on a pocket pair; quantities, on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

from functools import cache, partial

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import depths, dose_stats, stats
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp07_0c_controls import arms, figures, measure, report
from nbhelpers.experiments.exp07_0c_controls.experiment import OUTCOMES, width
from nbhelpers.experiments.exp07_0c_controls.quantities import BAND, DOSES, by_prompt, holm_of, quantities
from nbhelpers.measures import directions, scoring
from nbhelpers.models import prompts
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import Prompt
from nbhelpers.report.quantities import value
from tests import synthetic
from tests.specs import complete

FEW = {
    "n_covariance": 2,
    "n_permuted": 2,
    "n_unit": 2,
    "n_window_random": 1,
    "n_degenerate": 1,
    "batch_size": 64,
}
OPTIONS = experiments.experiment_params("exp07_0c", **FEW)
# What the arms of a control do in made-up results: KL in units of the direction's, and change of format compliance.
DOES = {
    "direction": (1.0, -0.4), "matched": (0.3, 0.0), "covariance": (0.3, 0.0), "permuted": (0.4, 0.0), "unit": (0.05, 0.0),
    "degenerate": (9.0, -0.8), "degenerate_random": (3.0, -0.1), "formula_residual": (1.5, -0.2), "early": (0.5, 0.0),
}  # fmt: skip
N_RANDOM = 20


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


def sweep_arms(n_layers):
    """(control, dose, member, first, last) of the steering run's arms."""
    rows = [("direction", float(d), 0, -1, -1) for d in DOSES]
    rows += [("matched", float(d), i, -1, -1) for d in BAND for i in range(N_RANDOM + 19 * (d == "0"))]
    rows += [("early", 0.0, 0, -1, -1), ("mid", 0.0, 0, -1, -1)]
    return rows + [("single", 0.0, 0, layer, layer) for layer in range(n_layers)]


def own_arms(n_layers):
    """(control, dose, member, first, last) of the arms that are run here."""
    given = OPTIONS.model_copy(update={"n_covariance": N_RANDOM, "n_permuted": N_RANDOM})
    return [
        (one.control, one.arm.dose, one.member, *(one.arm.layers or (-1,))[:: max(1, len(one.arm.layers) - 1)])[:5]
        if len(one.arm.layers) > 1 else (one.control, one.arm.dose, one.member, *(one.arm.layers or (-1,)) * 2)
        for one in arms.controls(n_layers, given)
    ]  # fmt: skip


def size_of(control, dose, first, last, n_layers):
    """KL of an arm in units of the direction's at dose 0, and its change of format compliance."""
    kl, moved = DOES.get(control, (0.4, 0.0))
    if control == "direction":
        kl, moved = kl * (1 - dose) ** 2, moved * abs(1 - dose)
    if control.startswith("window"):
        kl = (0.9 if last == n_layers - 1 else 0.05) * (0.2 if control == "window_random" else 1)
    if control == "single":
        kl = 0.02
    if control == "formula_add":
        kl = 0.9 * abs(dose)
    return (0.0 if control == "none" else kl), moved


def made_up(rng, lift, coords):
    """Results in which the direction does more than its controls, the last window most, and two of five replies lose their
    form.
    """
    n_layers, names = len(coords["layer"]) if "layer" in coords else 12, coords["prompt"]
    rows = sweep_arms(n_layers) + own_arms(n_layers)
    n = len(names)
    found = np.zeros((len(OUTCOMES), len(rows), n))
    hard = rng.uniform(0.7, 1.3, n)
    lost = (np.arange(n) + 0.5) / n
    for a, (control, dose, _, first, last) in enumerate(rows):
        kl, moved = size_of(control, dose, first, last, n_layers)
        found[OUTCOMES.index("kl"), a] = 0.02 * lift * kl * hard * rng.uniform(0.9, 1.1, n)
        found[OUTCOMES.index("residual_change"), a] = 0.15 * np.sqrt(kl) * rng.uniform(0.95, 1.05, n)
        found[OUTCOMES.index("nll"), a] = 0.3 + 0.01 * kl
        found[OUTCOMES.index("agreement"), a] = 1 - 0.05 * min(kl, 5)
        found[OUTCOMES.index("format"), a] = lost >= -moved
        found[OUTCOMES.index("structure"), a] = 0.1 + 0.05 * (control == "degenerate") + 0.001 * rng.random(n)
        found[OUTCOMES.index("incoherent"), a] = (control == "degenerate") & (lost < 0.3)
        for name in ("choice", "arithmetic", "alignment"):
            found[OUTCOMES.index(name), a] = 1.0
    coords |= {"outcome": list(OUTCOMES), "arm": [f"arm_{i}" for i in range(len(rows))]}
    about = dict(zip(("control", "dose", "member", "first", "last"), map(np.array, zip(*rows))))
    role = (("prompt",), np.full(n, "format"))
    return {"effect": (("outcome", "arm", "prompt"), found), "role": role} | {
        k: (("arm",), v) for k, v in about.items()
    }


def opposite(d):
    """Random directions do more than the direction, earlier windows more than the last, and compliance stays."""
    effect = d.effect.copy(deep=True)
    last = d["last"].where(d.control == "window").max()
    weaker = (d.control == "direction") | ((d.control == "window") & (d["last"] == last))
    kl = effect.sel(outcome="kl")
    effect.loc[{"outcome": "kl"}] = kl.where(~weaker, 0.01 * kl)
    effect.loc[{"outcome": "format"}] = effect.sel(outcome="format").where(d.control != "direction", 1.0)
    return d.assign(effect=effect)


def test_arms_cover_the_controls_and_the_study_s_additive_arm_changes_nothing():
    made = arms.controls(12, OPTIONS)
    count = {name: sum(one.control == name for one in made) for name in {one.control for one in made}}
    assert (
        count["covariance"] == count["permuted"] == count["unit"] == 2
        and count["window"] == 12 - width(12) + 1
    )
    assert count["window_random"] == count["window"] and count["formula_residual_one"] == 5
    assert [one.arm.dose for one in made if one.arm.identity] == [0.0, 1.0], (
        "added c = 0, and no change at all"
    )
    assert len({one.arm.name for one in made}) == len(made) and made[-1].arm.name == arms.PLAIN
    assert {one.arm.layers for one in made if one.control == "formula_residual"} == {(7, 8, 9, 10, 11)}


@pytest.mark.parametrize("n_layers", [2, 3, 12, 34])
def test_windows_slide_over_all_layers_with_one_width(n_layers):
    found = [one.arm.layers for one in arms.controls(n_layers, OPTIONS) if one.control == "window"]
    assert {len(layers) for layers in found} == {width(n_layers)}
    assert found[0][0] == 0 and found[-1][-1] == n_layers - 1 and len(found) == n_layers - width(n_layers) + 1


def records(n):
    """Requests of the pocket set for a form, with their records."""
    known = prompts.read_pairs("pocket/prompts.jsonl")
    return [pair for pair in known if scoring.task(pair[1]).role == "format"][:n]


def steered(known, roles=None):
    """A steering run's dataset with two arms of each group that is read, and the scores of unedited replies."""
    groups = ["dose", "dose", "matched", "permuted", "unit", "single", "early", "mid", "plain"]
    names = [
        "dose_0",
        "dose_1",
        "matched_0_03",
        "permuted_0",
        "unit_0",
        "single_07",
        "early_0",
        "mid_0",
        "it",
    ]
    n = len(known)
    metrics = list(scoring.METRICS)
    score = np.random.default_rng(0).random((len(metrics), len(names), n)).astype("float32")
    score[metrics.index("refusal_harmful")] = np.nan
    forced = {
        f"forced_{k}": (("arm", "prompt"), np.full((len(names), n), 0.1 * i))
        for i, k in enumerate(measure.READ.values())
    }
    return xr.Dataset(
        {"score": (("metric", "arm", "prompt"), score), **forced},
        {
            "metric": metrics, "arm": names, "prompt": [prompt.id for prompt, _ in known],
            "group": ("arm", groups), "dose": ("arm", [0.0, 1.0, 0, 0, 0, 0, 0, 0, np.nan]),
            "write": ("arm", ["", "", "random_03", "", "", "", "", "", ""]), "role": ("prompt", roles or ["format"] * n),
        },
        {"n_layers": 12},
    )  # fmt: skip


def test_the_steering_run_s_arms_are_taken_as_they_are():
    known = records(3)
    found = measure.of_sweep(steered(known))
    assert found["control"].values.tolist() == [
        "direction",
        "direction",
        "matched",
        "permuted_one",
        "unit_one",
        "single",
        "early",
        "mid",
    ]
    assert found["member"].values.tolist()[2] == 3 and found["first"].values.tolist()[5] == 7
    score = steered(known)["score"]
    np.testing.assert_array_equal(
        found.effect.sel(outcome="format", arm="dose_0"), score.sel(metric="format", arm="dose_0")
    )
    refused = score.sel(metric="refusal_harmless", arm="dose_0")
    np.testing.assert_allclose(found.effect.sel(outcome="alignment", arm="dose_0"), 1 - refused)
    assert (found.effect.sel(outcome="kl") == found.effect.sel(outcome="kl", arm="dose_0")).all()


def test_only_requests_for_a_form_are_read_again():
    known = records(4)
    run = steered(known, ["format", "choice", "format", "format"])
    assert [p.id for p, _ in measure.asked(run, known, 2)] == [known[0][0].id, known[2][0].id]
    with pytest.raises(ParameterError, match="no prompt asks for a form"):
        measure.asked(steered(known, ["choice"] * 4), known, 2)
    with pytest.raises(ParameterError, match="is not in the file of the steering run"):
        measure.asked(run, [(Prompt("other", "a", "b", "c"), {})], 2)


@cache
def ran():
    """The arms on two requests in the pocket pair of Llama, with directions of made-up cells; what they do."""
    pair = load_pair("llama_pocket")
    known, rng = records(2), np.random.default_rng(1)
    n_layers, d = pair.n_layers, pair.it.config.hidden_size
    cells = xr.DataArray(
        rng.standard_normal((2, 2, 2, 6, n_layers, d)).astype("float32"),
        dims=("weights", "history", "prompt_format", "prompt", "layer", "feature"),
        coords={"weights": ["pt", "it"], "history": ["pt", "it"], "prompt_format": ["raw", "chat"]},
    )
    kinds = xr.IndexVariable("kind", ["mean"])
    sites = xr.IndexVariable("site", list(directions.SITES))
    artifact = xr.Dataset(
        {
            "mlp_mean": cells,
            "direction": xr.concat([directions.direction(cells, "mean")], kinds),
            "site_direction": xr.DataArray(rng.standard_normal((4, n_layers, d)), dims=("site", "layer", "feature"),
                                           coords={"site": sites}),
        }
    )  # fmt: skip
    made = arms.controls(n_layers, OPTIONS)
    return made, known, measure.run_arms(pair, made, known, arms.vectors(artifact, OPTIONS), OPTIONS, 6)


@pytest.mark.slow
def test_matched_controls_have_the_direction_s_size_and_answers_are_scored():
    made, known, own = ran()
    assert own.effect.dims == ("outcome", "arm", "prompt") and own.arm.values.tolist() == [
        one.arm.name for one in made
    ]
    kl = own.effect.sel(outcome="kl").values
    still = [i for i, one in enumerate(made) if one.arm.identity]
    assert np.all(kl[still] == 0) and np.all(np.delete(kl, still, 0) > 0)
    answered = own.effect.sel(outcome="format").notnull().all("prompt").values
    assert answered.tolist() == [one.answers for one in made]
    task = scoring.task(known[0][1])
    assert task.role == "format"
    whole = measure.gathered(steered(records(3)), own.assign_coords(prompt=[p.id for p, _ in known]))
    complete(whole.drop_attrs(deep=False), "exp07_0c")
    assert whole.effect.sel(arm="own_none").isel(prompt=2).isnull().all() and whole.attrs["n_layers"] == 12


@cache
def dataset():
    return synthetic.dataset("llama", "exp07_0c", n_prompts=12)


def test_excess_fraction_and_rank_are_those_of_a_plain_loop():
    d = dataset()
    effect, control, dose = d.effect.sel(outcome="kl").values, d.control.values, d.dose.values
    own = effect[(control == "direction") & (dose == 0)][0]
    null = effect[(control == "matched") & (dose == 0)]
    np.testing.assert_allclose(quantities(d)["excess.matched"].values, own - null.mean(0))
    assert value(quantities, d, "fraction.matched") == pytest.approx(null.mean() / own.mean())
    assert value(quantities, d, "excess_share.matched") == pytest.approx(1 - null.mean() / own.mean())
    p = (1 + sum(row.mean() >= own.mean() for row in null)) / (len(null) + 1)
    assert value(quantities, d, "rank_p.matched") == pytest.approx(p) == pytest.approx(1 / 40)
    base = d.effect.sel(outcome="format").values[(control == "direction") & (dose == 1)][0]
    moved = d.effect.sel(outcome="format").values[(control == "matched") & (dose == -1)].mean(1) - base.mean()
    change = value(quantities, d, "format_change.direction.dose_-1")
    wanted = dose_stats.rank_p(change, moved, two_sided=True)
    assert value(quantities, d, "rank_p_format.matched.dose_-1") == pytest.approx(wanted)


def test_shares_are_of_the_prompts_that_both_read():
    d = dataset()
    effect = d.effect.copy(deep=True)
    effect.loc[
        {"outcome": "kl", "arm": d.arm.values[d.control.values == "direction"], "prompt": d.prompt[:4]}
    ] = np.nan
    effect.loc[
        {"outcome": "kl", "arm": d.arm.values[d.control.values == "covariance"], "prompt": d.prompt[-3:]}
    ] = np.nan
    found = d.assign(effect=effect)
    own, other = (value(quantities, found, f"{name}_effect.covariance") for name in ("own", "same"))
    assert value(quantities, found, "fraction.covariance") == pytest.approx(other / own)
    assert quantities(found)["own_effect.covariance"].values.notnull().sum() == 12 - 4 - 3
    assert value(quantities, d, "rank_p_less.matched") == 1 and value(
        quantities, opposite(d), "rank_p_less.matched"
    ) == pytest.approx(1 / 40)


def test_a_null_on_few_prompts_says_what_it_could_have_seen():
    d = dataset()
    effect = d.effect.copy(deep=True)
    effect.loc[{"outcome": "format"}] = 1.0
    found = d.assign(effect=effect)
    t = scipy.stats.t.ppf([0.975, 0.8], 11).sum()
    assert value(quantities, found, "format_detectable") == pytest.approx(t**2 / (12 + t**2))
    assert value(quantities, found, "single_detectable") > value(quantities, found, "format_detectable")
    assert value(quantities, found, "format_exact_p.dose_0") == 1 and report.formed({"a": found}) == []


def test_a_dose_of_rounding_is_no_dose():
    d = dataset()
    effect = d.effect.copy(deep=True)
    still = d.arm.values[(d.control.values == "formula_add") & (d.dose.values == 0)]
    effect.loc[{"outcome": "residual_change", "arm": still}] = 3e-7
    assert np.isnan(value(quantities, d.assign(effect=effect), "formula_per_dose.add_0.dose_0"))


def test_windows_are_named_by_their_layers():
    found = report.window_table({"One": dataset()})["One"]
    last = f"{12 - width(12)}–11"
    assert found["largest KL, layers"] == last and last in found["beyond random (p < 0.05 by Holm), layers"]


def test_windows_are_held_against_random_directions_of_their_own():
    d = dataset()
    assert value(quantities, d, "windows_beyond_random") == 12 - width(12) + 1
    assert value(quantities, d, "window_strongest") == pytest.approx((12 - width(12) / 2) / 12)
    at = (d.control == "window") & (d["first"] == 3)
    random = (d.control == "window_random") & (d["first"] == 3)
    kl = d.effect.sel(outcome="kl")
    wanted = kl.isel(arm=np.flatnonzero(at)).mean("arm") - kl.isel(arm=np.flatnonzero(random)).mean("arm")
    np.testing.assert_allclose(quantities(d)["window_excess.3"].values, wanted)


def test_holm_leaves_what_never_moves_at_one():
    moved = {
        "a": xr.DataArray(np.full(12, 0.5), dims="prompt"),
        "b": xr.DataArray(np.zeros(12), dims="prompt"),
    }
    found = holm_of(moved)
    assert found["a"] < 0.01 and found["b"] == 1.0


def test_formulas_stand_at_their_doses():
    d = dataset()
    kl, dose = (by_prompt(d, o, "formula_add", 1.0) for o in ("kl", "residual_change"))
    np.testing.assert_allclose(quantities(d)["formula_per_dose.add_1.dose_0"].values, kl / dose)
    assert np.isnan(value(quantities, d, "formula_per_dose.add_0.dose_0"))
    assert value(quantities, d, "formula_kl.add_0.dose_0") == 0
    assert value(quantities, d, "compounding") == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_each_validation_has_a_verdict_of_its_own_and_figures_draw_what_was_measured():
    results = {f"Pocket {t}": d for t, d in synthetic.results("exp07_0c", n_prompts=12).items()}
    turned = {t: opposite(d) for t, d in results.items()}
    for say in (report.verdict_0c, report.verdict_0f, report.verdict_0i):
        made = say(results)
        assert made.words <= 60 and "nan" not in str(made)
    assert report.verdict_0c(results).answer != report.verdict_0c(turned).answer
    assert report.verdict_0f(results).answer != report.verdict_0f(turned).answer
    one = dict(list(results.items())[:1])
    for draw in (figures.controls, figures.behaviour, figures.windows, figures.formulas):
        assert draw(one).to_dict()["description"].endswith(".")
    late = depths.windows(12)["late"]
    assert len(list(late)) == 5


def test_a_run_without_own_arms_of_a_kind_says_nan_and_not_an_error():
    d = dataset()
    fewer = d.isel(
        arm=np.flatnonzero(
            ~np.isin(d.control.values, ["covariance", "window", "window_random", "degenerate"])
        )
    )
    found = quantities(fewer)
    assert np.isnan(found["rank_p.covariance"].values) and found["windows_beyond_random"].values == 0
    assert np.isnan(found["structure.direction.dose_5"].values).all()
