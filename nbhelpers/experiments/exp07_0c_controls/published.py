"""What the study stored of Gemma's controls: scores by dose of the direction, of a random one, by formula and by layers."""

from collections.abc import Iterator, Mapping

import pandas as pd

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp07_0c_controls import figures
from nbhelpers.report.charts import DIGITS
from nbhelpers.report.published import Drawn, in_words, point

STORED_VARIABLES = declared(
    {
        ("comparison", "direction", "outcome", "alpha"): {
            "dose_score": ("by outcome", "mean score of IT's replies under a dose, by what is rescaled"),
        },
    }
)
MODEL = "gemma3_4b"  # the only model of these files
OUTCOMES = {
    "structural_token_ratio": "structural words",
    "format_compliance_v2": "requested form",
    "mmlu_forced_choice": "right choice",
    "exp3_reasoning_em": "right sums, any number",
    "exp3_alignment_behavior": "expected behaviour, by rules",
}
DIRECTIONS = {"corrective direction": figures.OWN, "magnitude-matched random": figures.RANDOM}
FORMULAS = {
    "mlp_proj_remove": "MLP outputs, rescaled",
    "residual_proj_remove": "stream, rescaled",
    "attn_proj_remove": "attention outputs, rescaled",
}
COMPARISONS = {
    "random": ("The direction beside random ones", "the late direction and a random one of the same length"),
    "formula": ("Formulas", "the late direction in three tensors"),
    "layers": ("Ranges of layers", "the direction of four ranges of layers"),
}


def series(comparison: str, direction: str, outcome: str, found: Mapping) -> Iterator[dict]:
    """Yield the rows of one curve, {alphas: […], values: […]}."""
    for alpha, value in zip(found["alphas"], found["values"], strict=True):
        at = {"comparison": comparison, "direction": direction, "outcome": outcome, "alpha": float(alpha)}
        yield point(MODEL, "dose_score", value, **at)


def random(content) -> Iterator[dict]:
    """Yield the curves of `0C_rand_matched.json`: the direction and one random direction of matched length."""
    for outcome, of in content["benchmarks"].items():
        for theirs, ours in DIRECTIONS.items():
            yield from series("random", ours, outcome, of[theirs])


def formulas(content) -> Iterator[dict]:
    """Yield the curves of `0I_formula_comparison.json`, without the additive formula, whose strength was left at zero."""
    for theirs, ours in FORMULAS.items():
        for outcome, found in content["data"][theirs].items():
            yield from series("formula", ours, outcome, found)


def ranges(content) -> Iterator[dict]:
    """Yield the curves of `0F_layer_range_sensitivity.json`, a list of rows."""
    for row in content["rows"]:
        found = {"alphas": [row["alpha"]], "values": [row["value"]]}
        yield from series("layers", f"layers {row['layer_range'].replace('-', '–')}", row["benchmark"], found)


FILES = {
    "0C_rand_matched.json": random,
    "0I_formula_comparison.json": formulas,
    "0F_layer_range_sensitivity.json": ranges,
}
UNUSED = {
    "0F_single_layer_importance.json": "changes of at most 0.004 by one layer at a time; they stand in the ledger",
}
NOTE = (
    "Gemma alone. These are levels of scores, here changes of compliance; no interval was stored. The random "
    "direction is one draw; five draws were stored at five doses between −1 and 2 only. The additive formula ran with "
    "a strength of zero, so that its curve, which is flat, is left out. Sums are scored right if their result stands "
    "anywhere in a reply."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {
        heading: lambda name=name, heading=heading, what=what: figures.dose_curves(
            rows(results, name), y="mean score", title=f"{heading}: scores by dose", toggles={"outcome": "score"},
            description=f"Mean score of Gemma's replies against the dose of {what}, for the chosen score",
        )
        for name, (heading, what) in COMPARISONS.items()
    }  # fmt: skip


def rows(results, comparison: str) -> pd.DataFrame:
    """Return the table that `figures.dose_curves` draws, of the stored curves of one comparison."""
    frames = []
    for title, data in results.items():
        one = data["dose_score"].sel(comparison=comparison, drop=True).rename("mean").rename(alpha="dose")
        frames.append(one.to_dataframe().reset_index().assign(panel=title))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["mean"]).round(DIGITS)
    return in_words(table, "outcome", OUTCOMES).assign(low=float("nan"), high=float("nan"))
