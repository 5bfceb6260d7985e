"""The figures, tables and verdict of exp14."""

from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp14_symmetric_causality.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import panels
from nbhelpers.report.directions import LEAST, among, answer, by_side, claim, fitting, sentence, sides
from nbhelpers.report.families import POOL, interval_table, is_dense, turned
from nbhelpers.report.forest import forest
from nbhelpers.report.graft_charts import (
    BASES,
    BY_WINDOW,
    LENS,
    READOUTS,
    SIDES,
    WHOLE,
    WINDOWS,
    by_window,
    change_of,
    heading_of,
    window_colour,
    window_rows,
)
from nbhelpers.report.quantities import named, value
from nbhelpers.report.text import written
from nbhelpers.report.verdicts import DOWN, UP, Verdict

SURE = 0.95  # the bootstrap probability from which a window is surely the strongest
LENSLESS = ("delta_cosine_block", "delta_cosine_mlp", "nll")  # the same through every lens
# Short names of the read-outs, for narrow screens.
SHORT = {
    "kl_layer_final": "KL to own final",
    "kl_final_layer": "KL from own final",
    "kl_layer_baseline_final": "KL to host's final",
    "kl_layer_teacher_final": "KL to teacher's final",
    "kl_layer_teacher": "KL to teacher's layer",
    "js_teacher": "JS to teacher's layer",
    "entropy": "entropy",
    "commitment": "commitment",
    "delta_cosine_block": "δ-cosine, block",
    "delta_cosine_mlp": "δ-cosine, MLP",
    "nll": "NLL",
}


def causality_rows(results, readout: str) -> pd.DataFrame:
    """Return a table of means and intervals of one read-out in the final fifth, by panel, side, window and choice.

    With two or more dense pairs, their pool, averaged prompt by prompt, is the last panel.
    """

    def values(dataset):
        return dataset["shift"].sel(region="final_fifth", readout=readout, drop=True).astype(float)

    rows = window_rows(results, values, pool=True)
    return rows.assign(basis=rows["basis"].map(BASES))


def sufficiency_necessity(results, readout="kl_layer_final") -> alt.Chart:
    """Return the study's Figure 2 with intervals: each window's shift, IT's MLPs in PT and PT's MLPs in IT, by family.

    The reader chooses the lens and its model, if the read-out has a lens. The region is the final fifth of the layers.
    """
    rows, (_, unit) = causality_rows(results, readout), READOUTS[readout]
    toggles = {"lens": "lens", "basis": "read through the lens of"}
    if readout in LENSLESS:
        rows, toggles = rows[(rows["lens"] == "raw") & (rows["basis"] == BASES["host"])], {}
    what = f"Change of {change_of(readout)}, {BY_WINDOW} and host"
    return forest(
        rows, column="side", by="window", encodings=by_window(), x=unit, toggles=toggles, defaults=LENS,
        title=heading_of(readout),
        description=caption(what, rows, [BARS, ZERO], toggles, each="row"),
    )  # fmt: skip


def strongest(results) -> alt.Chart:
    """Return a chart of the probability that each window has the strongest change, one stacked bar per read-out.

    The strongest change is the largest in the study's direction; *none*: no window has one. The reader chooses side and
    lens.
    """

    def measure(dataset):
        chosen = dataset.strongest.sel(region="final_fifth", basis="host", drop=True)
        none = (1 - chosen.sum("window", skipna=False)).clip(0).expand_dims(window=["none"])
        return xr.concat([chosen, none], "window").rename("share").to_dataset()

    frames = [measure(d).to_dataframe().reset_index().assign(panel=panel) for panel, d in results.items()]
    rows = pd.concat(frames, ignore_index=True).dropna(subset=["share"]).round(charts.DIGITS)
    rows["side"] = rows["side"].map(SIDES)
    rows["readout"] = rows["readout"].map(SHORT)
    rows["rank"] = rows["window"].map({name: i for i, name in enumerate([*WINDOWS, "none"])})
    y = alt.Y("readout:N", sort=list(SHORT.values()), title=None, axis=alt.Axis(ticks=False, domain=False))
    x = alt.X("share:Q", title="probability", axis=alt.Axis(format="%"), stack="zero")
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "readout:N",
        "window:N",
        alt.Tooltip("share:Q", format=".0%"),
    ]
    bar = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=x,
            y=y,
            color=window_colour(),
            order=alt.Order("rank:O"),
            tooltip=tips,
        )
    )
    return panels(
        rows, "Which window is the strongest?", bar, toggles={"side": "graft", "lens": "lens"}, defaults=LENS,
        description="Probability that each window changes a read-out most in the study's direction, for the chosen graft",
        marks=["bars stack early, mid, late and none of them, from left to right"],
    )  # fmt: skip


def test_table(results, readout="kl_layer_final", lens="tuned") -> pd.DataFrame:
    """Return a table of each window's shift in the final fifth with its interval, by side; * if p < 0.05, Holm over cells."""
    cases = [(side, window) for side in SIDES for window in WINDOWS]
    chosen = {
        t: d.sel(readout=readout, lens=lens, basis="host", region="final_fifth") for t, d in results.items()
    }
    p = np.array([[float(d.p.sel(side=s, window=w)) for s, w in cases] for d in chosen.values()])
    holm = np.array(stats.holm(p.ravel())).reshape(p.shape)
    rows = {}
    for (title, d), adjusted in zip(chosen.items(), holm):
        rows[title] = []
        for (side, window), each in zip(cases, adjusted):
            one = d.sel(side=side, window=window)
            ends = pd.DataFrame(
                [[float(one[name]) for name in ("mean", "low", "high")]], columns=["mean", "low", "high"]
            )
            rows[title].append(f"{written(ends, 3)[0]}{' *' if each < 0.05 else ''}")
    if sum(map(is_dense, results.values())) > 1:
        rows[POOL] = [
            written(pool_table(results, side, window, readout, lens), 3)[0] for side, window in cases
        ]
    columns = pd.MultiIndex.from_tuples([(SIDES[side], window) for side, window in cases])
    return turned(pd.DataFrame(rows, index=columns).T, results)


def pool_table(results, side, window, readout, lens) -> pd.DataFrame:
    """Return a table with the dense pool's mean and interval of one window's shift."""
    table = interval_table(results, named(quantities, f"shift.{readout}.{side}.{window}.{lens}"))
    return table[table["family"] == POOL]


def strongest_late(
    results, readout="kl_layer_final", lens="tuned", region="final_fifth"
) -> dict[str, dict[str, float]]:
    """Return {side: {family: bootstrap probability that the late window is the strongest}} for one read-out."""
    names = {side: f"strongest_late.{readout}.{side}.{region}.{lens}" for side in SIDES}
    return {side: {t: value(quantities, d, name) for t, d in results.items()} for side, name in names.items()}


def readout_table(results, lens="tuned") -> pd.DataFrame:
    """Return a table of the number of pairs in which the late window is surely the strongest (probability ≥ 0.95) or surely
    not (≤ 0.05).
    """
    rows = {}
    for readout, (title, _) in READOUTS.items():
        regions = {"final_fifth": "final fifth", "window": "own window"}
        for region, layers in ({"final_fifth": "all layers"} if readout in WHOLE else regions).items():
            found = strongest_late(results, readout, lens, region)
            shown = {}
            for side, heading in SIDES.items():
                values = np.array([value for value in found[side].values() if not np.isnan(value)])
                sure, other = int((values >= 0.95).sum()), int((values <= 0.05).sum())
                counts = {"late strongest": sure, "surely not": other}
                shown |= {
                    f"{heading}: {name}": f"{count} of {len(values)}" if len(values) else "–"
                    for name, count in counts.items()
                }
            rows[title, layers] = shown
    table = pd.DataFrame(rows).T
    return table.rename_axis([None, None])


MOVED, TAKEN = "kl_shift.sufficiency.late", "kl_shift.necessity.late"
MOST = ("yes", "mostly")
THROUGH_PT = "kl_shift_pt_lens.necessity.late"
MATRIX = {
    "IT's late MLPs in PT": MOVED,
    "PT's late MLPs in IT": TAKEN,
    "the same, read by PT's lens": THROUGH_PT,
    "PT's distance from IT's layers": "shift.kl_layer_teacher.sufficiency.late.tuned",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's late MLPs suffice to carry PT's late layers away from its final prediction, and
    whether IT's own late layers need them.
    """
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    put, taken, through_pt = (sides(results, quantities, name) for name in (MOVED, TAKEN, THROUGH_PT))
    needs = answer(taken, DOWN)
    if answer(through_pt, DOWN) in MOST and needs not in MOST:
        needs = "by PT's lens only"
    size = claim(
        results, quantities, MOVED,
        "IT's late MLPs put PT's late layers {size} nats {word} its final prediction (tuned lens)",
        "Whether IT's late MLPs put PT's late layers farther from its final prediction is undecided",
        ("farther from", "nearer to"), detail=detail,
    )  # fmt: skip
    words = ("farther", "nearer", "neither surely nearer nor farther", detail)
    own, other = (by_side(results, found, *words) for found in (taken, through_pt))
    lens = "" if own == other else f"; by PT's lens, {other}"
    return Verdict(
        f"Sufficient: {answer(put)}; necessary: {needs}",
        sentence(size),
        f"PT's late MLPs put IT's {own}{lens}.",
        strongest_of_three(results),
    )


def strongest_of_three(results) -> str:
    """Return the sentence on whether late MLPs move PT most: by the mean, and surely, in 95 % of resamples."""
    by_mean = [title for title, dataset in results.items() if late_leads(dataset)]
    moved, likely = sides(results, quantities, MOVED)[UP], strongest_late(results)["sufficiency"]
    sure = [title for title in by_mean if title in moved and likely[title] >= SURE]
    if not by_mean:
        return f"Other MLPs move PT more than late ones{' in every pair' if len(results) > 1 else ''}."
    places = among(by_mean, results, LEAST)
    if sure == by_mean:
        return f"Late MLPs surely outdo earlier ones {places}".rstrip() + "."
    surely = f"surely {among(sure, results, LEAST)}" if len(results) > 1 else "but not surely"
    return f"Late MLPs outdo earlier ones {places}".rstrip() + f", {surely}."


def late_leads(dataset: xr.Dataset) -> bool:
    """Return whether the late window's mean shift in PT is above zero and above those of the other windows."""
    means = {w: value(quantities, dataset, f"kl_shift.sufficiency.{w}") for w in WINDOWS}
    return means["late"] > 0 and means["late"] == max(means.values())
