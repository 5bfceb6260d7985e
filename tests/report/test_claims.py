"""The claims: figures typed in right, tests of claims, and a run's values of them against plain NumPy."""

import csv

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, stats
from nbhelpers.experiments.exp07_0g_tuned_lens import quantities as exp07_0g_quantities
from nbhelpers.report import claims, ledger, ledger_table
from nbhelpers.report.quantities import SPECTRA
from tests import synthetic
from tests.stubs import REPOSITORY

LEDGER = REPOSITORY / "params/published.csv"
GRAFTS = ("exp11", "exp13", "exp14")  # their values: test_graft_metrics
# `study`: facts about the study, which no experiment measures (test_claims_page)
PUBLISHED = sorted({line.split(".")[0] for line in LEDGER.read_text().splitlines()[1:]} - {"study"})
EXPERIMENTS = tuple(key for key in PUBLISHED if key not in GRAFTS)
REFERENCE = REPOSITORY.parent / "shared/reference/claims.csv"
N = 12
COORDS = {
    "variant": ["pt", "it"],
    "history": ["pt", "it"],
    "lens": ["raw", "tuned"],
    "basis": ["own", "other"],
    "component": ["block", "attention", "mlp"],
    "condition": ["PT", "IT", "IT without template"],
    "group": ["attention", "mlp", "norm"],
    "phase": ["content", "format", "corrective"],
    "stratum": ["low", "medium", "high"],
    "token_class": ["structural", "punctuation", "discourse", "content"],
    "k": [10, 20],
    "estimator": ["two_nn", "mle"],
    "template": ["raw", "chat"],
    "direction": ["final_layer", "layer_final"],
    "layer": range(N),
}
RULES = {
    "exp03": ["kl_continuous", "kl_stays"],
    "exp07_0j": ["0.5 σ", "2 σ", "drop 0.02", "drop 0.15"],
    "exp09": ["top1_strict", "top1_first", "top1_stable3", "kl_first_0.1", "kl_stays_0.1", "majority_0.1"],
}
SIZES = {"prompt": 20, "cloud_prompt": 16, "text": 18}
CATEGORIES = np.array((["IC"] * 7 + ["OOC"] * 7 + ["R"] * 6), dtype=object)


def made(experiment, family="gemma", seed=0):
    """Return a made-up dataset with every variable that an experiment promises, numbers between 0 and 1.

    An experiment whose test file has a maker of its own has that one's.
    """
    if synthetic.own(experiment, "made_up"):
        return synthetic.dataset(family, experiment, seed=seed, n_prompts=SIZES["prompt"])
    rng = np.random.default_rng([seed, len(family), *experiment.encode()])
    coords = COORDS | {"rule": RULES.get(experiment, [])}
    schema = {name: variable.dims for name, variable in experiments.variables(experiment).items()}
    sizes = {name: len(values) for name, values in coords.items()} | SIZES
    found = {name: (d, rng.random([sizes.get(x, 2) for x in d])) for name, d in schema.items()}
    used = {dim for dims in schema.values() for dim in dims}
    made_up = xr.Dataset(found, {name: list(v) for name, v in coords.items() if name in used})
    whole = {"commitment_count": 30, "n_tokens": 40, "onset": N, "n50": 9, "n90": 50}
    for name in set(whole) & set(found):
        made_up[name] = (found[name][0], rng.integers(0, whole[name], made_up[name].shape))
    if experiment == "exp04":
        made_up["lowest_layer"] = (("template", "variant"), np.array([[3, 4], [2, 5]]))
    if "category" in made_up:
        made_up["category"] = ("prompt", CATEGORIES)
    return made_up.assign_attrs(experiment=experiment, model=f"{family}_pocket")


def quantities_of(experiment):
    """Return the module that says what of a dataset is measured."""
    return experiments.part(experiment, "quantities")


def measured(result, **options):
    """Return the values of a made-up dataset's quantities."""
    return ledger.measured(quantities_of(result.attrs["experiment"]).quantities(result), **options)


@pytest.fixture(scope="module")
def results():
    """Return made-up results of the six families."""
    return {family: synthetic.dataset(family, n_prompts=24) for family in params.FAMILIES}


# The figures


@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_the_published_figures_are_well_formed(experiment):
    table = claims.published(experiment)
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert (table["reason"].str.len() > 0).all() and (table["source_section"].str.len() > 0).all()
    assert (table["claim"].str.len() > 10).all() and not table["claim"].str.endswith(".").any()
    numbers = ~table["metric"].str.startswith(claims.QUALITATIVE)
    assert (table["value"].notna() == numbers).all() and (table["unit"][numbers].str.len() > 0).all()
    parts = table["id"].str.split(".", n=2)
    assert (parts.str[2] == table["metric"] + "." + table["family"]).all() and parts.str[
        1
    ].str.isdigit().all()
    assert table["source_section"].str.startswith(("paper", "artifact")).all()


# Layers of the study's models, for claims on a share of the depth.
LAYERS = {"gemma": 34, "llama": 32, "qwen": 36, "mistral": 32, "deepseek": 27, "olmo": 32}
# Figures that agree with their claim and are contradicted by other evidence: the released files give other numbers.
BY_OTHER_EVIDENCE = (
    "exp03.01.delay_by_confidence_layer_final.low", "exp03.24.own_feature_share", "exp09.19.reversals",
    "exp09.24.delta_cosine_shift", "exp09.49.kl_excess_final_eight",
)  # fmt: skip


@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_a_published_number_that_contradicts_its_claim_is_marked_so(experiment):
    table = claims.published(experiment)
    values = table.groupby(["metric", "family"])["value"].first()
    for row in table.itertuples():
        test = claims.claim_test(row.claim_test)
        if test is None:
            continue
        ends = (np.nan, np.nan, LAYERS.get(row.family, 1))
        said = claims.together(
            one.judged(row.value - less, *ends)
            for one in test.parts()
            for less in [values[name, row.family] for name in claims.others(row.metric, one)] or [0]
        )
        known = row.id.startswith(BY_OTHER_EVIDENCE)
        assert said == claims.UNDECIDED or (said == claims.NO) == (
            row.verdict == "contradicted" and not known
        ), row.id


def test_a_value_of_a_released_file_alone_is_no_support():
    table = pd.concat(map(claims.published, PUBLISHED))
    released = table["source_section"].str.startswith("artifact")
    assert set(table[released]["verdict"]) == {"artifact value", "contradicted", "not checkable"}
    assert "artifact value" not in set(table[~released]["verdict"])
    assert (table["verdict"] == "artifact value").sum() > 1000


def test_figures_that_hold_rounding_noise_cannot_be_checked():
    table = claims.published("exp13")
    noisy = table[table["metric"].str.contains("anti_kl") | (table["metric"] == "late_kl_r.remainder")]
    assert len(noisy) == 49 and set(noisy["verdict"]) == {"not checkable"}
    assert noisy["reason"].str.contains("at the last layer the exact gradient is zero").all()


@pytest.mark.parametrize(
    "text, value, low, high, expected",
    [
        (">0", 0.3, 0.1, 0.5, "yes"),
        (">0", 0.3, -0.1, 0.5, "undecided"),
        (">0", -0.3, -0.5, -0.1, "no"),
        (">0", 0.0, np.nan, np.nan, "undecided"),
        ("<0", -0.3, -0.5, 0.0, "undecided"),
        ("<-0.5", -0.7, np.nan, np.nan, "yes"),
        (">=6", 6, np.nan, np.nan, "yes"),
        (">=6", 5, np.nan, np.nan, "no"),
        ("<=0", 1, np.nan, np.nan, "no"),
        (">1", 1.2, 1.1, 1.3, "yes"),
        ("~0±0.05", -0.052, -0.07, -0.03, "undecided"),
        ("~0±0.05", -0.25, -0.3, -0.2, "no"),  # the same sign as the published number, against the claim
        ("~0±0.05", 0.05, np.nan, np.nan, "yes"),
        ("~0±0.05", 0.01, -0.02, 0.04, "yes"),
        ("~0.575±0.125 L", 6, np.nan, np.nan, "yes"),  # of 12 layers: 5.4 to 8.4
        ("~0.575±0.125 L", 9, 8, 10, "undecided"),
        ("~0.575±0.125 L", -1, -1, -1, "no"),  # no onset
        ("~0.575±0.125 L", -1, 6, 8, "undecided"),  # none, though resamples find one
        (">0", np.nan, np.nan, np.nan, ""),
    ],
)
def test_a_claim_is_judged_by_the_runs_interval(text, value, low, high, expected):
    assert claims.claim_test(text).judged(value, low, high, 12) == expected


def test_a_layer_of_an_unknown_depth_is_not_judged():
    assert claims.claim_test("~0.3±0.1 L").judged(4, np.nan, np.nan, np.nan) == ""


def test_an_order_names_the_same_quantity_with_its_last_word_exchanged():
    test = claims.claim_test(">early,mid")
    assert claims.others("kl_shift.late", test) == ["kl_shift.early", "kl_shift.mid"]
    assert test.judged(0.2, 0.1, 0.3) == "yes" and claims.claim_test("<pt").judged(0.2, 0.1, 0.3) == "no"
    assert claims.together(["yes", "yes"]) == "yes" and claims.together(["yes", "no"]) == "no"
    assert claims.together(["yes", "undecided"]) == "undecided" and claims.together(["yes", ""]) == ""


SAID = {
    ">0": "above 0", "<=5": "at most 5", ">=6": "at least 6", "<1": "below 1", "~0±0.05": "between −0.05 and 0.05",
    "~0.333±0.07 L": "between 0.263 and 0.403 of the depth", ">early,mid": "more than early and mid", "<pt": "less than pt",
    ">0 & >early,mid": "above 0 and more than early and mid",
}  # fmt: skip


@pytest.mark.parametrize("text", SAID)
def test_a_claims_test_is_said_in_words(text):
    assert str(claims.claim_test(text)) == SAID[text]


def test_no_test_is_none_and_another_text_is_refused():
    assert claims.claim_test("") is None
    for text in ("0", "> 0", "~0", ">", ">0.1.2", "=3", "~0±-1", ">0 & ", ">0 & x"):
        with pytest.raises(claims.ClaimError, match="is no claim test: a bound"):
            claims.claim_test(text)


def test_ids_are_unique():
    with LEDGER.open() as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_one_row_of_the_table_is_one_figure_of_a_family(experiment):
    # The table to read has a row for each claim: two figures of one family would hide one of them.
    assert not claims.published(experiment).duplicated(["claim", "unit", "family"]).any()


def value(table, metric, family):
    """Return one published value."""
    row = table[(table["metric"] == metric) & (table["family"] == family)]
    return row["value"].iloc[0]


def test_published_means_are_those_of_their_families():
    table = claims.published("exp09")
    names = ("late_half.raw", "late_half.tuned", "early_third.raw", "early_third.tuned", "late_third.raw")
    for metric, digit in [(f"kl_excess_{n}", 6e-3) for n in names] + [
        ("delta_cosine_shift.final_fifth", 6e-4)
    ]:
        mean = np.mean([value(table, metric, family) for family in params.FAMILIES])
        assert value(table, metric, "mean") == pytest.approx(mean, abs=digit)


@pytest.mark.parametrize(
    "cell",
    ["raw.top1_strict", "raw.kl_stays_0.1", "tuned.top1_strict", "tuned.kl_stays_0.1", "tuned.majority_0.1",
     "tuned.kl_stays_0.5"],
)  # fmt: skip
def test_published_delays_are_differences_of_published_layers(cell):
    table = claims.published("exp09")
    for family in params.FAMILIES:
        pt, it = (value(table, f"commitment.{cell}.{v}", family) for v in params.VARIANTS)
        assert value(table, f"commitment_delay.{cell}", family) == pytest.approx(it - pt)


SHIFTS = {
    "exp03": (
        "phase_kl_adjacent",
        "phase_of_mind",
        "turnover",
        "gini",
        "n50",
        "late_change_structural_share",
    ),
    "exp09": ("cosine_to_final_onset", "matched_kl_final_fifth"),
}
RENAMED = {
    "cosine_to_final_onset": "cosine_to_final_shift.onset",
    "matched_kl_final_fifth": "matched_gap_final_fifth",
}


@pytest.mark.parametrize("experiment, start", [(e, s) for e, starts in SHIFTS.items() for s in starts])
def test_published_shifts_are_differences_of_published_levels(experiment, start):
    table, seen = claims.published(experiment), 0
    for row in table[table["metric"].str.startswith(RENAMED.get(start, f"{start}_shift"))].itertuples():
        suffix = row.metric.removeprefix(RENAMED.get(start, f"{start}_shift"))
        levels = [
            table[(table["metric"] == f"{start}{suffix}.{v}") & (table["family"] == row.family)][
                "value"
            ].values
            for v in params.VARIANTS
        ]
        differences = np.subtract.outer(levels[1], levels[0])  # a level may be given by two sources
        assert np.isclose(differences, row.value, atol=0.011).any(), row.id
        seen += 1
    assert seen


def test_reversed_cells_are_marked_as_contradicting():
    table = claims.published("exp09")
    later = table[table["metric"].str.startswith("commitment_delay") & (table["value"] < 0)]
    assert set(later["verdict"]) == {"contradicted"}
    assert set(later["family"]) == {"deepseek", "qwen", "llama"}


FAMILY = {
    "gemma": "gemma3_4b", "llama": "llama31_8b", "qwen": "qwen3_4b", "mistral": "mistral_7b",
    "deepseek": "deepseek_v2_lite", "olmo": "olmo2_7b", "mean": "pooled6", "all": "all6",
}  # fmt: skip
# Metric of the ledger -> metric of claims.csv.
SAME = {
    "kl_excess_late_half.raw": "CG_raw",
    "kl_excess_late_half.tuned": "CG_tuned",
    **{f"kl_excess_{third}_third.tuned": f"mean_KL_excess_tuned_{third}_third" for third in ("early", "middle", "late")},
    "kl_first_layer.raw.pt": "KL_raw_layer0_PT",
    "kl_first_layer.raw.it": "KL_raw_layer0_IT",
    "kl_excess_final_eight.tuned.least": "KL_excess_tuned_final8_min",
    "kl_excess_final_eight.tuned.most": "KL_excess_tuned_final8_max",
    "crossover.raw": "crossover_width",
    "reversals": "reversal_count",
    "steps.pt": "n_steps_pt",
    "steps.it": "n_steps_it",
    **{
        f"commitment{part}.{lens}.{rule}{end}": f"commit_{lens}_{name}_noflip_{other}"
        for lens in ("raw", "tuned")
        for rule, name in (("top1_strict", "top1"), ("kl_stays_0.1", "kl0.1"))
        for part, end, other in (("_delay", "", "delay"), ("", ".pt", "PT_mean"), ("", ".it", "IT_mean"))
    },
    "commitment_delay.tuned.majority_0.1": "commit_tuned_majority0.1_delay",
    "commitment.tuned.majority_0.1.pt": "commit_tuned_majority0.1_PT_mean",
    "commitment.tuned.majority_0.1.it": "commit_tuned_majority0.1_IT_mean",
    "commitment_delay.cosine_0.95": "commit_cosine0.95_delay",
    **{
        f"commitment_delay_median.{lens}.{rule}": f"commit_{name}_{lens}_delay"
        for lens in ("raw", "tuned")
        for rule, name in (("top1_strict", "top1"), ("kl_stays_0.1", "kl0.1"))
    },
    "commitment_delay_median.raw.top1_first": "commit_delay_top1_raw",
    "commitment_delay_median.tuned.top1_first": "commit_delay_top1_tuned",
    "commitment_delay_median.tuned.top1_stable3": "commit_delay_noflipback_tuned",
    "commitment_delay_median.raw.kl_first_0.1": "commit_delay_kl0.1_raw",
    "commitment_delay_median.tuned.kl_first_0.1": "commit_delay_kl0.1_tuned",
    "commitment_delay_median.tuned.majority_0.1": "commit_delay_majority0.1_tuned",
    **{
        f"delta_cosine_shift.{name}": f"delta_cos_shift_{other}"
        for name, other in {
            "depth_0.5_0.7": "depth0.5-0.7", "depth_0.7_0.9": "depth0.7-0.9", "depth_0.9_1.0": "depth0.9-1.0",
            "last_layer": "last_layer", "final_fifth": "final20pct", "early_third": "early_third",
            "middle_third": "middle_third", "late_third": "late_third",
        }.items()
    },
    "delta_cosine_last_layer.pt": "delta_cos_layer35[PT]",
    "delta_cosine_last_layer.it": "delta_cos_layer35[IT]",
    "cosine_to_final_shift.mean": "cos_to_final_diff_mean",
    "cosine_to_final_shift.extreme": "cos_to_final_diff_extreme",
    "weight_peak_layer.mlp": "L3_delta_mlp_argmax",
    "weight_peak_layer.attention": "L3_delta_attn_argmax",
    "weight_peak_band.first": "peak_layer_band_start",
    "weight_peak_band.last": "peak_layer_band_end",
    "late_participation_ratio_shift.native": "delta_pr_late_mean",
    "late_effective_rank_shift.native": "delta_erank_late_mean",
    "late_first_share_shift.native": "delta_pc1_late_mean",
    "late_dimension_shift.two_nn.native": "late_delta_twonn",
    "late_dimension_shift.mle.native": "late_delta_mle",
    "late_dimension_shift.lpca.native": "late_delta_lpca",
    "late_dimension_shift.two_nn_stored.native": "delta_id_late_mean",
    "n_positive.late_dimension_shift.two_nn.native": "n_families_twonn_positive",
    "n_positive.late_dimension_shift.mle.native": "n_families_mle_positive",
    "n_positive.late_dimension_shift.lpca.native": "n_families_lpca_positive",
    "n_positive.late_participation_ratio_shift.native": "n_families_participation_ratio_positive",
    "n_positive.late_effective_rank_shift.native": "n_families_effective_rank_positive",
    "n_negative.late_first_share_shift.native": "n_families_pc1_lower",
    "attention_entropy_shift.native": "attn_entropy_diff",
    "lens_improvement.pt": "tuned_improvement_60pct",
    "recipe.learning_rate": "sgd_lr",
    "recipe.momentum": "momentum",
    "recipe.steps": "steps",
    "recipe.tokens_per_step": "tokens_per_step",
    "recipe.activations": "total_token_activations",
    "recipe.clip": "grad_clip",
    "recipe.scale_gemma": "lr_scale_gemma",
    "recipe.scale_qwen_deepseek": "lr_scale_qwen_deepseek",
    "recipe.scale_others": "lr_scale_others",
    **{f"onset.sigma_{k}": f"onset_layer_{float(k)}sigma" for k in ("0.5", "0.75", "1", "1.5", "2")},
    **{f"onset.drop_{tau}": f"onset_layer_abs{tau}" for tau in ("0.02", "0.05", "0.1", "0.15")},
    "onset_depth.least": "onset_depth_min",
    "onset_depth.most": "onset_depth_max",
    **{f"{ours}.{v}": f"{theirs}[{v.upper()}]" for v in ("pt", "it") for ours, theirs in {
        "gini": "gini", "n50": "N50_features", "active_features": "active_features_per_layer",
        "median_activation": "median_activation", "p90_activation": "p90_activation",
        "late_change_structural_share": "mind_change_structural_share",
    }.items()},
    "neuron_overlap.k100": "jaccard_k100",
    "neuron_overlap.k1000": "jaccard_k1000",
    "token_share.matched": "token_share[matched]",
    "token_share.divergent": "token_share[divergent]",
    "kl_adjacent_burst.layers_5_6": "adjacent_layer_KL[layers5-6]",
    "kl_adjacent_burst.layers_15_17": "adjacent_layer_KL[layers15-17]",
    "kl_adjacent_burst.layers_27_28": "adjacent_layer_KL[layers27-28]",
}  # fmt: skip


def rounds_to(typed, exact):
    """Return whether a figure as typed is an exact one, rounded to the digits that were typed."""
    digits = len(typed.partition(".")[2])
    return abs(float(typed) - exact) <= 0.5000001 * 10**-digits


def test_figures_are_those_of_the_reference():
    if not REFERENCE.exists():
        pytest.skip(
            f"{REFERENCE} is not here; the published figures are checked where the study's tables are"
        )
    stored = {}
    with REFERENCE.open() as file:
        for row in csv.DictReader(file):
            if row["value"]:
                stored.setdefault((row["metric"], row["family"]), []).append(float(row["value"]))
    with LEDGER.open() as file:
        rows = [
            row for row in csv.DictReader(file) if row["metric"] in SAME and row["value"] not in ("", "-1")
        ]
    checked = {row["metric"] for row in rows}
    assert checked == set(SAME)
    for row in rows:
        exact = [
            x for key in (row["family"], "all") for x in stored.get((SAME[row["metric"]], FAMILY[key]), [])
        ]
        if row["family"] == "mean" and not exact:
            continue  # computed from the families
        assert any(rounds_to(row["value"], x) for x in exact), (row["id"], exact)


# A run's values


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_ledger_and_a_table(experiment):
    results = {family.title(): made(experiment, family, i) for i, family in enumerate(params.FAMILIES)}
    table = ledger.ledger(experiment, results, quantities_of(experiment), n_resamples=50)
    figures = claims.published(experiment)
    assert set(table["id"]) == set(figures["id"]) and len(table) == len(figures)
    shown = ledger.beside(experiment, results, quantities_of(experiment), n_resamples=50)
    read, kept = shown.table, table[table["run"].notna()]
    if kept.empty:
        assert f"None of the {len(table)} published figures is measured here" in shown.html
    else:
        assert set(read.columns) >= {"unit", *results, "audit", "source"}
        assert set(read.index) == set(ledger_table.with_minus(kept["claim"]))
    assert (table[table["run"].isna()]["agreement"] == "").all()


def test_an_experiment_without_published_figures_has_an_empty_table():
    results = {"Gemma": synthetic.dataset("gemma", "exp01", n_prompts=24)}
    shown = ledger.beside("exp01", results, quantities_of("exp01"))
    assert shown.table.empty and "0 of 0 published figures" in shown.html
    assert ledger.ledger("exp01", results, quantities_of("exp01")).empty


def test_figures_are_published_of_experiments_that_are_here():
    assert len(PUBLISHED) > 8 and set(PUBLISHED) < set(experiments.slices())


def check(experiment, expected, seed=0):
    """Compare a made-up dataset's metrics with expected values; return its metrics."""
    found = measured(made(experiment, seed=seed), n_resamples=200)
    for metric, wanted in expected.items():
        assert found.loc[metric, "value"] == pytest.approx(wanted, rel=1e-6), metric
    paired = found[found["low"].notna() & ~found.index.str.startswith("onset")]
    assert (paired["low"] <= paired["value"] + 1e-12).all()
    assert (paired["value"] <= paired["high"] + 1e-12).all()
    return found


def test_intervals_are_bca_over_prompts():
    result = made("exp09")
    kl = result["kl_final_layer"].sel(lens="tuned").transpose("variant", "prompt", "layer").values
    gap = (kl[1] - kl[0])[:, 6:].mean(1)
    wanted = stats.bca_mean(gap)
    found = measured(result).loc["kl_excess_late_half.tuned", list(ledger.ENDS)]
    assert found.tolist() == pytest.approx([float(x) for x in wanted])


def test_a_value_of_fewer_than_five_prompts_is_none():
    result = made("exp09")
    result["commitment"][:] = np.where(np.arange(20) < 4, result["commitment"], np.nan)
    found = measured(result, n_resamples=50)
    assert np.isnan(found.loc["commitment_delay.raw.top1_strict", "value"])
    assert found.loc["kl_excess_late_half.raw", "value":"high"].notna().all()


@pytest.mark.parametrize("lens", ["raw", "tuned"])
def test_gaps_are_those_of_a_plain_loop(lens):
    result = made("exp09")
    kl = result["kl_final_layer"].sel(lens=lens).transpose("variant", "prompt", "layer").values
    gap = kl[1] - kl[0]
    above = [gap[:, layer].mean() > 0 for layer in range(N)]
    matched = result["kl_layer_final_matched"].sel(history="it", basis="own", lens=lens)
    pt, it = matched.transpose("variant", "prompt", "layer").values[..., 9:].mean((1, 2))
    crossover = 0
    while crossover < N and not above[N - 1 - crossover]:
        crossover += 1
    check(
        "exp09",
        {
            f"kl_excess_late_half.{lens}": gap[:, 6:].mean(),
            f"kl_excess_early_third.{lens}": gap[:, :4].mean(),
            f"kl_excess_middle_third.{lens}": gap[:, 4:8].mean(),
            f"kl_excess_late_third.{lens}": gap[:, 8:].mean(),
            f"kl_excess_final_fifth.{lens}": gap[:, 9:].mean(),
            f"layers_above.{lens}": np.mean(above[6:-1]),
            f"crossover.{lens}": crossover,
            f"kl_first_layer.{lens}.it": kl[1, :, 0].mean(),
            f"matched_kl_final_fifth.{lens}.pt": pt,
            f"matched_kl_final_fifth.{lens}.it": it,
            f"matched_gap_final_fifth.{lens}": it - pt,
        },
    )


@pytest.mark.parametrize("lens", ["raw", "tuned"])
@pytest.mark.parametrize("rule", RULES["exp09"])
def test_commitment_levels_are_those_of_the_pooled_steps(lens, rule):
    result, pooled = made("exp09", seed=3), {}
    for variant in params.VARIANTS:
        counts = result["commitment_count"].sel(lens=lens, rule=rule, variant=variant).values
        pooled[variant] = np.repeat(np.arange(counts.size), counts)
    median = np.subtract(*(np.quantile(pooled[v], 0.5, method="inverted_cdf") for v in ("it", "pt")))
    layer = result["commitment"].sel(lens=lens, rule=rule).transpose("variant", "prompt").values
    delay = np.mean([it - pt for pt, it in zip(*layer)])
    expected = {f"commitment.{lens}.{rule}.{v}": pooled[v].mean() for v in params.VARIANTS}
    expected[f"commitment_delay.{lens}.{rule}"] = delay
    expected[f"commitment_delay_by_prompt.{lens}.{rule}"] = delay
    check("exp09", expected | {f"commitment_delay_median.{lens}.{rule}": median}, seed=3)


def test_updates_and_end_points_are_those_of_a_plain_loop():
    result = made("exp09")
    cosine = result["delta_cosine"].sel(component="block").transpose("variant", "prompt", "layer").values
    final = result["cosine_to_final"].transpose("variant", "prompt", "layer").values
    shift, moved = cosine[1] - cosine[0], final[1] - final[0]
    by_layer = moved.mean(0)
    last = result.sel(lens="raw", layer=N - 1)
    steps = [
        sum(max(int(n) - 1, 0) for n in row)
        for row in result["n_tokens"].transpose("variant", "prompt").values
    ]
    check(
        "exp09",
        {
            "delta_cosine_shift.depth_0.5_0.7": shift[:, 6:8].mean(),
            "delta_cosine_shift.depth_0.7_0.9": shift[:, 8:10].mean(),
            "delta_cosine_shift.depth_0.9_1.0": shift[:, 10:].mean(),
            "delta_cosine_shift.early_third": shift[:, 1:4].mean(),
            "delta_cosine_shift.middle_third": shift[:, 4:8].mean(),
            "delta_cosine_shift.late_third": shift[:, 8:].mean(),
            "delta_cosine_shift.final_fifth": shift[:, 9:].mean(),
            "delta_cosine_shift.last_layer": shift[:, 11].mean(),
            "delta_cosine_layers_below.final_fifth": np.mean([shift[:, i].mean() < 0 for i in (9, 10, 11)]),
            "delta_cosine_last_layer.it": cosine[1, :, 11].mean(),
            "cosine_to_final_shift.mean": moved.mean(),
            "cosine_to_final_shift.extreme": max(by_layer, key=abs),
            "cosine_to_final_shift.onset": moved[:, 7].mean(),
            "cosine_to_final_onset.pt": final[0, :, 7].mean(),
            "final_entropy.pt": last["entropy"].sel(variant="pt").values.mean(),
            "final_top1_probability.it": last["top1_probability"].sel(variant="it").values.mean(),
            "steps.pt": steps[0],
            "steps.it": steps[1],
        },
    )


@pytest.mark.parametrize("experiment", ["exp02", "exp09"])
def test_weight_change_is_that_of_a_plain_loop(experiment):
    rms, expected = made(experiment)["weight_rms"], {}
    for group in ("mlp", "attention"):
        values = [float(rms.sel(group=group, layer=layer)) for layer in range(N)]
        mean = sum(values) / N
        expected |= {
            f"weight_mean.{group}": mean,
            f"weight_variation.{group}": (sum((x - mean) ** 2 for x in values) / N) ** 0.5 / mean,
            f"weight_peak_layer.{group}": values.index(max(values)),
            f"weight_late_ratio.{group}": np.mean(values[7:]) / np.mean(values[:7]),
            f"weight_last_third_ratio.{group}": np.mean(values[8:]) / np.mean(values[:8]),
        }
    check(experiment, expected)


@pytest.mark.parametrize("experiment", ["exp04", "exp09"])
def test_clouds_are_those_of_a_plain_loop(experiment):
    result, expected = made(experiment), {}
    for reading, (pt, it) in {
        "raw": ("raw", "raw"),
        "chat": ("chat", "chat"),
        "native": ("raw", "chat"),
    }.items():

        def shifted(name, pt=pt, it=it, **at):
            of = result[name].sel(**at)
            order = [dim for dim in ("cloud_prompt", "layer") if dim in of.dims]
            it_values, pt_values = (
                of.sel(variant=v, template=t).transpose(*order).values for v, t in (("it", it), ("pt", pt))
            )
            return it_values - pt_values

        for estimator in ("two_nn", "mle"):
            one = shifted("dimension", estimator=estimator)
            expected[f"late_dimension_shift.{estimator}.{reading}"] = np.mean(one[9:])
            expected[f"last_dimension_shift.{estimator}.{reading}"] = one[11]
        for name in SPECTRA:
            expected[f"late_{name}_shift.{reading}"] = shifted(name)[9:].mean()
        entropy = shifted("attention_entropy")
        expected |= {
            f"attention_entropy_shift.{reading}": entropy.mean(),
            f"attention_entropy_shift_third.{reading}": entropy[:, 3:6].mean(),
            f"attention_entropy_shift_third_layer.{reading}": entropy[:, 4].mean(),
            f"attention_entropy_peak_layer.{reading}": np.argmax(
                [abs(entropy[:, i].mean()) for i in range(N)]
            ),
        }
    check(experiment, expected)


def test_the_dip_is_that_of_a_plain_loop():
    result, expected = made("exp04"), {}
    for i, variant in enumerate(params.VARIANTS):
        curve = result["dimension"].sel(estimator="two_nn", template="raw", variant=variant).values.tolist()
        at = (3, 4)[i]
        expected |= {
            f"lowest_layer.{variant}": at,
            f"dimension_lowest.{variant}": curve[at],
            f"dimension_last.{variant}": curve[-1],
            f"dimension_minimum_layer.{variant}": curve.index(min(curve)),
            f"sharpness.{variant}": float(result["sharpness"].sel(template="raw", variant=variant)),
            # The study takes both at the layer of IT's dip, 4.
            f"sharpness_at_it_dip.{variant}": abs(curve[3] - curve[5]) / max(curve[3], curve[5]),
        }
    expected["sharpness_ratio"] = expected["sharpness.it"] / expected["sharpness.pt"]
    at_it = (expected[f"sharpness_at_it_dip.{v}"] for v in ("it", "pt"))
    expected["sharpness_at_it_dip_ratio"] = np.divide(*at_it)
    check("exp04", expected)


def test_kinds_and_templates_are_those_of_a_plain_loop():
    result, expected = made("exp02"), {}
    block = result["delta_cosine"].sel(component="block")
    for kind in ("IC", "OOC", "R"):
        for place, layer in {"onset": 7, "last_layer": 11}.items():
            of = {}
            for name, condition in {"pt": "PT", "it": "IT", "it_plain": "IT without template"}.items():
                values = block.sel(condition=condition, layer=layer).values
                of[name] = np.mean([x for x, category in zip(values, CATEGORIES) if category == kind])
                expected[f"delta_cosine_{place}.{kind}.{name}"] = of[name]
            expected[f"template_shift.{place}.{kind}"] = of["it"] - of["it_plain"]
    found = check("exp02", expected)
    assert found.loc[list(expected), "low"].notna().all()


def own(result, name, variant, **at):
    """Return a variable of one model on its own text."""
    return result[name].sel(variant=variant, history=variant, **at)


def test_revision_is_that_of_a_plain_loop():
    result, expected = made("exp03"), {}
    phases = {"content": range(1, 5), "format": range(5, 7), "corrective": range(7, 12)}
    for phase, layers in phases.items():
        parts = {
            f"phase_of_mind.{phase}": lambda v, p=phase: own(result, "phase_of_mind", v, phase=p, lens="raw")
        }
        parts[f"turnover.{phase}"] = lambda v, at=layers: own(
            result, "turnover", v, lens="raw", layer=list(at)
        )
        for lens in ("raw", "tuned"):
            parts[f"phase_kl_adjacent.{phase}.{lens}"] = (
                lambda v, p=phase, lens=lens: own(result, "phase_kl_adjacent", v, phase=p, lens=lens)
            )  # fmt: skip
        for name, read in parts.items():
            pt, it = (read(v).values.mean() for v in params.VARIANTS)
            first, _, rest = name.partition(".")
            expected |= {f"{name}.pt": pt, f"{name}.it": it, f"{first}_shift.{rest}": it - pt}
    for stratum in ("low", "medium", "high"):
        at = dict(stratum=stratum, rule="kl_continuous", lens="raw")
        for end in ("", "_layer_final"):
            name = f"commitment_by_confidence{end}"
            pt, it = (own(result, name, v, **at).values.mean() for v in params.VARIANTS)
            expected |= {f"{name}.{stratum}.it": it, f"delay_by_confidence{end}.{stratum}": it - pt}
    cosines = [
        own(result, "delta_cosine", v, layer=list(phases["corrective"])).values.mean()
        for v in params.VARIANTS
    ]
    expected |= {
        "delta_cosine_corrective.pt": cosines[0],
        "delta_cosine_corrective_shift": cosines[1] - cosines[0],
    }
    check("exp03", expected)


def test_late_changes_and_concentration_are_those_of_a_plain_loop():
    result, expected, shares = made("exp03"), {}, {}
    # A class that IT never writes has no rate.
    result["late_mind_change"].loc[dict(variant="it", history="it", token_class="discourse")] = np.nan
    for variant in params.VARIANTS:
        change = dict.fromkeys(COORDS["token_class"], 0.0)
        for name in change:
            rate = own(result, "late_mind_change", variant, token_class=name, lens="raw").values
            share = float(own(result, "class_share", variant, token_class=name))
            change[name] = 0.0 if np.isnan(rate).all() else rate.mean() * share
        structural = change["structural"] + change["punctuation"] + change["discourse"]
        shares[variant] = expected[f"late_change_structural_share.{variant}"] = structural / sum(
            change.values()
        )
        for name in ("gini", "n50", "n90"):
            expected[f"{name}.{variant}"] = np.mean(
                [float(result[name].sel(variant=variant)[i]) for i in range(7, 12)]
            )
    expected["late_change_structural_share_shift"] = shares["it"] - shares["pt"]
    expected["gini_shift"] = expected["gini.it"] - expected["gini.pt"]
    expected["neuron_overlap.k10"] = result["neuron_overlap"].sel(k=10, layer=range(7, 12)).values.mean()
    found = measured(result, n_resamples=50)["value"]
    for metric, wanted in expected.items():
        assert found[metric] == pytest.approx(wanted), metric


def test_lens_quality_is_that_of_a_plain_loop():
    result, expected = made("exp07_0g"), {}
    for variant in params.VARIANTS:
        raw, tuned = (
            result["kl_final_layer"].sel(variant=variant, lens=lens, layer=7).values.tolist()
            for lens in ("raw", "tuned")
        )
        expected[f"lens_improvement.{variant}"] = 1 - (sum(tuned) / len(tuned)) / (sum(raw) / len(raw))
        expected[f"last_layer_kl.{variant}"] = float(result["last_layer_kl"].sel(variant=variant))
        for lens in ("raw", "tuned"):
            agreement = result["top1_agreement"].sel(variant=variant, lens=lens)
            expected[f"top1_agreement.{lens}.{variant}"] = agreement.values.mean()
            expected[f"top1_agreement_last_layer.{lens}.{variant}"] = agreement.sel(layer=11).values.mean()
    check("exp07_0g", expected)


def test_the_interval_of_a_ratio_is_that_of_resampled_ratios():
    rng = np.random.default_rng(0)
    raw = xr.DataArray(rng.uniform(2, 4, 200), dims="prompt")
    tuned = raw * 0.5 + rng.normal(0, 0.3, 200)
    low, high = (float(x) for x in stats.bca_mean(exp07_0g_quantities.ratio(raw - tuned, raw))[1:])
    drawn = rng.integers(0, 200, (4000, 200))
    ratios = 1 - tuned.values[drawn].mean(1) / raw.values[drawn].mean(1)
    assert [low, high] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.003)


def test_onsets_are_those_of_the_block():
    result = made("exp07_0j")
    result["onset"].loc[dict(component="block")] = [4, 9, 6, -1]
    found = measured(result)
    assert found.loc[
        ["onset.sigma_0.5", "onset.sigma_2", "onset.drop_0.02", "onset.drop_0.15"], "value"
    ].tolist() == [4, 9, 6, -1]
    assert found.loc["onset.sigma_2", "low"] == float(result["onset_low"].sel(component="block", rule="2 σ"))
    assert found.loc[["onset_span.sigma", "onset_span.all"], "value"].tolist() == [5, 5]
    assert (
        found.loc["onset_depth.least", "value"] == 4 / 12 and found.loc["onset_depth.most", "value"] == 9 / 12
    )
    # 4 and 9 are those of the σ rules; the drop rules have 6 and none.
    assert found.loc["onset_depth_sigma.most", "value"] == 9 / 12
    result["onset"].loc[dict(component="block")] = [4, 5, 11, -1]
    found = measured(result)["value"]
    assert found[["onset_depth_sigma.most", "onset_depth.most"]].tolist() == [5 / 12, 11 / 12]
    result["onset"].loc[dict(component="block")] = -1
    assert measured(result).loc[["onset_span.all", "onset_depth.least"], "value"].isna().all()


def test_an_onset_that_no_rule_finds_is_named_so():
    result = made("exp07_0j")
    result["onset"].loc[dict(component="block", rule="2 σ")] = -1
    table = ledger.beside("exp07_0j", {"Gemma": result}, quantities_of("exp07_0j")).table
    (row,) = table.filter(like="onset by 2 σ", axis=0).itertuples()
    assert row.published == "20" and row._3.startswith("none") and row._4 == "no"


@pytest.mark.slow
def test_counts_of_families_are_those_of_their_signs():
    results = {family: made("exp09", family, i) for i, family in enumerate(params.FAMILIES)}
    runs = [measured(result, n_resamples=50)["value"] for result in results.values()]
    table = ledger.ledger("exp09", results, quantities_of("exp09"), n_resamples=50).set_index("metric")["run"]
    shift = "late_dimension_shift.two_nn.native"
    assert table[f"n_positive.{shift}"] == sum(run[shift] > 0 for run in runs)
    axis = "late_first_share_shift.native"
    assert table[f"n_negative.{axis}"] == sum(run[axis] < 0 for run in runs)
    cells = [
        f"commitment_delay.{lens}.{rule}"
        for lens in ("raw", "tuned")
        for rule in ("top1_first", "top1_stable3", "kl_first_0.1", "majority_0.1")
    ]
    assert table["reversals"] == sum(run[cell] < 0 for run in runs for cell in cells)


# A file that cannot be read

WRONG = {
    "unknown verdict": ("supported", "suported", "unknown verdict 'suported'; did you mean 'supported'"),
    "unknown family": (",gemma,", ",gema,", "unknown family 'gema'; did you mean 'gemma'"),
    "test": (",~0±0.05,", ",about 0,", "exp02.01.*claim_test 'about 0' is no claim test: a bound"),
    "column": ("claim_test", "test", "must have the columns id, claim, claim_test"),
}


@pytest.mark.parametrize("before, after, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_ledger_file_is_named(project, before, after, sentence):
    (project / "params/published.csv").write_text(LEDGER.read_text().replace(before, after, 1))
    with pytest.raises(claims.ClaimError, match=sentence):
        claims.published("exp09")


def test_a_sentence_has_no_test(project):
    text = LEDGER.read_text()
    before = "The distance is KL(layer ‖ final),,definition"
    assert before in text
    (project / "params/published.csv").write_text(text.replace(before, before.replace(",,", ",>0,")))
    with pytest.raises(claims.ClaimError, match="exp09.34.*a sentence without a number has no claim_test"):
        claims.published("exp09")


def test_a_double_id_is_refused(project):
    lines = LEDGER.read_text().splitlines()
    (project / "params/published.csv").write_text("\n".join([*lines[:2], lines[1]]))
    with pytest.raises(claims.ClaimError, match="occurs twice"):
        claims.published("exp09")
