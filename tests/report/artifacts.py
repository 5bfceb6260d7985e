"""The published figures of the study, computed anew from the JSON files that it released.

Each function returns {(claim number, metric): {family: value}} of one experiment. The files are the study's; `FOLDER` is
where a checkout of its released artifacts lies, by default beside the repository, or `NBHELPERS_ARTIFACTS`.
"""
# Functions that are made in a loop are called before it goes on.
# ruff: noqa: B023, E731

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

from nbhelpers.core import depths
from tests.stubs import REPOSITORY

FOLDER = Path(os.environ.get("NBHELPERS_ARTIFACTS", REPOSITORY.parent / "shared/reference/published"))
KEYS = {
    "gemma": "gemma3_4b", "llama": "llama31_8b", "qwen": "qwen3_4b", "mistral": "mistral_7b",
    "deepseek": "deepseek_v2_lite", "olmo": "olmo2_7b",
}  # fmt: skip
DENSE = [family for family in KEYS if family != "deepseek"]
VARIANTS, WINDOWS = ("pt", "it"), ("early", "mid", "late")
CURVES = "exp09_cross_model_observational_replication/data"
LENSES = "exp07_methodology_validation_tier0/data"
CLOUDS = "cross_model/l8_rank_eval_20260414_v2"
GRAFTS = "exp11_matched_prefix_mlp_graft/plots/exp11_exp3_400rand_v11_teacherforced/overview_metrics.json"
SUPPORT = "exp13_late_stage_token_support_analysis/exp13A_lite_20260415_live/exp13a_lite_summary.json"
SYMMETRIC = "exp14_symmetric_matched_prefix_causality/exp13exp14_full_20260416/exp13_full_summary.json"


@cache
def read(name):
    """Return the content of a released file."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def of_families(value):
    """Return {family: value(key of the study's model)}, without the families for which it is None."""
    found = {family: value(key) for family, key in KEYS.items()}
    return {family: each for family, each in found.items() if each is not None}


def with_mean(values):
    """Return values of the six families with their mean."""
    return values | {"mean": np.mean([values[family] for family in KEYS])}


def dense(values):
    """Return the mean of the five dense families as a figure of all."""
    return {"all": np.mean([values[family] for family in DENSE])}


def counted(values, sign):
    """Return the number of families whose value has a sign, as a figure of all."""
    return {"all": sum(sign * value > 0 for value in values.values())}


def curve(key, name):
    """Return one of a model's curves by layer in the summary of the observations."""
    return np.array(read(f"{CURVES}/exp9_summary.json")[key][name], dtype=float)


def shift(key, name):
    """Return IT − PT of a curve by layer."""
    return curve(key, f"{name}_it") - curve(key, f"{name}_pt")


def gap(key, lens):
    """Return IT − PT of the mean KL to the own final distribution, by layer."""
    it, pt = (kl(key, lens, variant) for variant in ("it", "pt"))
    return it - pt


def kl(key, lens, variant):
    """Return the mean KL to the own final distribution, by layer."""
    found = read(f"{CURVES}/convergence_gap_values.json")[lens][key]
    return np.array(found[f"mean_kl_{variant}_per_layer"])


def weight_change(number, parts):
    """Return figures of the RMS weight change by layer."""
    found = {}
    for group, name in {"mlp": "L3_delta_mlp", "attention": "L3_delta_attn"}.items():
        for metric, value in parts.items():
            found[number[metric], f"{metric}.{group}"] = of_families(lambda key: value(curve(key, name)))
    return found


def ratio(values, start):
    """Return the mean of values from a layer on over the mean of those before."""
    return values[start:].mean() / values[:start].mean()


def exp02():
    """Return figures of exp02: weights of the last third of the layers."""
    last = {"weight_last_third_ratio": lambda rms: ratio(rms, 2 * len(rms) // 3)}
    return weight_change({"weight_last_third_ratio": "05"}, last)


def exp03():
    """Return figures of exp03: divergence from the layer before, concentration of features."""
    found = {}
    for lens, (moved, level) in {"raw": ("10", "11"), "tuned": ("12", "13")}.items():
        name = f"tuned_lens_{lens}_kl_adj_mean"
        late = lambda values: values[depths.onset(len(values)) :].mean()
        found[moved, f"phase_kl_adjacent_shift.corrective.{lens}"] = of_families(
            lambda key: late(shift(key, name))
        )
        for v in VARIANTS:
            metric = f"phase_kl_adjacent.corrective.{lens}.{v}"
            found[level, metric] = of_families(lambda key: late(curve(key, f"{name}_{v}")))
    stored = read("exp03_corrective_stage_characterization/data/e3_14_sniper_stats.json")
    names = {
        "gini": ("19", "gini_corrective_mean"), "n50": ("21", "median_n50"), "n90": ("21", "median_n90"),
        "active_features": ("23", "mean_active_per_layer"), "median_activation": ("23", "median_activation"),
        "p90_activation": ("23", "p90_activation"), "last_two_layers_mass": ("23", "frac_mass_l32_33"),
    }  # fmt: skip
    for metric, (number, name) in names.items():
        found |= {(number, f"{metric}.{v}"): {"gemma": stored[v][name]} for v in VARIANTS}
        found[number, f"{metric}_shift"] = {"gemma": stored["it"][name] - stored["pt"][name]}
    shared = stored["overlap_by_k"]
    return found | {("22", f"neuron_overlap.k{k}"): {"gemma": shared[str(k)]} for k in (10, 100, 1000)}


def late_mean(values):
    """Return the mean over the final fifth of the layers."""
    return values[int(0.8 * len(values)) :].mean()


def exp04():
    """Return figures of exp04: dimension and attention entropy."""
    follow_up = read(f"{CLOUDS}/l8_local_id_followup.json")["aggregates"]
    spectra = {row["model"]: row for row in read(f"{CLOUDS}/l8_rank_summary_local.json")["rows"]}
    numbers = {"two_nn": ("03", "twonn"), "mle": ("04", "mle"), "lpca": ("05", "lpca")}
    found = {
        (number, f"late_dimension_shift.{name}.native"): of_families(
            follow_up[stored]["late_mean_deltas"].get
        )
        for name, (number, stored) in numbers.items()
    }
    stored = of_families(lambda key: spectra[key]["id_late_mean_it"] - spectra[key]["id_late_mean_pt"])
    peak = of_families(lambda key: np.argmax(abs(shift(key, "L9_mean_entropy"))))
    return found | {
        ("06", "late_dimension_shift.two_nn_stored.native"): stored,
        ("01", "late_dimension_shift.two_nn.raw"): of_families(lambda key: late_mean(shift(key, "L8_id"))),
        ("02", "last_dimension_shift.two_nn.raw"): of_families(lambda key: shift(key, "L8_id")[-1]),
        **{("07", f"dimension_minimum_layer.{v}"): of_families(lambda key, v=v: np.argmin(curve(key, f"L8_id_{v}")))
           for v in VARIANTS},
        ("10", "attention_entropy_shift.native"): of_families(lambda key: shift(key, "L9_mean_entropy").mean()),
        ("11", "attention_entropy_peak_layer.native"): peak,
    }  # fmt: skip


def exp07_0g():
    """Return figures of exp07_0g: gain and agreement of the tuned lenses."""
    found, gains = {}, []
    quality = {row["model_variant"]: row for row in read(f"{LENSES}/0G_quality_table.json")}
    trained = read(f"{LENSES}/0G_training_summaries.json")

    def gain(key, v):
        raw, tuned = (kl(key, lens, v) for lens in ("raw", "tuned"))
        return 1 - tuned[int(0.6 * len(raw))] / raw[int(0.6 * len(raw))]

    def last(key, v):
        layers = trained.get(f"{key}_{v}", {}).get("per_layer", {})
        return layers[max(layers, key=int)]["tuned_agree"] if layers else None

    for number, v in (("01", "pt"), ("02", "it")):
        found[number, f"lens_improvement.{v}"] = of_families(lambda key: gain(key, v))
        if v == "pt":  # the range that the paper gives, without Gemma
            gains = [
                value for family, value in found[number, "lens_improvement.pt"].items() if family != "gemma"
            ]
        for lens in ("raw", "tuned"):
            agree = lambda key: quality.get(f"{key}_{v}", {}).get(f"mean_{lens}_agree")
            found["04", f"top1_agreement.{lens}.{v}"] = of_families(agree)
        found["05", f"top1_agreement_last_layer.tuned.{v}"] = of_families(lambda key: last(key, v))
        found["06", f"last_layer_kl.{v}"] = of_families(lambda key: kl(key, "tuned", v)[-1])
    return found | {
        ("03", f"lens_improvement_range.{end}"): {"all": of(gains)}
        for end, of in (("least", min), ("most", max))
    }


def exp07_0j():
    """Return figures of exp07_0j: onsets by rule, −1 for none, their depth and span."""
    rows = read(f"{LENSES}/0J_onset_table.json")
    names = [f"{k}σ" for k in ("0.5", "0.75", "1.0", "1.5", "2.0")] + [
        f"abs{k}" for k in ("0.02", "0.05", "0.1", "0.15")
    ]
    found = {}
    for i, name in enumerate(names, 1):
        rule = f"sigma_{float(name[:-1]):g}" if name.endswith("σ") else f"drop_{name[3:]}"
        layers = {row["model"]: row["onset_layer"] for row in rows if row["threshold"] == name}
        found[f"{i:02}", f"onset.{rule}"] = of_families(
            lambda key: -1 if layers[key] is None else layers[key]
        )
    stored = read(f"{LENSES}/0J_onset_summary.json")
    found["11", "onset_span.all"] = of_families(lambda key: stored.get(key, {}).get("onset_range"))

    def reached(key, sigma=True):
        chosen = [r["onset_layer"] / r["n_layers"] for r in rows if r["model"] == key and (not sigma or "σ" in r["threshold"])
                  and r["onset_layer"] is not None]  # fmt: skip
        return chosen or [np.nan]

    size = lambda key: next(r["n_layers"] for r in rows if r["model"] == key)
    span = lambda key: (max(reached(key)) - min(reached(key))) * size(key)
    return found | {
        ("11", "onset_span.sigma"): of_families(span),
        ("10", "onset_depth.least"): of_families(lambda key: min(reached(key, False))),
        ("10", "onset_depth.most"): of_families(lambda key: max(reached(key, False))),
        ("10", "onset_depth_sigma.most"): of_families(lambda key: max(reached(key))),
    }


def exp09():
    """Return figures of exp09: gaps, commitment, δ-cosine, end points, weights, clouds."""
    return gaps() | commitment() | updates() | end_points() | geometry() | matched()


def gaps():
    """Return figures of the convergence gap, by part of the stack and lens."""
    found = {}
    parts = {
        "late_half": (lambda n: range(n // 2, n), {"raw": "01", "tuned": "02"}),
        "early_third": (lambda n: range(n // 3), {"raw": "04", "tuned": "03"}),
        "middle_third": (lambda n: range(n // 3, 2 * n // 3), {"raw": "04", "tuned": "03"}),
        "late_third": (lambda n: range(2 * n // 3, n), {"raw": "04", "tuned": "03"}),
        "final_fifth": (lambda n: range(int(0.8 * n), n), {"raw": "05", "tuned": "06"}),
    }
    for part, (layers, numbers) in parts.items():
        for lens, number in numbers.items():
            over = lambda values: values[list(layers(len(values)))].mean()
            found[number, f"kl_excess_{part}.{lens}"] = with_mean(
                of_families(lambda key: over(gap(key, lens)))
            )
    for lens, number in {"raw": "07", "tuned": "08"}.items():
        above = lambda key: (gap(key, lens)[len(gap(key, lens)) // 2 : -1] > 0).mean()
        found[number, f"layers_above.{lens}"] = of_families(above)
    crossover = lambda key: int(np.argmax(gap(key, "raw")[::-1] > 0))
    found["33", "crossover.raw"] = of_families(crossover)
    found["49", "kl_excess_final_eight.tuned.most"] = {"qwen": gap("qwen3_4b", "tuned")[-8:].max()}
    for v in VARIANTS:
        found["32", f"kl_first_layer.raw.{v}"] = of_families(lambda key: kl(key, "raw", v)[0])
        stored = read(f"{CURVES}/convergence_gap_values.json")["raw"]
        found["30", f"steps.{v}"] = of_families(lambda key: stored[key][f"n_steps_{v}"])
    return found


def commitment():
    """Return figures of the older run's commitment delays."""
    found, models = {}, read(f"{LENSES}/0G_commitment_summary.json")["models"]
    for lens in ("raw", "tuned"):
        delay = lambda rule: of_families(lambda key: models[key][f"{lens.title()} {rule}"]["delay"])
        found["47", f"commitment_delay_median.{lens}.top1_strict"] = delay("Top-1")
        found["14" if lens == "raw" else "47", f"commitment_delay_median.{lens}.kl_stays_0.1"] = delay("KL")
    rows = {row["model"]: row.get("per_prompt_delay") for row in read(f"{LENSES}/ci_cross_model.json")}
    return found | {("48", "commitment_delay_by_prompt.raw.top1_strict"): of_families(rows.get)}


def updates():
    """Return figures of the δ-cosine of the block's update and of the cosine to the final state."""
    name, found = "tuned_lens_delta_cosine_mean", {}
    tenths = {"depth_0.5_0.7": (5, 7), "depth_0.7_0.9": (7, 9), "depth_0.9_1.0": (9, 10)}
    for part, (a, b) in tenths.items():
        over = lambda values: np.nanmean(values[a * len(values) // 10 : b * len(values) // 10])
        found["20", f"delta_cosine_shift.{part}"] = of_families(lambda key: over(shift(key, name)))
    found["21", "delta_cosine_shift.last_layer"] = of_families(lambda key: shift(key, name)[-1])
    found["22", "delta_cosine_shift.final_fifth"] = with_mean(
        of_families(lambda key: late_mean(shift(key, name)))
    )
    thirds = {
        "early_third": lambda x: x[1 : len(x) // 3], "middle_third": lambda x: x[len(x) // 3 : 2 * len(x) // 3],
        "late_third": lambda x: x[2 * len(x) // 3 :],
    }  # fmt: skip
    for part, of in thirds.items():
        found["23", f"delta_cosine_shift.{part}"] = with_mean(
            of_families(lambda key: of(shift(key, name)).mean())
        )
    below = lambda values: (values[int(0.8 * len(values)) :] < 0).mean()
    found["50", "delta_cosine_layers_below.final_fifth"] = of_families(lambda key: below(shift(key, name)))
    final = "tuned_lens_cosine_h_to_final_mean"
    found["26", "cosine_to_final_shift.mean"] = of_families(lambda key: shift(key, final).mean())
    found["27", "cosine_to_final_shift.extreme"] = of_families(lambda key: max(shift(key, final), key=abs))
    at = lambda values: values[depths.onset(len(values))]
    found["51", "cosine_to_final_shift.onset"] = of_families(lambda key: at(shift(key, final)))
    for v in VARIANTS:
        found["25", f"delta_cosine_last_layer.{v}"] = of_families(lambda key: curve(key, f"{name}_{v}")[-1])
        found["52", f"cosine_to_final_onset.{v}"] = of_families(lambda key: at(curve(key, f"{final}_{v}")))
    return found


def end_points():
    """Return figures of the final distribution."""
    found = {}
    for v in VARIANTS:
        for number, metric, name in (
            ("28", "final_entropy", "entropy"),
            ("29", "final_top1_probability", "ntprob"),
        ):
            found[number, f"{metric}.{v}"] = of_families(
                lambda key: curve(key, f"tuned_lens_raw_{name}_mean_{v}")[-1]
            )
    return found


def geometry():
    """Return figures of weights, spectra and counts of families."""
    numbers = {
        "weight_late_ratio": "56",
        "weight_mean": "57",
        "weight_variation": "58",
        "weight_peak_layer": "59",
    }
    found = weight_change(numbers, {
        "weight_late_ratio": lambda rms: ratio(rms, depths.onset(len(rms))), "weight_mean": np.mean,
        "weight_variation": lambda rms: rms.std() / rms.mean(), "weight_peak_layer": np.argmax,
    })  # fmt: skip
    spectra = {row["model"]: row for row in read(f"{CLOUDS}/l8_rank_summary_local.json")["rows"]}
    names = {"participation_ratio": ("pr", 1), "effective_rank": ("erank", 1), "first_share": ("pc1", -1)}
    for metric, (short, sign) in names.items():
        late = lambda key: spectra[key][f"{short}_late_mean_it"] - spectra[key][f"{short}_late_mean_pt"]
        values = of_families(late)
        found["62", f"late_{metric}_shift.native"] = values
        pool = "n_positive" if sign > 0 else "n_negative"
        found["61", f"{pool}.late_{metric}_shift.native"] = counted(values, sign)
    for (_, metric), values in exp04().items():
        if metric.startswith("late_dimension_shift") and metric.endswith(
            ("two_nn.native", "mle.native", "lpca.native")
        ):
            found["61", f"n_positive.{metric}"] = counted(values, 1)
        if metric == "attention_entropy_shift.native":
            found["63", f"n_positive.{metric}"] = counted(values, 1)
    return found


def matched():
    """Return figures of both models on IT's text."""
    overview = {row["model"]: row for row in read(GRAFTS)}
    layer = "pipeline_{}_mean_commitment_layer_kl_0.1"
    delay = of_families(lambda key: overview[key][layer.format("c")] - overview[key][layer.format("a_prime")])
    levels = {v: of_families(lambda key: level(key, c)) for v, c in {"pt": "a", "it": "c"}.items()}
    return {
        ("53", "matched_delay.kl_stays_0.1"): delay,
        ("54", "matched_gap_final_fifth.tuned"): {f: levels["it"][f] - levels["pt"][f] for f in KEYS},
        **{("55", f"matched_kl_final_fifth.tuned.{v}"): values for v, values in levels.items()},
    }


SIDES = {"sufficiency": ("pt_side", "B_{}_raw"), "necessity": ("it_side", "D_{}_ptswap")}
READ = {"kl": "kl_to_own_final", "cross": "cross_kl", "cosine": "delta_cosine", "residual": "residual_cosine"}


def symmetric(key, side, window, name, region="final_20pct", part="delta"):
    """Return a shift, or a level, of the symmetric run."""
    place, condition = SIDES[side]
    return read(SYMMETRIC)["models"][key][place][condition.format(window)]["regions"][region][READ[name]][
        part
    ]


def level(key, condition, name="kl"):
    """Return the late level of a condition of the symmetric run: a, c, b_early … d_late."""
    if condition in "ac":
        side = "sufficiency" if condition == "a" else "necessity"
        return symmetric(key, side, "late", name, part="baseline_mean")
    side = "sufficiency" if condition.startswith("b") else "necessity"
    return symmetric(key, side, condition[2:], name, part="pipeline_mean")


def depth(key, window, name, region="final_20pct", part="delta"):
    """Return a shift, or a level, of the run over depths."""
    of = read(SUPPORT)["models"][key]["depth_ablation_600"]["summary_only"]["pipelines"][f"B_{window}_raw"]
    return of["regions"][region][READ[name]][part]


def exp11():
    """Return figures of exp11: the run over depths, commitment and divergence, levels of the symmetric run."""
    found, moved = {}, {}
    regions = {"final_fifth": "final_20pct", "window": "graft_window"}
    numbers = {"kl": ("15", "16"), "cross": ("17", "18"), "cosine": ("19", "20")}
    metrics = {"kl": "kl_shift", "cross": "cross_kl_shift", "cosine": "mlp_cosine_shift"}
    for name, metric in metrics.items():
        for number, (region, stored) in zip(numbers[name], regions.items()):
            for window in WINDOWS:
                values = of_families(lambda key: depth(key, window, name, stored))
                found[number, f"{metric}.{region}.{window}"] = with_mean(values)
                found[number, f"dense_five.{metric}.{region}.{window}"] = dense(values)
                moved[name, region, window] = values
    late = {window: moved["kl", "final_fifth", window] for window in WINDOWS}
    margins = {f: late["late"][f] - max(late["early"][f], late["mid"][f]) for f in KEYS}
    found["22", "late_margin"] = with_mean(margins)
    found["23", "n_positive.late_lead"] = counted({f: min(margins[f], late["late"][f]) for f in KEYS}, 1)
    for window in WINDOWS:
        of = lambda key: read(SUPPORT)["models"][key]["depth_ablation_600"]["summary_only"]["pipelines"]
        values = of_families(
            lambda key: of(key)[f"B_{window}_raw"]["prompt_level"]["delta_mean_commitment_layer_kl_0.1"]
        )
        found["21", f"commitment_shift.{window}"] = values
        found["21", f"dense_five.commitment_shift.{window}"] = dense(values)
    found["24", "kl_level.a"] = of_families(lambda key: depth(key, "late", "kl", part="baseline_mean"))
    for condition in ("a", "b_early", "b_mid", "b_late", "c", "d_early", "d_mid", "d_late"):
        found["25", f"kl_level.{condition}"] = of_families(lambda key: level(key, condition))
        if condition.startswith("d"):
            found["27", f"residual_cosine.{condition}"] = of_families(
                lambda key: level(key, condition, "residual")
            )
    found["26", "cross_kl_level.a"] = of_families(lambda key: level(key, "a", "cross"))
    return found | overviews()


def overviews():
    """Return figures of exp11's overview: commitment layers, lengths, first misses."""
    overview, found = {row["model"]: row for row in read(GRAFTS)}, {}
    names = {"c": "c", "a": "a_prime", "b_late": "b", "a_template": "a_prime_tmpl", "b2": "b2"}
    layers = {}
    for short, name in names.items():
        layers[short] = of_families(
            lambda key: overview[key][f"pipeline_{name}_mean_commitment_layer_kl_0.1"]
        )
        found["10", f"commitment_layer.{short}"] = layers[short]
        if short != "c":
            misses = of_families(lambda key: overview[key][f"mean_divergence_step_{name}_vs_c"])
            found["12", f"first_miss_where_any.{short}"] = misses
    found["08", "commitment_shift.late"] = {f: layers["b_late"][f] - layers["a"][f] for f in KEYS}
    found["09", "commitment_shift.template"] = {f: layers["b2"][f] - layers["a_template"][f] for f in KEYS}
    found["11", "reply_length.it"] = of_families(lambda key: overview[key]["pipeline_c_mean_length"])
    return found


def exp13():
    """Return figures of exp13: replaced tokens, rank gains, late wins, projections, correlations."""
    return replaced() | gains() | mechanism()


GROUPS = {"format": "FORMAT", "content": "CONTENT", "function_other": "FUNCTION_OTHER"}
CLASSES = {c: c.upper() for c in ("content", "function", "punctuation", "structural", "discourse", "other")}
FIRST = "teacherforced_400"


def replaced():
    """Return figures of the top-1 tokens that the late graft replaces."""
    found, models, pool = {}, read(SUPPORT)["models"], read(SUPPORT)["pooled"][f"dense5_{FIRST}"]
    for group, name in GROUPS.items():
        shares = {}
        for number, metric, stored in (("01", "displaced", "suppressed"), ("02", "supported", "supported")):
            of = lambda key: models[key][FIRST]["displacement"][f"{stored}_collapsed"][name]["fraction"]
            shares[metric] = found[number, f"{metric}_share.{group}"] = of_families(of)
            found[number, f"dense_five.{metric}_share.{group}"] = {
                "all": pool[f"{stored}_collapsed"][name]["fraction"]
            }
        change = {f: shares["supported"][f] - shares["displaced"][f] for f in KEYS}
        found["03", f"share_change.{group}"] = with_mean(change)
        sign, counts = (1, "n_positive") if group == "content" else (-1, "n_negative")
        found["04", f"{counts}.share_change.{group}"] = counted(change, sign)
    for kind, name in CLASSES.items():
        for metric, stored in (("displaced", "suppressed"), ("supported", "supported")):
            found["05", f"dense_five.{metric}_class.{kind}"] = {"all": pool[stored][name]["fraction"]}

    def share(key):
        of = models[key][FIRST]
        return (
            sum(x["count"] for x in of["displacement"]["suppressed"].values())
            / of["candidate_reshuffling"]["count"]
        )

    found["06", "replaced_share"] = of_families(share)
    overlap = of_families(lambda key: models[key][FIRST]["candidate_reshuffling"]["mean_jaccard"])
    return found | {("07", "candidate_overlap"): overlap}


def gains():
    """Return figures of rank gains of the reply's tokens and of late wins."""
    found, models, pooled = {}, read(SUPPORT)["models"], read(SUPPORT)["pooled"]
    wins = {}
    for short, name in {"a": "A_prime", "b_late": "B_late_raw", "c": "C_it_chat"}.items():
        wins[short] = of_families(lambda key: models[key][FIRST]["mind_change"][name]["late_win_fraction"])
        found["08", f"late_win.{short}"] = wins[short]
    found["09", "late_win_shift.b_late"] = with_mean({f: wins["b_late"][f] - wins["a"][f] for f in KEYS})
    for group, name in (GROUPS | CLASSES).items():
        of = lambda key: models[key][FIRST]["teacher_rank_gain"][name]
        found["10", f"rank_gain.late.{group}"] = of_families(lambda key: of(key)["mean_rank_gain"])
        pool = pooled[f"dense5_{FIRST}"]["teacher_rank_gain"][name]["mean_rank_gain"]
        found["10", f"dense_five.rank_gain.late.{group}"] = {"all": pool}
        found["11", f"rank_win.late.{group}"] = of_families(lambda key: of(key)["fraction_improved"])
    for window in WINDOWS:
        for group, name in GROUPS.items():
            run = lambda key: models[key]["depth_ablation_600"]["teacher_rank_gain_by_window"]
            gain = lambda key: run(key)[f"B_{window}_raw"].get(name, {}).get("mean_rank_gain")
            found["12", f"rank_gain.{window}.{group}"] = of_families(gain)
            pool = pooled["dense5_depth_ablation_600"][f"B_{window}_raw"][name]["mean_rank_gain"]
            found["12", f"dense_three.rank_gain.{window}.{group}"] = {"all": pool}
    return found


def mechanism():
    """Return figures of late updates along axes, of raw rank gains and of correlations."""
    found, models = {}, {key: of["mechanism"] for key, of in read(SYMMETRIC)["models"].items()}
    axes = {
        "support_teacher": ("13", "support_teacher"),
        "anti_top1": ("14", "anti_top1"),
        "anti_kl": ("15", "anti_kl_final"),
    }
    conditions = {"a": "A_prime_raw", "b_late": "B_late_raw", "c": "C_it_chat", "d_late": "D_late_ptswap"}
    for axis, (number, stored) in axes.items():
        for short, name in conditions.items():
            values = of_families(lambda key: models[key]["late_mean_by_pipeline"][name][f"{stored}_proj"])
            found[number, f"projection.{axis}.{short}"] = values
            found[number, f"dense_five.projection.{axis}.{short}"] = dense(values)
        for scale, metric, where in (("proj", "late_kl_r", "18"), ("cosine", "late_kl_r_cosine", "19")):
            values = of_families(
                lambda key: models[key]["predictive_correlation_overall"][f"{stored}_{scale}"]
            )
            found[where, f"{metric}.{axis}"] = with_mean(values)
            found[where, f"dense_five.{metric}.{axis}"] = dense(values)
    others = {"delta_cosine": ("18", "delta_cosine"), "remainder": ("20", "orth_remainder_norm"),
              "rank_gain": ("20", "teacher_token_rank_gain")}  # fmt: skip
    for metric, (number, stored) in others.items():
        values = of_families(lambda key: models[key]["predictive_correlation_overall"][stored])
        found[number, f"late_kl_r.{metric}"] = with_mean(values)
        found[number, f"dense_five.late_kl_r.{metric}"] = dense(values)
    for sign, metric in ((1, "support_teacher"), (-1, "anti_top1")):
        name = f"n_{'positive' if sign > 0 else 'negative'}.late_kl_r.{metric}"
        found["21", name] = counted({f: found["18", f"late_kl_r.{metric}"][f] for f in KEYS}, sign)
    for short in ("b_late", "d_late"):
        name = conditions[short]
        values = of_families(
            lambda key: models[key]["late_mean_by_pipeline"][name]["teacher_token_rank_gain"]
        )
        found["16", f"rank_gain_raw.{short}"] = values
        found["16", f"dense_five.rank_gain_raw.{short}"] = dense(values)
    for group, name in GROUPS.items():
        of = lambda key: models[key]["late_mean_by_teacher_category"]["B_late_raw"][name]
        found["17", f"rank_gain_raw.b_late.{group}"] = of_families(
            lambda key: of(key)["teacher_token_rank_gain"]
        )
    return found


def exp14():
    """Return figures of exp14: shifts by side and window, and their counts."""
    found, late = {}, {}
    regions = {"kl_shift": ("kl", "final_20pct", "01", "02"), "kl_window_shift": ("kl", "graft_window", "06", "07"),
               "mlp_cosine_shift": ("cosine", "final_20pct", "12", "13")}  # fmt: skip
    for place, (side, letter) in enumerate((("sufficiency", "b"), ("necessity", "d"))):
        for metric, (name, region, *numbers) in regions.items():
            for window in WINDOWS:
                values = of_families(lambda key: symmetric(key, side, window, name, region))
                found[numbers[place], f"{metric}.{side}.{window}"] = with_mean(values)
                found[numbers[place], f"dense_five.{metric}.{side}.{window}"] = dense(values)
                late[metric, side, window] = values
        for window in WINDOWS:
            where, condition = SIDES[side]
            of = lambda key: read(SYMMETRIC)["models"][key][where][condition.format(window)]["prompt_level"]
            values = of_families(lambda key: of(key)["delta_mean_commitment_layer_kl_0.1"])
            found[("08", "09")[place], f"commitment_shift.{side}.{window}"] = values
            found[("08", "09")[place], f"dense_five.commitment_shift.{side}.{window}"] = dense(values)
            late["commitment_shift", side, window] = values
            part = "delta" if side == "sufficiency" else "pipeline_mean"
            cross = of_families(lambda key: symmetric(key, side, window, "cross", part=part))
            number = ("10", "11")[place]
            name = (
                f"cross_kl_shift.{side}.{window}"
                if side == "sufficiency"
                else f"cross_kl_level.{letter}_{window}"
            )
            found[number, name], found[number, f"dense_five.{name}"] = cross, dense(cross)
        sign = 1 if side == "sufficiency" else -1
        kl_of = {window: {f: sign * late["kl_shift", side, window][f] for f in KEYS} for window in WINDOWS}
        margins = {f: kl_of["late"][f] - max(kl_of["early"][f], kl_of["mid"][f]) for f in KEYS}
        found[("03", "04")[place], f"late_margin.{side}"] = with_mean(margins)
        leads = {f: min(margins[f], kl_of["late"][f]) for f in KEYS}
        found["05", f"n_positive.late_lead.{side}"] = counted(leads, 1)
    signs = {"mlp_cosine_shift.sufficiency": -1, "mlp_cosine_shift.necessity": 1,
             "commitment_shift.sufficiency": 1, "commitment_shift.necessity": -1}  # fmt: skip
    for name, sign in signs.items():
        pool = "n_positive" if sign > 0 else "n_negative"
        found["14", f"{pool}.{name}.late"] = counted(late[(*name.split("."), "late")], sign)
    return found


RECOMPUTED = {f.__name__: f for f in (exp02, exp03, exp04, exp07_0g, exp07_0j, exp09, exp11, exp13, exp14)}
