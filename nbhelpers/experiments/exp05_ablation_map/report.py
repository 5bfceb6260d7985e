"""The figures, tables and verdict of exp05."""

from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.core.dose_stats import detectable
from nbhelpers.experiments.exp05_ablation_map.quantities import LATE, quantities
from nbhelpers.report.captions import BANDS, BARS, ONSET, ZERO, caption
from nbhelpers.report.charts import (
    DIGITS,
    SINGLE,
    banded,
    bands,
    by_category,
    chosen,
    in_lines,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.report.directions import (
    ELSE,
    LEAST,
    answer,
    claim,
    fitting,
    levels_of,
    places,
    ranged,
    sentence,
    sides,
)
from nbhelpers.report.families import interval_table, turned
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import named, value
from nbhelpers.report.text import number, p_value, written
from nbhelpers.report.theme import CATEGORIES, INK
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict, of

FLOOR = 1e-4  # nats; smaller divergences are drawn here on a log scale
EDITS = {
    "skip": "block skipped",
    "mean": "MLP at its mean",
    "reverse": "direction reversed",
    "remove": "direction removed",
}
CHANGES = {"skip": "blocks skipped", "mean": "MLPs at their mean", "remove": "direction removed"}
WRITES = {"isotropic": "any direction", "covariance": "directions that IT's outputs vary along"}
NATS = "KL(unedited ‖ edited), nats"
LOG = f"values below {FLOOR:g} nats are drawn there (log scale)"


def log_axis(title: str = NATS) -> dict:
    """Return the options of a logarithmic y axis of divergences."""
    return {
        "scale": alt.Scale(type="log", domainMin=FLOOR, clamp=True),
        "axis": alt.Axis(format="~g", values=TICKS),
    }


TICKS = [1e-4, 1e-3, 1e-2, 0.1, 1, 10]


def floored(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose mean, low and high are at least `FLOOR`."""
    return rows.assign(
        **{name: rows[name].clip(lower=FLOOR) for name in ("mean", "low", "high") if name in rows}
    )


def layer_map(results) -> alt.Chart:
    """Return a chart of what IT's predictions on its own replies lose when one layer is edited, by layer and edit."""

    def measure(dataset):
        values = dataset["kl_layer"].sel(edit=list(EDITS)).astype(float)
        return banded(values.assign_coords(edit=list(EDITS.values())))

    curve = bands(
        layers_axis(), NATS, "nats", fields=("edit", "layer"), colours=by_category("edit", EDITS.values()), **log_axis()
    )  # fmt: skip
    return panels(
        floored(tidy(results, measure)), "One layer edited: how far IT's predictions move (log scale)", onset_rule(), *curve,
        marks=(BANDS, ONSET, LOG),
        description="KL(unedited ‖ edited) of IT's predictions on its own replies, nats, against the edited layer",
    )  # fmt: skip


def windows(results) -> alt.Chart:
    """Return a forest plot of the divergence when a window of layers is edited, by window and by what is done to it."""
    shown = {"early": "early", "mid": "mid", LATE: "late"}
    names = {
        f"kl_window.{change}.{window}": {"change": title, "window": words}
        for change, title in CHANGES.items()
        for window, words in shown.items()
    } | {f"kl_sets.{change}": {"change": title, "window": "random sets"} for change, title in CHANGES.items()}
    rows = forest_rows(results, quantities, names)
    rows = rows.sort_values("panel", key=lambda titles: titles.map(_places(rows)), kind="stable")
    what = "KL(unedited ‖ edited) on IT's own replies when a window of layers, or a random set of as many, is edited"
    chart = forest(
        rows, column="change", by="window", x=NATS, title="Windows of layers edited",
        description=caption(what, rows, [BARS, ZERO, "each edit has its own axis"], each="row"),
    )  # fmt: skip
    # On the axis of skipped blocks, thousandths of a nat would all lie at zero.
    return chart.resolve_scale(x="independent") if rows["panel"].nunique() > 1 else chart


def _places(rows: pd.DataFrame) -> dict[str, int]:
    return {title: i for i, title in enumerate(dict.fromkeys(rows["panel"]))}


def phase_table(results) -> pd.DataFrame:
    """Return a table of the mean KL, nats, when the study's phases are edited; the corrective one is the late window."""
    phases = {"content": "content", "format": "format", "corrective": LATE}
    cases = [(title, phase) for title in CHANGES.values() for phase in phases]
    rows = {
        panel: [
            number(value(quantities, d, f"kl_window.{change}.{phases[phase]}"), 3) for change in CHANGES for phase in phases
        ]
        for panel, d in results.items()
    }  # fmt: skip
    return turned(pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(cases)).T, results)


def removal(results) -> alt.Chart:
    """Return a chart of the late removal among random directions of the same length, a row per pair, log scale."""
    rows = _removal_rows(results)
    y_axis = alt.Axis(grid=True, ticks=False, domain=False, labelLimit=170)
    place = {
        "x": alt.X("kl:Q", title=NATS, scale=alt.Scale(type="log"), axis=alt.Axis(format="~g")),
        "y": alt.Y("panel:N", sort=list(results), title=None, axis=y_axis),
        "tooltip": [alt.Tooltip("panel:N", title="pair"), "what:N", alt.Tooltip("kl:Q", format=".4f")],
    }
    ticks = alt.Chart().transform_filter(alt.datum.what == RANDOM)
    dot = alt.Chart().transform_filter(alt.datum.what != RANDOM)
    ticks = ticks.mark_tick(thickness=1.5, color=INK, size=12)
    dot = dot.mark_point(size=90, filled=True, opacity=1, shape="diamond", color=CATEGORIES[0])
    chart = alt.layer(ticks.encode(**place), dot.encode(**place), data=rows)
    what = (
        "Mean KL(unedited ‖ edited) when the IT − PT direction is taken out of late MLPs (diamond), and when the same length "
        "is taken out along random directions (ticks)"
    )
    chart = chart.properties(
        width=SINGLE["width"], height=max(60, 24 * len(results)), title=in_lines("The late direction among random ones"),
        description=caption(what, rows, [LOG], each="row"),
    )  # fmt: skip
    return chosen(chart, rows, {"write": "random among"})


RANDOM = "a random direction"


def _removal_rows(results) -> pd.DataFrame:
    """Return a table of the mean KL of the late removal and of each random direction: panel, write, what, kl."""
    at, rows = {"change": "remove", "window": LATE}, []
    for title, dataset in results.items():
        own = float(dataset["kl_window"].sel(**at).mean())
        for write, words in WRITES.items():
            null = dataset["kl_random"].sel(write=write).mean("prompt").values
            found = [(RANDOM, float(each)) for each in null] + [("the IT − PT direction", own)]
            rows += [{"panel": title, "write": words, "what": what, "kl": kl} for what, kl in found]
    rows = pd.DataFrame(rows)
    return rows.assign(kl=rows["kl"].clip(lower=FLOOR).round(DIGITS + 1))


def skips(results) -> alt.Chart:
    """Return a chart of the divergence against the number of last layers that are skipped, with PT's as a line."""

    def measure(dataset):
        values = dataset["kl_skipped"].astype(float)
        n = dataset.sizes["layer"] - dataset["first_skipped"].values
        found = banded(values.rename(first_skipped="skipped").assign_coords(skipped=n))
        return found.assign(pt=dataset["kl_parent"].sel(prompt_format="raw", drop=True).mean())

    x = alt.X(
        "skipped:Q", title="last layers skipped", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(zero=False)
    )
    curve = bands(x, NATS, "nats", fields=("skipped",), colours={"color": alt.value(INK)})
    line = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(y=alt.Y("mean(pt):Q", title=NATS))
    return panels(
        _skip_rows(results, measure), "The last layers skipped", line, *curve,
        marks=(BANDS, "the dashed line is KL(IT ‖ PT)"),
        description="KL(unedited ‖ edited) on IT's own replies, nats, against the number of last layers skipped",
    )  # fmt: skip


def _skip_rows(results, measure) -> pd.DataFrame:
    """Return the rows of `skips`; its datasets have no layers of their own, so the onset is left out."""
    frames = [measure(d).to_dataframe().reset_index().assign(panel=title) for title, d in results.items()]
    rows = pd.concat(frames, ignore_index=True)
    return rows.round({name: DIGITS for name in rows.select_dtypes("floating")})


def layer_table(results) -> pd.DataFrame:
    """Return a table of the first layer and of the strongest other one, by edit: mean KL, nats."""
    columns = {}
    for edit, words in {**EDITS, "zero": "MLP at zero"}.items():
        columns[words, "first layer"] = [
            number(value(quantities, d, f"kl_layer.{edit}.first"), 3) for d in results.values()
        ]
        columns[words, "strongest other"] = [_strongest(d, edit) for d in results.values()]
    table = pd.DataFrame(columns, index=pd.Index(list(results)))
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return turned(table, results)


def _strongest(dataset: xr.Dataset, edit: str) -> str:
    """Return the strongest layer but the first with its mean KL as text, "layer 10: 0.066"."""
    layer = int(value(quantities, dataset, f"strongest_layer.{edit}"))
    kl = float(dataset["kl_layer"].sel(edit=edit).isel(layer=layer).mean())
    return f"layer {layer}: {number(kl, 3)}"


def removal_table(results) -> pd.DataFrame:
    """Return a table of the late removal: its KL beside that of random directions, thousandths of a nat, and the dose.

    *visible*: the smallest difference that these prompts would show with a power of 80 %.
    """
    rows = {}
    for title, d in results.items():
        row = {"removed": number(1000 * value(quantities, d, f"kl_window.remove.{LATE}"), 1)}
        for write, words in {"isotropic": "random", "covariance": "random as IT varies"}.items():
            row |= _among(d, write, words)
        doses = [value(quantities, d, name) for name in ("removal_change", "random_change.isotropic")]
        row["residual moved (random)"] = "{:.1f} % ({:.1f} %)".format(*(100 * dose for dose in doses))
        row["of KL(IT ‖ PT)"] = fine_percent(value(quantities, d, "removal_share"))
        rows[title] = row
    return turned(pd.DataFrame(rows).T, results)


def _among(dataset: xr.Dataset, write: str, words: str) -> dict[str, str]:
    """Return the cells of `removal_table` on one kind of random directions, thousandths of a nat."""
    null = 1000 * dataset["kl_random"].sel(write=write).mean("prompt").values
    name = f"removal_less_random.{write}"
    excess = interval_table({"": dataset}, named(quantities, name), pool=False)
    return {
        f"{words}: mean (range)": f"{number(null.mean(), 1)} ({number(null.min(), 1)}–{number(null.max(), 1)})",
        f"{words}: difference": written(excess, 1)[0],
        f"{words}: visible": number(detectable(named(quantities, name)(dataset)), 1),
        f"{words}: rank p": p_value(value(quantities, dataset, f"removal_rank_p.{write}"), 3),
    }


def quality_table(results, kind: str = "mean") -> pd.DataFrame:
    """Return a table of how good the direction is, the mean over late layers and, in brackets, the least of them."""
    columns = {
        "split_half": "halves agree (cosine)", "template_cosine": "raw prompts for both (cosine)",
        "agreement_of_prompts": "a prompt with the others (cosine)", "auroc": "held-out AUROC",
        "energy_share": "energy share",
    }  # fmt: skip
    rows = {}
    for title, d in results.items():
        late = list(depths.windows(d.sizes["layer"])[LATE])
        read = {words: d[name].sel(kind=kind).isel(layer=late) for name, words in columns.items()}
        rows[title] = {
            words: f"{number(float(v.mean()))} ({number(float(v.min()))})" for words, v in read.items()
        }
    return turned(pd.DataFrame(rows).T, results)


def place_table(results) -> pd.DataFrame:
    """Return a table of the late removal at the MLP's output and behind the norm that follows it: KL and dose."""
    rows = {}
    for title, d in results.items():
        kl, change = (d[f"{name}_place"].mean("prompt") for name in ("kl", "residual_change"))
        rows[title] = {
            words: f"{number(float(kl.sel(place=place)), 4)} ({100 * float(change.sel(place=place)):.1f} %)"
            for place, words in {
                "mlp_output": "at the MLP's output",
                "mlp_update": "at what is added to the stream",
            }.items()
        }
    return turned(pd.DataFrame(rows).T, results)


CHANCE = 0.05
MLPS, BLOCKS, BEYOND = "late_less_mid.mean", "late_less_mid.skip", "removal_less_random.isotropic"
MATRIX = {
    "late − mid: one MLP at its mean": MLPS,
    "late − mid: one block skipped": BLOCKS,
    "late window − random layers: MLPs at mean": f"window_less_sets.mean.{LATE}",
    "direction − random ones, nats / 1000": BEYOND,
    "the same, random ones of IT's spread": "removal_less_random.covariance",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether late MLPs matter more than mid ones, and their IT − PT direction more than random ones."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    mlps = claim(
        results, quantities, MLPS, "a late MLP at its mean moves IT {size} nats {word} a mid one",
        "whether a late MLP at its mean moves IT more than a mid one is undecided", ("more than", "less than"),
        detail=detail,
    )  # fmt: skip
    blocks = claim(
        results, quantities, BLOCKS, "a late block skipped {size} {word}",
        "whether a late block skipped does is undecided", ("more", "less"), again=True, detail=detail,
    )  # fmt: skip
    head, removal = f"Late layers matter more: {by_both(results)}", removed(results, beyond_chance(results))
    return Verdict(head, sentence(f"{mlps}; {blocks}"), sentence(removal))


def by_both(results) -> str:
    """Return the answer that an MLP at its mean and a skipped block both give; "mixed" if they differ."""
    answers = {answer(sides(results, quantities, name)) for name in (MLPS, BLOCKS)}
    return answers.pop() if len(answers) == 1 else "mixed"


def beyond_chance(results) -> dict[str, list[str]]:
    """Return {mark: pairs}: ▲ if the late removal is above random directions by the interval over prompts and by its rank.

    The rank p, one-sided, must be at most 0.05, which with 20 random directions means above all of them.
    """
    found = sides(results, quantities, BEYOND)
    sure = [t for t in found[UP] if value(quantities, results[t], "removal_rank_p.isotropic") <= CHANCE]
    open_ = [t for t in results if t in found[OPEN] or (t in found[UP] and t not in sure)]
    return {**found, UP: sure, OPEN: open_}


def removed(results, beyond: dict[str, list[str]]) -> str:
    """Return the clause on the late removal: where it surely outdoes random directions, else what would have shown."""
    what, unsure = "removing their direction", of(results, beyond[OPEN])
    seen = ranged((detectable(named(quantities, BEYOND)(d)) for d in unsure.values()), thousandths)
    if not beyond[UP]:
        return f"{what} does not surely outdo random ones{f'; {seen} nats would show' if unsure else ''}"
    size = levels_of(of(results, beyond[UP]), quantities, BEYOND, thousandths)
    where = places(results, beyond, UP, {DOWN: "less", **ELSE}, again=True, detail=LEAST)
    outdone = f"{what} outdoes random ones by {size} nats {where}".rstrip()
    return f"{outdone}{f'; elsewhere {seen} would show' if unsure else ''}"


def thousandths(value: float) -> str:
    """Return thousandths of a nat as nats, in text."""
    return number(value / 1000, 4)


def fine_percent(share: float) -> str:
    """Return a share as text, in per cent with two digits."""
    return f"{number(100 * share)} %"
