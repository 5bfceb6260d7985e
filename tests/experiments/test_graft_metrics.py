"""The ledger of experiments 11, 13 and 14: every figure has its quantity, and quantities are those of plain loops."""

import csv

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.experiments.exp13_token_support import quantities as exp13_quantities
from nbhelpers.experiments.exp13_token_support import support as exp13_support
from nbhelpers.report import ledger
from nbhelpers.report.graft_charts import CONDITIONS, lead
from tests import synthetic
from tests.report.test_claims import FAMILY, GRAFTS, REFERENCE, measured, quantities_of, rounds_to

ROWS = {"exp11": 342, "exp13": 392, "exp14": 236}
DENSE = [family for family in params.FAMILIES if family != "deepseek"]
WINDOWS = ("early", "mid", "late")
TUNED = {"lens": "tuned"}


@pytest.fixture(scope="module")
def results():
    """Return made-up results of the six families, {experiment: {family: dataset}}."""
    return {
        key: {family: synthetic.dataset(family, key, n_prompts=12) for family in params.FAMILIES}
        for key in GRAFTS
    }


def one(results, experiment):
    """Return a family's dataset and its quantities' means by name."""
    result = results[experiment]["llama"]
    found = {n: q.values for n, q in quantities_of(experiment).quantities(result).items()}
    mean = {name: float(np.mean(v.mean if isinstance(v, stats.Interval) else v)) for name, v in found.items()}
    return result, mean


# The figures


@pytest.mark.parametrize("experiment", GRAFTS)
def test_no_figure_is_lost(experiment):
    assert len(ledger.published(experiment)) == ROWS[experiment]


def typed(experiment):
    """Return the published values, {(claim number, metric): {family: value}}."""
    found = {}
    for row in ledger.published(experiment).itertuples():
        found.setdefault((row.id.split(".")[1], row.metric), {})[row.family] = row.value
    return found


@pytest.mark.parametrize("experiment", GRAFTS)
def test_means_are_those_of_the_six_families(experiment):
    means = [values for values in typed(experiment).values() if "mean" in values]
    assert means
    for values in means:
        six = [values[family] for family in params.FAMILIES]
        assert values["mean"] == pytest.approx(np.mean(six), abs=6e-3)


@pytest.mark.parametrize("experiment", GRAFTS)
def test_counts_of_families_are_those_of_typed_figures(experiment):
    figures = typed(experiment)
    counts = {metric: values["all"] for (_, metric), values in figures.items() if metric.startswith("n_")}
    assert counts
    for name, count in counts.items():
        sign = 1 if name.startswith("n_positive.") else -1
        # A late lead is a late margin of a late rise: no published late shift goes the other way.
        of = name.partition(".")[2].replace("late_lead", "late_margin")
        six = [v for (_, metric), v in figures.items() if metric == of and "gemma" in v]
        assert any(sum(sign * v[f] > 0 for f in params.FAMILIES) == count for v in six), name


@pytest.mark.parametrize("experiment", GRAFTS)
def test_dense_figures_are_means_of_the_five(experiment):
    figures, seen = typed(experiment), 0
    for (number, name), values in figures.items():
        metric = name.removeprefix("dense_five.")
        five = figures.get((number, metric), {})
        pooled_over_tokens = metric.startswith(("rank_gain.", "displaced_share", "supported_share"))
        if metric == name or pooled_over_tokens or not five:
            continue
        digit = 0.06 if metric.startswith("rank_gain") else 0.006
        assert values["all"] == pytest.approx(np.mean([five[f] for f in DENSE]), abs=digit), name
        seen += 1
    assert seen > 9


def test_differences_are_those_of_typed_figures():
    for experiment, start, sign in (
        ("exp11", "kl_shift.final_fifth", 1),
        ("exp14", "kl_shift.sufficiency", 1),
        ("exp14", "kl_shift.necessity", -1),
    ):
        figures = typed(experiment)
        whole = next(number for number, metric in figures if metric == f"{start}.early")
        lead = f"late_margin.{start.rpartition('.')[2]}" if experiment == "exp14" else "late_margin"
        leads = next(values for (_, metric), values in figures.items() if metric == lead)
        for family in params.FAMILIES:
            early, mid, late = (sign * figures[whole, f"{start}.{w}"][family] for w in WINDOWS)
            assert leads[family] == pytest.approx(late - max(early, mid), abs=2e-3)
            assert leads[family] > 0
    figures = {metric: values for (_, metric), values in typed("exp13").items()}
    for group in exp13_quantities.GROUPS:
        for family in params.FAMILIES:
            brought, lost = (figures[f"{name}_share.{group}"][family] for name in ("supported", "displaced"))
            assert figures[f"share_change.{group}"][family] == pytest.approx(brought - lost, abs=2e-3)


def test_levels_of_the_symmetric_run_give_its_shifts():
    # PT's own level is given by the depth run, too; the symmetric run's comes later.
    levels = {metric: v for (_, metric), v in typed("exp11").items() if metric.startswith("kl_level.")}
    shifts = {metric: v for (_, metric), v in typed("exp14").items()}
    for side, letter, base in (("sufficiency", "b", "a"), ("necessity", "d", "c")):
        for window in WINDOWS:
            for family in params.FAMILIES:
                after, before = (levels[f"kl_level.{n}"][family] for n in (f"{letter}_{window}", base))
                assert shifts[f"kl_shift.{side}.{window}"][family] == pytest.approx(after - before, abs=2e-3)


def test_figures_with_the_other_sign_are_marked_as_contradicting():
    table = ledger.published("exp13")
    directed = {f"rank_gain.late.{g}": 1 for g in exp13_quantities.GROUPS} | {"rank_gain_raw.b_late": 1}
    directed |= {"rank_gain.late.function_other": -1, "rank_gain_raw.d_late": -1}
    rows = table[table["metric"].isin(directed) & table["family"].isin(params.FAMILIES)]
    for row in rows[rows["claim"].str.contains(" move ")].itertuples():
        assert (row.verdict == "contradicted") == (row.value * directed[row.metric] < 0), row.id


SIDE = {"sufficiency": ("B", "raw"), "necessity": ("D", "ptswap")}
READ = {
    "kl_shift": "dKL_final20", "mlp_cosine_shift": "d_delta_cos_final20", "commitment_shift": "d_commit",
}  # fmt: skip
DEPTH = {"kl_shift": "kl_to_own_final", "cross_kl_shift": "cross_kl", "mlp_cosine_shift": "delta_cosine"}
PIPELINE = {"a": "A_prime_raw", "b_late": "B_late_raw", "c": "C_it_chat", "d_late": "D_late_ptswap"}
AXIS = {
    "support_teacher": "support_teacher_proj",
    "anti_top1": "anti_top1_proj",
    "anti_kl": "anti_kl_final_proj",
}
# (experiment, metric of the ledger) -> metric of claims.csv.
SAME = {
    **{("exp14", f"{ours}.{side}.{w}"): f"{theirs}_{letter}_{w}_{end}"
       for ours, theirs in READ.items() for side, (letter, end) in SIDE.items() for w in WINDOWS},
    **{("exp11", f"{ours}.{region}.{w}"): f"d_{theirs}_{other}_B_{w}_raw"
       for ours, theirs in DEPTH.items() for w in WINDOWS
       for region, other in (("final_fifth", "final_20pct"), ("window", "graft_window"))},
    ("exp11", "kl_shift.final_fifth.template"): "dKL_own_final20_B2-Atmpl",
    ("exp11", "commitment_shift.template"): "d_commit_kl0.1_B2-Atmpl",
    ("exp11", "reply_length.it"): "mean_length_C",
    **{("exp13", f"{role}_share.{g}"): f"{role}_{g.upper()}"
       for role in ("displaced", "supported") for g in exp13_quantities.GROUPS},
    **{("exp13", f"projection.{ours}.{k}"): f"{theirs}_{name}"
       for ours, theirs in AXIS.items() for k, name in PIPELINE.items()},
    **{("exp13", f"late_kl_r.{ours}"): f"pearson_r_{theirs}" for ours, theirs in AXIS.items()},
    ("exp13", "late_kl_r.delta_cosine"): "pearson_r_delta_cosine",
    ("exp13", "late_kl_r.remainder"): "pearson_r_orth_remainder_norm",
}  # fmt: skip
TWICE = {
    ("exp11", "kl_shift.final_fifth.late"): "dKL_own_final20_B-A_raw",
    ("exp11", "cross_kl_shift.final_fifth.late"): "dCrossKL_final20_B-A",
    ("exp11", "mlp_cosine_shift.final_fifth.late"): "d_delta_cos_final20_B-A",
    ("exp11", "commitment_shift.late"): "d_commit_kl0.1_B-A",
    **{("exp13", f"rank_gain.late.{g}"): f"rank_gain_{g.upper()}" for g in exp13_quantities.GROUPS},
}  # fmt: skip


def test_figures_are_those_of_the_reference():
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not here; the figures are checked where the study's tables are")
    stored = {}
    with REFERENCE.open() as file:
        for row in csv.DictReader(file):
            if row["value"]:
                key = row["metric"], row["family"]
                stored.setdefault(key, []).append(float(row["value"]))
    with (params.ROOT / "params/published.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["family"] in params.FAMILIES]
    for names, counted in ((SAME, True), (TWICE, False)):
        checked = dict.fromkeys(names, 0)
        for row in rows:
            key = row["id"].partition(".")[0], row["metric"]
            exact = stored.get((names.get(key), FAMILY[row["family"]]), [])
            agrees = any(rounds_to(row["value"], x) for x in exact)
            assert agrees or not counted or key not in names or key in TWICE, (row["id"], exact)
            if key in names:
                checked[key] += agrees
        few = {key: n for key, n in checked.items() if n < 6}
        assert not few, few


# A run's values


@pytest.mark.slow
@pytest.mark.parametrize("experiment", GRAFTS)
def test_a_run_has_a_ledger_and_a_table(results, experiment):
    made = {family.title(): result for family, result in results[experiment].items()}
    table, figures = (
        ledger.ledger(experiment, made, quantities_of(experiment), n_resamples=50),
        ledger.published(experiment),
    )
    assert set(table["id"]) == set(figures["id"]) and len(table) == len(figures)
    read = ledger.beside(experiment, made, quantities_of(experiment), n_resamples=50)
    heads = ["unit", "agrees with the claim", "same sign", "audit", *made, "all families", "source"]
    assert list(read.table.columns) == heads and len(read.table) > 30
    missing = set(table[table["run"].isna()]["metric"])
    assert all(ledger.reason(metric, quantities_of(experiment)) for metric in missing)
    counts = table[table["metric"].str.startswith("n_")]
    assert len(counts) and counts["run"].between(0, 6).all()
    one = {"One": results[experiment]["llama"]}
    assert len(ledger.beside(experiment, one, quantities_of(experiment), n_resamples=50).table) > 25


WINDOW = {"early": range(0, 5), "mid": range(3, 8), "late": range(7, 12), "template": range(7, 12)}
GRAFT = {
    "early": ("B_early", "A'"), "mid": ("B_mid", "A'"), "late": ("B_late", "A'"), "template": ("B2", "A'_tmpl"),
}  # fmt: skip
THROUGH_PT = {"lens": "tuned", "basis": "pt"}
VARIABLES = {
    "kl_shift": ("kl_layer_final", THROUGH_PT),
    "cross_kl_shift": ("kl_layer_teacher", THROUGH_PT),
    "mlp_cosine_shift": ("delta_cosine", {"component": "mlp"}),
}


def test_shifts_and_levels_are_those_of_plain_loops(results):
    result, found = one(results, "exp11")
    of_it, expected, late = result.sel(teacher="it"), {}, range(9, 12)
    for window, pair in GRAFT.items():
        for name, (variable, at) in VARIABLES.items():
            after, before = (
                of_it[variable].sel(condition=c, **at).transpose("prompt", "layer").values for c in pair
            )
            for region, layers in (("final_fifth", late), ("window", WINDOW[window])):
                changes = [after[p, i] - before[p, i] for p in range(12) for i in layers]
                expected[f"{name}.{region}.{window}"] = np.mean(changes)
        commitment = of_it["commitment"].sel(rule="kl_layer_final_0.1", **THROUGH_PT)
        after, before = (commitment.sel(condition=c).values.mean() for c in pair)
        expected[f"commitment_shift.{window}"] = after - before
    early, mid, high = (expected[f"kl_shift.final_fifth.{w}"] for w in WINDOWS)
    expected["late_lead"], expected["late_margin"] = high - max(early, mid, 0), high - max(early, mid)
    for short, name in CONDITIONS.items():
        at = {"condition": name, "lens": "tuned", "basis": "host"}
        for level, variable in (("kl_level", "kl_layer_final"), ("cross_kl_level", "kl_layer_teacher")):
            expected[f"{level}.{short}"] = of_it[variable].sel(layer=list(late), **at).values.mean()
        cosine = of_it["residual_cosine_teacher"].sel(condition=name, layer=list(late))
        expected[f"residual_cosine.{short}"] = cosine.values.mean()
        misses = of_it["first_divergence_teacher"].sel(condition=name).values
        expected[f"first_miss.{short}"] = misses.mean()
        missed = [miss for miss, length in zip(misses, of_it["n_tokens"].values) if miss < length]
        expected[f"first_miss_where_any.{short}"] = np.mean(missed) if len(missed) else np.nan
        at |= {"rule": "kl_layer_final_0.1", "basis": "pt"}
        expected[f"commitment_layer.{short}"] = of_it["commitment"].sel(at).values.mean()
        expected[f"agreement.{short}"] = of_it["agreement_teacher"].sel(condition=name).values.mean()
    expected["reply_length.it"] = of_it["n_tokens"].values.mean()
    left = {name: value for name, value in found.items() if not name.startswith(("shift.", "beyond."))}
    assert left == pytest.approx(expected, rel=1e-5, abs=1e-7, nan_ok=True)


def test_sides_and_windows_are_those_of_plain_loops(results):
    result, found = one(results, "exp14")
    expected, names = {}, {
        "kl_shift": ("kl_layer_final", "final_fifth"), "kl_window_shift": ("kl_layer_final", "window"),
        "commitment_shift": ("commitment", "final_fifth"), "mlp_cosine_shift": ("delta_cosine_mlp", "final_fifth"),
        "cross_kl_shift": ("kl_layer_teacher", "final_fifth"),
    }  # fmt: skip
    for side, letter in (("sufficiency", "b"), ("necessity", "d")):
        for window in WINDOWS:
            for name, (readout, region) in names.items():
                cell = {"readout": readout, "region": region, "side": side, "window": window, "basis": "host"}
                own = (
                    f"cross_kl_level.{letter}_{window}"
                    if (name, letter) == ("cross_kl_shift", "d")
                    else f"{name}.{side}.{window}"
                )
                expected[own] = sum(result["shift"].sel(lens="tuned", **cell).values.tolist()) / 12
            through_pt = dict(
                readout="kl_layer_final", region="final_fifth", side=side, window=window, basis="pt"
            )
            values = result["shift"].sel(lens="tuned", **through_pt).values
            expected[f"kl_shift_pt_lens.{side}.{window}"] = sum(values.tolist()) / 12
    early, mid, late = (expected[f"kl_shift.sufficiency.{w}"] for w in WINDOWS)
    expected["late_lead.sufficiency"] = late - max(early, mid, 0)
    expected["late_margin.sufficiency"] = late - max(early, mid)
    early, mid, late = (expected[f"kl_shift.necessity.{w}"] for w in WINDOWS)
    expected["late_lead.necessity"] = min(early, mid, 0) - late
    expected["late_margin.necessity"] = min(early, mid) - late
    left = {n: value for n, value in found.items() if not n.startswith(("shift.", "strongest_late."))}
    assert left == pytest.approx(expected, rel=1e-5, abs=1e-7)
    for readout, lens in (("js_teacher", "raw"), ("commitment", "tuned"), ("kl_layer_final", "tuned")):
        at = {"readout": readout, "side": "necessity", "window": "mid", "lens": lens, "basis": "host"}
        values = result["shift"].sel(region="final_fifth", **at).values
        assert found[f"shift.{readout}.necessity.mid.{lens}"] == pytest.approx(values.mean())
        at |= {"window": "late", "region": "final_fifth"}
        likely = float(result["strongest"].sel(at))
        assert found[f"strongest_late.{readout}.necessity.final_fifth.{lens}"] == pytest.approx(likely)
    assert found["late_lead.sufficiency"] > 0 and found["late_lead.necessity"] > 0


def test_replaced_tokens_are_those_of_plain_loops(results):
    result, found = one(results, "exp13")
    counts = result["replaced"].sel(condition="B_late", lens="tuned")
    where = {kind: group for group, kinds in exp13_support.GROUPS.items() for kind in kinds}
    lost, won = dict.fromkeys(exp13_support.GROUPS, 0), dict.fromkeys(exp13_support.GROUPS, 0)
    for before in counts.displaced.values.tolist():
        for after in counts.supported.values.tolist():
            n = int(counts.sel(displaced=before, supported=after).sum())
            lost[where[before]] += n
            won[where[after]] += n
    total = sum(lost.values())
    for group in exp13_quantities.GROUPS:
        assert found[f"displaced_share.{group}"] == pytest.approx(lost[group] / total)
        assert found[f"supported_share.{group}"] == pytest.approx(won[group] / total)
        assert found[f"share_change.{group}"] == pytest.approx((won[group] - lost[group]) / total)
    overlaps = result["candidate_overlap"].sel(measured="B_late", lens="tuned").values.tolist()
    assert found["candidate_overlap"] == pytest.approx(sum(overlaps) / len(overlaps))
    cells = 3 * result["n_steps"].sum(["part", "token_class"])
    by_prompt = [int(counts.sel(prompt=p).sum()) / int(cells.sel(prompt=p)) for p in counts.prompt.values]
    assert found["replaced_share"] == pytest.approx(np.mean(by_prompt))


def weighted(result, variable, kinds, **at):
    """Return the mean over prompts of a mean over a prompt's steps of some classes, by a loop."""
    means = []
    for prompt in result["prompt"].values:
        total, n = 0.0, 0
        for part in ("first", "later"):
            for kind in kinds:
                cell = {"part": part, "token_class": kind, "prompt": prompt}
                steps = int(result["n_steps"].sel(cell))
                if steps:
                    total += steps * float(result[variable].sel(**cell, **at))
                    n += steps
        if n:
            means.append(total / n)
    return np.mean(means)


def test_gains_and_late_wins_are_those_of_plain_loops(results):
    result = results["exp13"]["llama"].copy(deep=True)
    # A prompt without function words, and one whose first token is the only one of its class.
    for kind in ("function", "other"):
        at = {"token_class": kind, "prompt": result["prompt"].values[0]}
        result["n_steps"].loc[at] = 0
        for name in ("rank_gain", "rank_win", "late_win"):
            result[name].loc[at] = np.nan
    found = {name: quantity.values for name, quantity in exp13_quantities.quantities(result).items()}
    for group in exp13_quantities.GROUPS:
        kinds = exp13_support.GROUPS[group]
        for window in WINDOWS:
            at = TUNED | {"condition": f"B_{window}"}
            for name in ("rank_gain", "rank_win"):
                wanted = weighted(result, name, kinds, **at)
                assert float(found[f"{name}.{window}.{group}"].mean()) == pytest.approx(wanted)
        wanted = weighted(result, "rank_gain", kinds, lens="raw", condition="B_late")
        assert float(found[f"rank_gain_raw.b_late.{group}"].mean()) == pytest.approx(wanted)
    assert np.isnan(found["rank_gain.late.function_other"].values[0])
    every = result["token_class"].values.tolist()
    for short, name in (("b_late", "B_late"), ("d_late", "D_late")):
        wanted = weighted(result, "rank_gain", every, lens="raw", condition=name)
        assert float(found[f"rank_gain_raw.{short}"].mean()) == pytest.approx(wanted)
    wins = {
        k: weighted(result, "late_win", every, reader=n, **TUNED)
        for k, n in (("a", "A'"), ("b_late", "B_late"), ("c", "C"))
    }
    for short, wanted in wins.items():
        assert float(found[f"late_win.{short}"].mean()) == pytest.approx(wanted)
    assert float(found["late_win_shift.b_late"].mean()) == pytest.approx(wins["b_late"] - wins["a"])


def test_updates_and_correlations_are_read_off_the_dataset(results):
    result, found = one(results, "exp13")
    for axis in ("support_teacher", "anti_top1", "anti_kl"):
        for short in ("a", "b_late", "c", "d_late"):
            at = {"axis": axis, "measured": CONDITIONS[short]}
            assert found[f"projection.{axis}.{short}"] == pytest.approx(
                result["projection"].sel(at).values.mean()
            )
    ends = measured(result, n_resamples=50)
    for feature in result["feature"].values.tolist():
        at = {
            "kind": "level",
            "given": "nothing",
            "measured": "pooled",
            "lens": "tuned",
            "feature": feature,
            "scale": "projection",
        }
        wanted = [float(result[name].sel(at)) for name in ("r", "r_low", "r_high")]
        assert ends.loc[f"late_kl_r.{feature}"].tolist() == wanted
    at = {"kind": "level", "given": "nothing", "measured": "pooled", "lens": "tuned", "scale": "cosine"}
    assert ends.loc["late_kl_r_cosine.anti_top1", "value"] == float(
        result.r.sel(at | {"feature": "anti_top1"})
    )
    assert "late_kl_r_cosine.delta_cosine" not in ends.index


def test_the_lead_is_over_the_stronger_of_the_others():
    early, mid, late = (xr.DataArray(v, dims="prompt") for v in ([0.0, 1.0], [2.0, 3.0], [3.0, 3.0]))
    found = lead({"early": early, "mid": mid, "late": late})
    assert found.values.tolist() == [1.0, 0.0]
    # A late change of the other sign leads nobody, however little it is.
    away = lead({"early": early - 9, "mid": mid - 9, "late": late - 5})
    assert away.values.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize(
    "experiment, metric, part",
    [
        ("exp11", "kl_shift.final_fifth.template", "translator"),
        ("exp14", "mlp_cosine_shift.necessity.late", "OLMo's MLPs before the norm"),
        ("exp13", "late_kl_r.anti_top1", "before the norm"),
        ("exp13", "late_kl_r.rank_gain", "among all vocabulary rows"),
        ("exp13", "candidate_overlap", "here: by prompt"),
    ],
)
def test_a_reader_is_told_where_definitions_differ(results, experiment, metric, part):
    table = ledger.ledger(
        experiment, {"One": results[experiment]["gemma"]}, quantities_of(experiment), n_resamples=50
    )
    note = table[(table["metric"] == metric) & (table["title"] == "One")]["note"]
    assert len(note) == 1 and part in note.iloc[0]


@pytest.mark.slow
def test_the_ledger_pools_the_dense_five():
    results = synthetic.results("exp14", n_prompts=12)
    table = ledger.ledger("exp14", results, quantities_of("exp14"), n_resamples=200)
    metric = "kl_shift.sufficiency.late"
    (row,) = table[table["metric"] == f"dense_five.{metric}"].itertuples()
    runs = [measured(d, n_resamples=200).loc[metric, "value"] for t, d in results.items() if t != "DeepSeek"]
    assert row.run == pytest.approx(np.mean(runs)) and row.agreement == "same sign"
    few = {title: results[title] for title in ("Llama", "Gemma")}
    assert (
        ledger.ledger("exp14", few, quantities_of("exp14"), n_resamples=200)
        .set_index("metric")
        .loc[f"dense_five.{metric}", "run"]
        != row.run
    )


@pytest.mark.slow
def test_a_small_shift_keeps_three_decimals():
    metric = "kl_shift.sufficiency.early"
    results = synthetic.results("exp14", n_prompts=12)
    values = results["Gemma"]["shift"]
    values = values - values.mean("prompt") + 0.013
    small = {"Gemma": results["Gemma"].assign(shift=values)}
    table = ledger.beside("exp14", small, quantities_of("exp14"), n_resamples=200).table
    claim = ledger.published("exp14").set_index("metric").loc[metric, "claim"].iloc[0]
    assert table.loc[claim, ["published", "this run"]].str.slice(0, 6).tolist() == ["−0.027", "0.013 "]
