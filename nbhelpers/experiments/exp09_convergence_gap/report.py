"""The interval figures, tables and verdict of exp09.

DeepSeek, a mixture of experts, is shown with the others but left out of the pool of dense families, as in the study.
"""

import json
from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp09_convergence_gap.quantities import GAPS, quantities, threshold
from nbhelpers.measures.steps import STRATA
from nbhelpers.report.charts import KL, dots, rule_title
from nbhelpers.report.families import interval_table
from nbhelpers.report.quantities import interval_rows, named, value
from nbhelpers.report.sentences import ONE, SEVERAL, compared, signs
from nbhelpers.report.text import number, percent, whether, written
from nbhelpers.report.unmeasured import sentences

SLICES = {
    "depth 0.5–0.7": "depth_0.5_0.7",
    "depth 0.7–0.9": "depth_0.7_0.9",
    "depth 0.9–1": "depth_0.9_1.0",
    "final fifth": "final_fifth",
}
THIRDS = {
    "early": "early_third",
    "middle": "middle_third",
    "late": "late_third",
    "final fifth": "final_fifth",
}
of = partial(named, quantities)


def interval_dots(results, names, label: str, title: str) -> alt.Chart:
    """Return a chart of dots with intervals of quantities IT − PT, nats; names: {label of the row: quantity}."""
    rows = interval_rows(results, quantities, {name: {label: shown} for shown, name in names.items()})
    return dots(rows, label, x="IT − PT, nats", title=title)


def history_gap(results, lens="raw") -> alt.Chart:
    """Return a chart of the late-half gap IT − PT by history, with intervals: free running, IT's tokens, PT's tokens."""
    names = {
        "free running": f"kl_excess_late_half.{lens}",
        "IT's tokens": f"matched_gap_late_half.it.{lens}",
        "PT's tokens": f"matched_gap_late_half.pt.{lens}",
    }
    return interval_dots(results, names, "history", f"Convergence gap by history, {lens} lens")


def gap_intervals(results, direction="final_layer") -> alt.Chart:
    """Return a chart of the convergence gap of every model with its interval, raw and tuned lens."""
    names = {lens: f"{GAPS[direction]}_late_half.{lens}" for lens in ("raw", "tuned")}
    return interval_dots(results, names, "lens", f"Convergence gap, {KL[direction]}")


def confidence_gap(results, lens="raw", matched=False) -> alt.Chart:
    """Return a chart of the late-half gap IT − PT by confidence of the final prediction, with intervals over prompts."""
    text, where = ("it", "on IT's tokens") if matched else ("free", "free running")
    names = {stratum: f"gap_by_confidence.{stratum}.{text}.{lens}" for stratum in STRATA}
    return interval_dots(results, names, "stratum", f"Gap by confidence, {where}, {lens} lens")


def category_gap(results, lens="raw", direction="final_layer") -> alt.Chart:
    """Return a chart of the late-half gap IT − PT by category of prompt, with intervals over prompts."""
    categories = dict.fromkeys(str(c) for d in results.values() for c in d.category.values)
    names = {category: f"{GAPS[direction]}_by_category.{category}.{lens}" for category in categories}
    return interval_dots(results, names, "category", f"Convergence gap by category, {lens} lens")


def gap_table(results, direction="final_layer", lens="raw") -> pd.DataFrame:
    """Return a table of the convergence gap, nats, by family and for the dense pool: mean, low, high."""
    return interval_table(results, of(f"{GAPS[direction]}_late_half.{lens}"))


def gap_summary(results, lens="raw") -> pd.DataFrame:
    """Return a table of the gaps in both directions as text, with layers above zero and final entropies, by family."""
    gaps = {direction: gap_table(results, direction, lens) for direction in GAPS}
    table = pd.DataFrame({"family": gaps["final_layer"]["family"]}).set_index("family")
    table["KL(final ‖ layer), nats"] = written(gaps["final_layer"])
    table["KL(layer ‖ final), nats"] = written(gaps["layer_final"])
    for title, dataset in results.items():
        read, layers = partial(value, quantities, dataset), dataset.sizes["layer"]
        table.loc[title, "first, by token"] = number(read(f"kl_excess_late_half_by_token.{lens}"))
        above = read(f"late_layers_above.{lens}")
        table.loc[title, "layers above"] = f"{above:.0f} of {layers - layers // 2 - 1}"
        entropy = [f"{read(f'final_entropy.{v}'):.2f}" for v in params.VARIANTS]
        table.loc[title, "final entropy PT → IT"] = " → ".join(entropy)
    return table.fillna("").rename_axis(None)


def columns(results, names) -> pd.DataFrame:
    """Return a table of quantities as text, one row per family and one for the dense pool; names: {heading: quantity}."""
    found = {heading: interval_table(results, of(name)) for heading, name in names.items()}
    texts = {heading: pd.Series(written(table), index=table["family"]) for heading, table in found.items()}
    return pd.DataFrame(texts).rename_axis(None)


def third_summary(results, direction="final_layer") -> pd.DataFrame:
    """Return a table of the gap by thirds of the layers and over the final fifth as text, nats, by lens and family."""
    names = {
        lens: {heading: f"{GAPS[direction]}_{part}.{lens}" for heading, part in THIRDS.items()}
        for lens in ("raw", "tuned")
    }
    return pd.concat({lens: columns(results, of_lens) for lens, of_lens in names.items()}).rename_axis(
        [None, None]
    )


def rules(dataset: xr.Dataset) -> dict[str, str]:
    """Return {rule: heading} of the study's rules, with the threshold, window and share that a run gave them."""
    tau, windows = (
        threshold(dataset),
        [r for r in map(str, dataset.rule.values) if r.startswith("top1_stable")],
    )
    share = json.loads(dataset.attrs.get("parameters", "{}")).get("majority_share", 0.9)
    return {
        "top1_first": "first top-1",
        "top1_strict": "top-1 stays",
        **{rule: f"top-1 for {rule.removeprefix('top1_stable')} layers" for rule in windows},
        f"kl_first_{tau}": f"first KL < {tau}",
        f"kl_stays_{tau}": f"KL < {tau} stays",
        f"majority_{tau}": f"{percent(share)} KL < {tau}",
    }


def delay_summary(results, lens="raw") -> pd.DataFrame:
    """Return a table of the commitment delays IT − PT, layers, as text, one column for each of `rules`."""
    headings = rules(next(iter(results.values())))
    return columns(results, {text: f"commitment_delay.{lens}.{rule}" for rule, text in headings.items()})


def cosine_summary(results) -> pd.DataFrame:
    """Return a table of the shifts IT − PT of the block's δ-cosine as text, by family, by depth and for the final fifth."""
    return columns(results, {heading: f"delta_cosine_shift.{name}" for heading, name in SLICES.items()})


def verdict(results) -> str:
    """Return the verdict on the convergence gap and the commitment delay, as Markdown, from the results alone."""
    rule = f"kl_stays_{threshold(next(iter(results.values())))}"
    total, larger = len(results), ("larger in IT", "smaller in IT")
    lower = "a lower mean entropy in IT"
    gap = signs(results, of("kl_excess_late_half.raw"))

    def sign(name, above, below):
        return compared(signs(results, of(name)), total, above, below)

    def delay(lens):
        return sign(f"commitment_delay.{lens}.{rule}", "later in IT", "earlier in IT")

    opposition = signs(results, lambda dataset: -of("delta_cosine_shift.final_fifth")(dataset))
    answer = "Yes" if len(gap["above"]) == total else "In part" if gap["above"] else "Not in this run"
    said = [
        f"**{answer}.** Over the late half of the layers, free running and through the raw lens, KL(final ‖ layer) is "
        + compared(gap, total, "larger in IT than in PT", "smaller in IT"),
        f"Through the tuned lens it is {sign('kl_excess_late_half.tuned', *larger)}",
        f"In the other direction, KL(layer ‖ final), it is {sign('kl_layer_final_excess_late_half.raw', *larger)}",
        f"With both models on IT's text, KL(final ‖ layer) is {sign('matched_gap_late_half.it.raw', *larger)}",
        f"Commitment by the rule “{rule_title(rule)}” is, raw lens, {delay('raw')}",
        f"Tuned lens, it is {delay('tuned')}",
        "In the final fifth of the layers the block update's opposition to the residual stream is "
        + compared(opposition, total, "stronger in IT", "weaker in IT"),
    ]
    return (
        ". ".join(said) + ".\n\n"
        f"The final distribution itself {whether(sharper(results), total, f'has {lower}', f'does not have {lower}')}; a gap "
        f"to one’s own end point has to be read beside that. {ONE if total == 1 else SEVERAL}"
        f"{sentences(results, 'attention', 'weights')}"
    )


def sharper(results) -> list[str]:
    """Return the families in which IT's mean final entropy is below PT's."""
    entropy = {
        t: [value(quantities, d, f"final_entropy.{v}") for v in params.VARIANTS] for t, d in results.items()
    }
    return [title for title, (pt, it) in entropy.items() if it < pt]
