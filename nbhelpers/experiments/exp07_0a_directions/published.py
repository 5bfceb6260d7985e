"""What the study stored of Gemma's direction: cosines of resamples by layer, and scores by dose of three calibration sets."""

from collections.abc import Iterator

import pandas as pd

from nbhelpers.core import depths
from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp07_0a_directions import report
from nbhelpers.experiments.exp07_0a_directions.curves import CURVES
from nbhelpers.report.charts import DIGITS, by_category
from nbhelpers.report.dose_charts import CURVE, dose_response
from nbhelpers.report.published import Drawn, point

STORED_VARIABLES = declared(
    {
        ("set", "outcome", "alpha"): {
            "dose_score": (
                "by outcome",
                "mean score of IT's replies under a dose of a calibration set's direction",
            ),
        },
        ("mode", "layer"): {
            "matched_cosine": ("cosine", "direction of matched tokens with the canonical one"),
        },
    }
)
MODEL = "gemma3_4b"  # the only model of these files
SETS = {
    "Canonical (top-600)": "the 600 that differ most",
    "Random-600": "600 at random",
    "Bottom-600": "the 600 that differ least",
}
OUTCOMES = {
    "Format Compliance": "requested form",
    "Structural Token Ratio": "structural words",
    "Alignment Behavior": "expected behaviour, by rules",
    "Reasoning EM": "right sums, any number",
    "MMLU Accuracy": "right choices, two scorings mixed",
}
MODES = {"governance_selected": "matched", "reverse_governance": "reversed"}


def resamples(content) -> Iterator[dict]:
    """Yield the mean cosine of two resamples' directions by layer from `0A_bootstrap_results.json`."""
    n = content["summary"]["n_records"]
    for layer, found in content["per_layer"].items():
        yield point(MODEL, "pairwise", found["pairwise_cosine_mean"], n=n, over="prompts", layer=int(layer))


def matched(content) -> Iterator[dict]:
    """Yield the cosine of a direction of matched tokens with the canonical one by layer from `0B_matched_cosines_….json`."""
    n, mode = content["summary"]["n_matched_records"], MODES[content["summary"]["mode"]]
    for layer, found in content["per_layer"].items():
        at = {"layer": int(layer), "mode": mode}
        yield point(MODEL, "matched_cosine", found["cosine_matched_vs_canonical"], n=n, over="prompts", **at)


def sets(content) -> Iterator[dict]:
    """Yield the scores by dose of three calibration sets from `0H_calibration_split.json`."""
    for outcome, curves in content["panels"].items():
        for name, of in curves.items():
            ns = of["n"] if isinstance(of["n"], list) else [of["n"]] * len(of["alphas"])
            columns = zip(of["alphas"], of["means"], of["ci_low"], of["ci_high"], ns, strict=True)
            for alpha, mean, low, high, n in columns:
                ends = {"low": low, "high": high, "n": n, "over": "replies"}
                at = {"set": SETS[name], "outcome": OUTCOMES[outcome], "alpha": float(alpha)}
                yield point(MODEL, "dose_score", mean, **ends, **at)


FILES = {
    "0A_bootstrap_results.json": resamples,
    "0B_matched_cosines_*.json": matched,
    "0H_calibration_split.json": sets,
}
UNUSED = {
    "0H_ci_*_600.json": "the same means and intervals as in the calibration split, which is read, and one more score"
}
NOTE = (
    "Gemma alone. Cosines of resamples are of 600 prompts drawn with replacement, which share most of their prompts. "
    "The cosines of matched tokens compare replies that were made to begin alike with the canonical direction; they "
    "are listed below and have no figure here. Intervals of scores are over replies, of which some stand twice in the "
    "data."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {
        "How alike are two directions?": lambda: report.stability_curves(stability(results)),
        "Does it matter which prompts give the direction?": lambda: dose_response(
            rows(results), y="mean score", title="Scores by dose of three calibration sets", fields=("set",),
            colours=by_category("set", SETS.values()), toggles={"outcome": "score"},
            description="Mean score of Gemma's replies against the dose α of the direction that each set of prompts gives",
        ),
    }  # fmt: skip


def stability(results) -> pd.DataFrame:
    """Return the table that `report.stability_curves` draws, of the stored cosines of resamples."""
    frames = []
    for title, data in results.items():
        one = data["pairwise"].rename("mean").to_dataframe().reset_index().dropna(subset=["mean"])
        onset = depths.onset(data.sizes["layer"])
        frames.append(one.assign(panel=title, curve=CURVES["pairwise"], onset=onset))
    return pd.concat(frames, ignore_index=True).assign(low=float("nan"), high=float("nan")).round(DIGITS)


def rows(results) -> pd.DataFrame:
    """Return the table that `dose_response` draws, of the stored scores of calibration sets."""
    names = {"dose_score": "mean", "dose_score_low": "low", "dose_score_high": "high"}
    frames = [
        data[list(names)].rename(names | {"alpha": "dose"}).to_dataframe().reset_index().assign(panel=title)
        for title, data in results.items()
    ]
    table = pd.concat(frames, ignore_index=True).dropna(subset=["mean"]).round(DIGITS)
    table["outcome"] = pd.Categorical(table["outcome"], OUTCOMES.values())
    return table.sort_values("outcome", kind="stable").astype({"outcome": str}).assign(part=CURVE)
