"""What the study stored of steering along two directions: scores of replies by dose, in six families."""

from collections.abc import Iterator

import pandas as pd

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp10_contrastive_patching import figures
from nbhelpers.report.charts import DIGITS
from nbhelpers.report.published import Drawn, in_words, point

STORED_VARIABLES = declared(
    {
        ("direction", "outcome", "alpha"): {
            "dose_score": ("by outcome", "mean score of IT's replies under a dose of a direction"),
        },
    }
)
ADDED = {"conv": "d_conv", "mean": "d_mean"}
DOSES = "A1_alpha_"
PROGRAMS = {
    "format": "format_compliance_v2",
    "choice": "mmlu_forced_choice",
    "structure": "structural_token_ratio",
}
JUDGED = {"g1": "g1", "g2": "g2", "s2": "s2"}
REFUSALS = {"s1_refuses": "refuse_rate", "s1_incoherent": "incoherent_rate"}
WORDS = {
    "format": "form as asked",
    "choice": "right choice",
    "structure": "markup",
    "g1": "presentation, judged (G1, points)",
    "g2": "assistant's voice, judged (G2, points)",
    "s2": "harmless requests not answered, judged (S2)",
    "s1_refuses": "harmful requests refused, judged (S1)",
    "s1_incoherent": "harmful requests: reply incoherent, judged",
}


def doses(content) -> Iterator[dict]:
    """Yield the scores by dose of `exp10_summary.json`: {model: {direction: {judge, programmatic: {score: {condition}}}}}."""
    for model, directions in content.items():
        for ours, theirs in ADDED.items():
            of = directions[theirs]
            for outcome, name in PROGRAMS.items():
                for condition, value in of["programmatic"][name].items():
                    yield from at_dose(model, ours, outcome, condition, value)
            for outcome, name in JUDGED.items():
                for condition, found in of["judge"][name].items():
                    yield from at_dose(model, ours, outcome, condition, found["mean"], found["n"])
            for outcome, name in REFUSALS.items():
                for condition, found in of["judge"]["s1"].items():
                    yield from at_dose(model, ours, outcome, condition, found[name], found["n"])


def at_dose(model: str, direction: str, outcome: str, condition: str, value, n=None) -> Iterator[dict]:
    """Yield the row of one condition if it is a dose of the direction."""
    if condition.startswith(DOSES):
        alpha = float(condition.removeprefix(DOSES))
        counted = {"n": n, "over": "replies" if n else ""}
        yield point(model, "dose_score", value, direction=direction, outcome=outcome, alpha=alpha, **counted)


FILES = {"exp10_summary.json": doses}
UNUSED: dict[str, str] = {}
NOTE = (
    "Changes of mean scores from dose 1, which changes nothing; intervals would need the scores of each prompt. "
    "Programs score form, choices and markup; an LLM judge the rest, on prompts of its own kind. A dose rescales what "
    "MLP outputs have along a direction, which is little along the probe's, so that equal doses are no equal changes. "
    "In Qwen unsteered IT seems to have run without its chat format. Probes, patches and the gap under a dose were "
    "not stored."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {"Steering along either direction": lambda: figures.steering_curves(rows(results))}


def rows(results) -> pd.DataFrame:
    """Return the table that `figures.steering_curves` draws, of stored scores less those at dose 1."""
    frames = []
    for title, data in results.items():
        score = data["dose_score"]
        moved = (
            (score - score.sel(alpha=1.0, drop=True)).rename("mean").rename(alpha="dose", direction="along")
        )
        frames.append(moved.to_dataframe().reset_index().assign(panel=title))
    table = pd.concat(frames, ignore_index=True).dropna(subset=["mean"]).round({"mean": DIGITS})
    table = in_words(table, "outcome", WORDS)
    return table.assign(along=table["along"].map(figures.ADDED), low=float("nan"), high=float("nan"))
