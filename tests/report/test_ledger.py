"""The ledger: published figures beside a run, two judgments of each, and what is left out."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nbhelpers.core import params
from nbhelpers.report import claims, ledger, ledger_table
from nbhelpers.report.quantities import Quantity
from tests import synthetic
from tests.report.test_claims import EXPERIMENTS, GRAFTS, quantities_of
from tests.stubs import REPOSITORY


@pytest.fixture(scope="module")
def results():
    """Return made-up results of the six families."""
    return {family: synthetic.dataset(family, n_prompts=24) for family in params.FAMILIES}


@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_a_published_figure_is_a_quantity_or_has_a_reason(experiment):
    source = quantities_of(experiment)
    results = {family: synthetic.dataset(family, experiment, n_prompts=24) for family in params.FAMILIES}
    found = {family: source.quantities(result) for family, result in results.items()}
    runs = {family: ledger.measured(of, n_resamples=20) for family, of in found.items()}
    across = getattr(source, "across", lambda found: {})
    known = set(ledger.pooled(found, runs, list(runs), across)[0])
    published = set(claims.published(experiment)["metric"])
    reasons = {metric for metric in published if ledger.reason(metric, source)}
    assert published - known == reasons  # a figure that is measured has no reason not to be
    quantities = found["gemma"]
    for row in claims.published(experiment).itertuples():
        if row.metric in quantities:
            assert quantities[row.metric].unit in UNITS.get(row.unit, (row.unit,)), row.metric
    assert set(source.UNMEASURED) <= published


def test_every_figure_stands_in_the_ledger_once_a_family(results):
    table = ledger.ledger("exp09", results, quantities_of("exp09"))
    assert len(table) == len(claims.published("exp09"))
    unknown = table[table["metric"] == "steps_range.least"]
    assert set(unknown["note"]) == {ledger.UNMEASURED} and unknown["run"].isna().all()
    for lens in ("raw", "tuned"):
        gap = table[table["metric"] == f"kl_excess_late_half.{lens}"]
        assert gap["run"].notna().all() and set(gap["title"]) == {*params.FAMILIES, "mean"}
        six = gap[gap["family"] != "mean"]
        assert gap[gap["family"] == "mean"]["run"].iloc[0] == pytest.approx(six["run"].mean())


@pytest.mark.slow
def test_a_pool_needs_all_of_its_families(results):
    few = results["gemma"].isel(prompt=slice(3)).assign_attrs(results["gemma"].attrs)
    table = ledger.ledger("exp09", results | {"gemma": few}, quantities_of("exp09"))
    row = table[(table["metric"] == "kl_excess_late_half.raw") & (table["family"] == "mean")]
    assert row["run"].isna().all() and set(row["note"]) == {ledger.UNMEASURED}
    grafted = synthetic.results("exp14", n_prompts=12)
    grafted["DeepSeek"] = grafted["DeepSeek"].isel(prompt=slice(3))
    table = ledger.ledger("exp14", grafted, quantities_of("exp14"), n_resamples=50)
    pools = table[
        table["metric"].str.endswith("kl_shift.sufficiency.late") & table["family"].isin(["mean", "all"])
    ]
    known = pools.set_index("metric")["run"].groupby(level=0).first()
    assert np.isfinite(known["dense_five.kl_shift.sufficiency.late"])
    assert np.isnan(known["kl_shift.sufficiency.late"])


def test_a_profile_without_some_families_still_has_a_ledger(results):
    two = {"One": results["llama"], "Another": results["llama"]}
    table = ledger.ledger("exp09", two, quantities_of("exp09"))
    rows = table[table["metric"] == "kl_excess_late_half.raw"]
    assert rows[rows["family"] == "llama"]["title"].tolist() == ["One", "Another"]
    assert rows[rows["family"].isin(["gemma", "mean"])]["run"].isna().all()
    assert ledger.beside("exp09", two, quantities_of("exp09")).table.iloc[0]["audit"] == "supported"


@pytest.mark.parametrize(
    "centre, published, run, low, high, expected",
    [
        (0.0, 1.0, 0.3, 0.1, 0.5, "same sign"),
        (0.0, 1.0, -0.3, -0.5, -0.1, "other sign"),
        (0.0, 1.0, 0.3, -0.1, 0.5, "undecided"),
        (0.0, 0.0, 0.3, 0.1, 0.5, ""),  # zero has no sign
        (0.0, 0.9, np.nan, np.nan, np.nan, ""),
        (0.0, 0.9, 0.0, np.nan, np.nan, "undecided"),
        (0.5, 0.9, 0.2, np.nan, np.nan, "other sign"),
        (0.5, 0.9, 0.8, np.nan, np.nan, "same sign"),
        (0.5, 0.9, 0.5, np.nan, np.nan, "undecided"),
        (1.0, 1.1, 1.3, np.nan, np.nan, "same sign"),
        (1.0, 1.1, 0.9, np.nan, np.nan, "other sign"),
        (1.0, 1.0, 0.9, np.nan, np.nan, ""),
        (None, 0.9, 0.8, 0.7, 0.9, ""),
    ],
)
def test_agreement_is_of_signs_and_knows_its_doubt(centre, published, run, low, high, expected):
    assert claims.agreement(centre, published, run, low, high) == expected


# Units of published figures that a quantity names more plainly.
PLAIN = (
    "ratio", "share", "share of layers", "share of late-half layers but the last", "share of depth", "probability",
    "Jaccard index", "dimensions", "features", "r",
)  # fmt: skip
UNITS = dict.fromkeys(PLAIN, ("1",)) | {
    "layer": ("layer", "layers"),
    "length": ("residual units",),
    "onset layer": ("layers",),
}
CENTRES = {
    "exp02": {"delta_cosine_last_layer.IC.it_plain": 0.0},
    "exp04": {"sharpness_ratio": 1.0, "sharpness.it": None},
    "exp07_0g": {"lens_improvement.it": 0.0},
    "exp07_0j": {"onset.sigma_0.5": None},
    "exp09": {
        "kl_excess_late_half.raw": 0.0, "layers_above.tuned": 0.5, "final_entropy.pt": None,
        "matched_kl_final_fifth.tuned.it": None, "delta_cosine_layers_below.final_fifth": 0.5,
        "delta_cosine_last_layer.it": 0.0, "weight_late_ratio.mlp": 1.0, "weight_peak_layer.mlp": None,
    },
    "exp11": {"kl_level.d_late": None, "commitment_layer.c": None},
    "exp13": {
        "late_win.c": None, "late_win_shift.b_late": 0.0, "supported_share.content": None,
        "share_change.content": 0.0, "rank_win.late.content": None, "projection.anti_top1.c": 0.0,
    },
    "exp14": {"kl_shift.necessity.late": 0.0, "cross_kl_level.d_late": None},
}  # fmt: skip


@pytest.mark.parametrize("experiment", CENTRES)
def test_a_size_has_no_sign_and_a_change_has_one(experiment):
    result = synthetic.dataset("gemma", experiment, n_prompts=24)
    found = quantities_of(experiment).quantities(result)
    assert {name: found[name].centre for name in CENTRES[experiment]} == CENTRES[experiment]


# Two judgments of each figure, on constructed results

FIGURES = [
    # metric, family, claim_test, published, verdict
    ("shift", "gemma", "~0±0.05", -0.25, "contradicted"),
    ("shift", "llama", "~0±0.05", -0.02, "supported"),
    ("gap.late", "gemma", ">early,mid", 0.6, "supported"),
    ("gap.late", "llama", ">early,mid", 0.3, "supported"),
    ("size", "gemma", "", 0.4, "artifact value"),
    ("size", "llama", "", 0.5, "not checkable"),
    ("layer", "gemma", "~0.5±0.1 L", 17, "supported"),
    ("gap.late", "mean", ">0", 0.4, "supported"),
    ("n_positive.gap.late", "all", ">=6", 6, "supported"),
    ("unheard", "gemma", ">0", 1.0, "supported"),
    ("statement.one", "gemma", "", np.nan, "not checkable"),
]


def by_prompt(mean, spread=0.01, seed=0):
    """Return 20 values about a mean, [prompt]."""
    noise = np.random.default_rng(seed).normal(0, spread, 20)
    return xr.DataArray(mean + noise - noise.mean(), dims="prompt")


def constructed(figures=FIGURES):
    """Return a table of published figures like those of `claims.published`."""
    rows = [
        {
            "id": f"exp14.{i:02}.{metric}.{family}", "claim": f"Of {metric}", "claim_test": test, "metric": metric,
            "family": family, "value": value, "ci_low": np.nan, "ci_high": np.nan, "unit": "nats",
            "source_section": "paper §3", "verdict": verdict, "reason": f"because of {metric}",
        }
        for i, (metric, family, test, value, verdict) in enumerate(figures)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(claims.COLUMNS))


@pytest.fixture
def source(monkeypatch):
    """Return a slice's quantities of which each result names its own; the published figures are `FIGURES`."""
    monkeypatch.setattr(ledger, "published", lambda experiment: constructed())
    unmeasured = {"unheard": "nothing here hears it"}
    shown = {"gap.*": ("main_figure", by_prompt), "size": ("size_table", by_prompt)}
    return SimpleNamespace(
        quantities=lambda result: result.attrs["found"], UNMEASURED=unmeasured, SHOWN=shown
    )


def pair(family, n_layers=12, **values):
    """Return a result that holds quantities as given, {name: values}."""
    found = {name.replace("__", "."): Quantity(v, "nats", "shift", 0.0) for name, v in values.items()}
    return xr.Dataset(
        {"x": ("layer", np.zeros(n_layers))}, attrs={"model": f"{family}_pocket", "found": found}
    )


def beside(source, **results):
    """Return the rows of a ledger by metric and family."""
    return ledger.ledger("exp14", results, source).set_index(["metric", "family"])


def test_the_sign_of_a_number_is_not_the_claim(source):
    # The claim: hardly differs. −0.25 was published; a run with −0.09 has its sign and stands against the claim.
    rows = beside(source, A=pair("gemma", shift=by_prompt(-0.09)), B=pair("llama", shift=by_prompt(-0.02)))
    assert rows.loc[("shift", "gemma"), ["agrees", "agreement"]].tolist() == ["no", "same sign"]
    assert rows.loc[("shift", "llama"), ["agrees", "agreement"]].tolist() == ["yes", "same sign"]


def test_an_interval_that_reaches_both_sides_decides_nothing(source):
    rows = beside(source, A=pair("gemma", shift=by_prompt(-0.05, 0.05)))
    assert rows.loc[("shift", "gemma"), "agrees"] == "undecided"


def test_an_order_is_judged_by_differences_within_prompts(source):
    # All windows vary together from prompt to prompt: their intervals overlap, their differences are clear.
    common = by_prompt(0, 4.0)
    sure = dict(gap__late=common + 0.6, gap__early=common + 0.2, gap__mid=common + by_prompt(0.3, 0.01, 1))
    beaten = sure | {"gap__mid": common + 0.9}
    rows = beside(source, A=pair("gemma", **sure), B=pair("llama", **beaten))
    assert rows.loc[("gap.late", "gemma"), "agrees"] == "yes"
    assert rows.loc[("gap.late", "gemma"), "agreement"] == "undecided"
    assert rows.loc[("gap.late", "llama"), "agrees"] == "no"
    alone = beside(source, A=pair("gemma", gap__late=common, gap__early=common - 1))
    assert alone.loc[("gap.late", "gemma"), "agrees"] == ""  # the middle window was not measured


def test_an_order_of_numbers_without_prompts_is_that_of_the_numbers(source):
    rows = beside(source, A=pair("gemma", gap__late=0.3, gap__early=0.1, gap__mid=0.2))
    assert rows.loc[("gap.late", "gemma"), "agrees"] == "yes"


def test_a_claim_of_a_sign_and_an_order_needs_both(source, monkeypatch):
    monkeypatch.setattr(
        ledger,
        "published",
        lambda _: constructed([("gap.late", "gemma", ">0 & >early,mid", 0.6, "supported")]),
    )
    said = [
        beside(source, A=pair("gemma", gap__late=late, gap__early=early, gap__mid=early)).loc[
            ("gap.late", "gemma"), "agrees"
        ]
        for late, early in [(0.3, 0.1), (-0.1, -0.3), (0.1, 0.3)]
    ]
    assert said == ["yes", "no", "no"]


def test_an_order_of_means_over_families_is_not_that_of_the_first_family(source, monkeypatch):
    monkeypatch.setattr(
        ledger, "published", lambda _: constructed([("gap.late", "mean", ">early", 0.6, "supported")])
    )
    late = dict(zip(params.FAMILIES, [0.0, *[0.9] * 5]))
    rows = beside(
        source, **{f: pair(f, gap__late=by_prompt(v), gap__early=by_prompt(0.3)) for f, v in late.items()}
    )
    assert rows.loc[("gap.late", "mean"), "agrees"] == "yes"


def test_a_layer_is_judged_as_a_share_of_this_models_depth(source):
    of = {
        n: beside(source, A=pair("gemma", n, layer=6.0)).loc[("layer", "gemma"), "agrees"] for n in (12, 24)
    }
    assert of == {12: "yes", 24: "no"}


def six(source, late):
    """Return the rows of six families whose late gaps are as given."""
    return beside(source, **{f: pair(f, gap__late=by_prompt(v)) for f, v in zip(params.FAMILIES, late)})


def test_figures_of_all_families_are_judged_by_their_means_and_counts(source):
    rows = six(source, [0.3] * 6)
    assert rows.loc[("gap.late", "mean"), ["agrees", "agreement"]].tolist() == ["yes", "same sign"]
    assert rows.loc[("n_positive.gap.late", "all"), "agrees"] == "yes"
    rows = six(source, [0.1] * 5 + [-0.9])
    assert rows.loc[("gap.late", "mean"), ["agrees", "agreement"]].tolist() == ["no", "other sign"]
    assert rows.loc[("n_positive.gap.late", "all"), ["run", "agrees"]].tolist() == [5, "no"]


def test_what_has_no_value_says_why(source):
    rows = beside(source, A=pair("gemma", shift=by_prompt(0.1)))["missing"]
    assert rows["shift", "gemma"] == "" and rows["shift", "llama"] == "no pair here stands for Llama"
    assert rows["unheard", "gemma"] == "nothing here hears it"
    assert rows["statement.one", "gemma"] == "a definition or a statement without a number"
    assert rows["size", "gemma"].startswith("too few prompts in this run")
    assert rows["gap.late", "mean"] == "needs a value of each of the six families"


def test_the_table_counts_what_is_measured_and_names_the_rest(source):
    two = {"One": pair("gemma", shift=by_prompt(0.1), size=0.3), "Two": pair("llama", size=0.2)}
    shown = ledger.beside("exp14", two, source)
    assert list(shown.table.index) == ["Of shift", "Of size"]
    assert "3 of 11 published figures are measured here; 2 without a quantity in this book and" in shown.html
    assert "and 6 without a value in this run are named below with the reason" in shown.html
    assert shown.html.count("too few prompts in this run") == 1 and "nothing here hears it" in shown.html


def test_one_pair_has_columns_for_the_published_value_and_the_run(source):
    shown = ledger.beside("exp14", {"One": pair("gemma", shift=by_prompt(-0.09), size=0.3)}, source)
    heads = ["unit", "published", "this run", "agrees with the claim", "same sign", "audit", "source"]
    assert list(shown.table.columns) == heads
    row = shown.table.loc["Of shift"]
    assert row["published"] == "−0.25" and row["this run"].startswith("−0.090 [−0.09")
    assert row[heads[3:]].tolist() == ["no", "✓", "contradicted", "§3"]
    assert shown.table.loc["Of size", heads[3:]].tolist() == ["–", "✓", "artifact value", "§3"]
    assert "2 of 6 published figures" in shown.html  # those of the pair's family


def test_several_pairs_have_a_cell_each_and_judgments_are_counted(source):
    two = {
        "One": pair("gemma", shift=by_prompt(-0.09), size=0.3),
        "Two": pair("llama", shift=by_prompt(0.01), size=-0.2),
    }
    table = ledger.beside("exp14", two, source).table
    assert table.loc["Of shift", "One"].startswith("−0.25 → −0.090 [") and table.loc[
        "Of shift", "One"
    ].endswith("no ✓")
    assert table.loc["Of shift", "agrees with the claim"] == "1 yes, 1 no"
    assert table.loc["Of size", "same sign"] == "1 ✓, 1 ✗"
    assert table.loc["Of shift", "audit"] == "contradicted; supported: Llama"
    assert table.loc["Of size", "audit"] == "artifact value; not checkable: Llama"


def test_a_pair_without_published_figures_is_said_to_have_none(source, monkeypatch):
    monkeypatch.setattr(ledger, "published_family", lambda result: None)
    shown = ledger.beside("exp14", {"Mine": pair("gemma")}, source)
    assert "the study has no figures of this pair" in shown.table.loc["Mine", "published"]
    assert "the study has no figures of this pair" in shown.html and "Mine" in repr(shown)


def test_a_pair_beside_the_six_has_no_empty_column(source, monkeypatch):
    mine = pair("gemma", shift=by_prompt(0.3))
    monkeypatch.setattr(ledger, "published_family", lambda result: None if result is mine else "llama")
    shown = ledger.beside("exp14", {"Mine": mine, "Other": pair("llama", shift=by_prompt(0.3))}, source)
    assert "Mine" not in shown.table.columns and len(shown.table) == 1


# Where a reader goes from a figure


def anchors(text):
    """Return the ids of an HTML text, in order."""
    return re.findall(r' id="([^"]+)"', text)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_every_published_figure_is_an_anchor_once(experiment):
    made = {f: synthetic.dataset(f, experiment, n_prompts=12) for f in params.FAMILIES}
    source = quantities_of(experiment)
    shown = ledger.beside(experiment, made, source, n_resamples=20), ledger.not_measured(experiment, source)
    found = [name for one in shown for name in anchors(one.html)]
    assert sorted(found) == sorted(claims.published(experiment)["id"])
    few = ledger.beside(experiment, {"gemma": made["gemma"], "twin": made["gemma"]}, source, n_resamples=20)
    found = anchors(few.html) + anchors(shown[1].html)
    assert sorted(found) == sorted(claims.published(experiment)["id"])


def cells(experiment):
    """Return the anchors of the cells of an experiment's page across pairs: their names, or else ids."""
    path = REPOSITORY / "notebooks" / params.experiment(experiment).across
    found = [
        (c["metadata"].get("name") or c["id"]).replace("_", "-")
        for c in json.loads(path.read_text())["cells"]
    ]
    return set(found)


@pytest.mark.parametrize("experiment", EXPERIMENTS + GRAFTS)
def test_every_measured_figure_leads_to_its_chart_and_its_definition(experiment):
    source, page = quantities_of(experiment), cells(experiment)
    result = synthetic.dataset("gemma", experiment, n_prompts=12)
    givers = given(source, result)
    for metric in set(claims.published(experiment)["metric"]):
        if ledger.reason(metric, source):
            continue
        cell, function = ledger.shown(metric, source)
        assert cell.replace("_", "-") in page, (metric, cell)
        name = re.sub(r"^(dense_five|n_positive|n_negative)\.", "", metric)
        known = givers.get(name) or {"across"}
        assert function.__name__ in known | {"lead", "margin"}, (metric, function.__name__, known)


def given(source, result):
    """Return {quantity: names of the functions that return it in a dict}, from one call of `quantities`."""
    found = {}

    def watch(frame, event, value):
        if event == "return" and isinstance(value, dict):
            for name in value:
                if isinstance(name, str):
                    found.setdefault(name, set()).add(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        source.quantities(result)
    finally:
        sys.setprofile(None)
    return found


def test_a_link_leads_to_the_line_of_the_definition():
    text = ledger_table.link(("kl_excess_figure", ledger.measured))
    assert 'href="#kl-excess-figure"' in text
    line = int(re.search(r'href="\.\./source/nbhelpers/report/ledger\.html#L(\d+)"', text)[1])
    lines = (REPOSITORY / "nbhelpers/report/ledger.py").read_text().splitlines()
    assert lines[line - 1].startswith("def measured(")
