"""What the study stored of the onset of its late stage: the onset layer by threshold rule."""

from collections.abc import Iterator

from nbhelpers.experiments.exp07_0j_onset import report
from nbhelpers.experiments.exp07_0j_onset.experiment import VARIABLES
from nbhelpers.report.published import Drawn, completed, layers_of, point

ENDS = ("onset_low", "onset_high", "found_exchanged")
NONE = -1  # of a rule that finds no onset


def onsets(content) -> Iterator[dict]:
    """Yield the onset layer by rule from `0J_onset_table.json`, a list of rows."""
    for row in content:
        layer = NONE if row["onset_layer"] is None else row["onset_layer"]
        if not NONE <= layer < layers_of(row["model"]):
            raise ValueError(f"its onset of {row['model']} is layer {layer}")
        yield point(row["model"], "onset", layer, component="block", rule=rule(row["threshold"]))


def rule(threshold: str) -> str:
    """Return the name of a rule as in our datasets: "0.5σ" is "0.5 σ", any other is a drop by a number."""
    if threshold.endswith("σ"):
        return f"{float(threshold.removesuffix('σ')):g} σ"
    return f"drop {''.join(one for one in threshold if one in '0123456789.')}"


FILES = {"0J_onset_table.json": onsets}
UNUSED = {"0J_onset_summary.json": "the least and the greatest onset of the table that is read"}
NOTE = (
    "The first of two layers in a row at which IT − PT of the block's δ-cosine meets a rule, searched above layer 14 "
    "alone, against the mean and spread of layers 6 to 14, whatever the number of layers. Which layers meet a rule "
    "was not stored, so that there is a table and no picture. Qwen's fall is in its last layer, where no two layers "
    "in a row can be."
)


def drawn(results) -> Drawn:
    """Return the table of the page that the stored values suffice for, by heading."""
    ends = {name: VARIABLES[name] for name in ENDS}
    whole = {title: completed(data, ends, {}) for title, data in results.items()}
    return {"Onset by rule": lambda: report.onset_table(whole)}
