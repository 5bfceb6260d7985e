"""What the study stored of Gemma under doses of its late direction: scores of replies with intervals."""

from collections.abc import Iterator

import pandas as pd

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp06_steering import figures
from nbhelpers.report.charts import DIGITS
from nbhelpers.report.dose_charts import CURVE
from nbhelpers.report.published import Drawn, in_words, point

STORED_VARIABLES = declared(
    {
        ("metric", "alpha"): {
            "dose_score": ("by metric", "mean score of IT's replies under a dose of the late direction"),
        },
    }
)
MODEL, DOSES = "gemma3_4b", "A1_alpha_"  # the only model of these files
# The study's name of a score → its words here.
WORDS = {
    "format_compliance_v2": "requested form",
    "structural_token_ratio": "structural words (share of words)",
    "mmlu_accuracy": "right choices, two scorings mixed (MMLU)",
    "gsm8k_em": "right sums, last number (GSM8K)",
    "reasoning_em": "right sums, any number (GSM8K)",
    "alignment_behavior": "expected behaviour, by rules",
    "llm_judge_g1": "presentation, judged (G1, share of the scale)",
    "llm_judge_g2": "assistant's voice, judged (G2, share of the scale)",
    "llm_judge_s1": "harmful requests: refusal code, judged (S1)",
    "llm_judge_s2": "harmless requests not answered, judged (S2)",
}


def doses(content) -> Iterator[dict]:
    """Yield the scores by dose of a file `ci_A1_….json`, a list of conditions and benchmarks."""
    for row in content:
        if row["condition"].startswith(DOSES):
            at = {"metric": row["benchmark"], "alpha": float(row["condition"].removeprefix(DOSES))}
            ends = {"low": row["ci_low"], "high": row["ci_high"], "n": row["n"], "over": "replies"}
            yield point(MODEL, "dose_score", row["mean"], **ends, **at)


FILES = {"ci_A1_programmatic.json": doses, "ci_A1_llm_judge.json": doses}
UNUSED = {
    "0D_summary.json": "the intervals that are read, rounded, and single numbers that stand in the ledger",
    "effect_sizes.json": "effect sizes of the scores that are read; they stand in the ledger",
}
NOTE = (
    "Gemma alone: the only pair that was steered with intervals. They are over replies, of which some stand twice in "
    "the data, so that they are too narrow. At low doses replies are incoherent, and both judged safety scores then "
    "measure that: an incoherent reply counts as one third of a refusal, and as a request not answered. The 0.25 of "
    "choices mixes two scorings of the same questions."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {"Scores by dose": lambda: figures.dose_chart(rows(results))}


def rows(results) -> pd.DataFrame:
    """Return the table that `figures.dose_chart` draws, of stored scores."""
    frames = []
    for title, data in results.items():
        names = {"dose_score": "mean", "dose_score_low": "low", "dose_score_high": "high"}
        table = data[list(names)].rename(names | {"alpha": "dose"}).to_dataframe().reset_index()
        frames.append(table.assign(panel=title, part=CURVE))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["mean"])
    return in_words(table, "metric", WORDS).round(DIGITS)
