"""The figures, tables and verdicts of exp07_0a: one verdict for the page, and one for each of its three validations."""

from functools import partial

import altair as alt
import pandas as pd

from nbhelpers.core import depths
from nbhelpers.experiments.exp07_0a_directions.curves import CURVES, drawn, stability_rows
from nbhelpers.experiments.exp07_0a_directions.quantities import (
    FACTORS,
    RANDOM,
    RANKED,
    STUDIED,
    THIRDS,
    bound,
    quantities,
)
from nbhelpers.report import charts
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import DIGITS, bands, by_category, panels, panels_of
from nbhelpers.report.directions import among, answer, by_mark, fitting, in_pairs, levels_of, sentence
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, interval, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, UP, Verdict, bounds, sides, span, told

FACTOR_WORDS = {
    "weights": "weights", "history": "token history", "template": "prompt format", "interaction": "interaction",
}  # fmt: skip
SET_WORDS = {
    "all": "all prompts", "random_1": "random third 1", "random_2": "random third 2", "random_3": "random third 3",
    "top": "highest contrast", "middle": "middle contrast", "bottom": "lowest contrast",
    "exchanged": "exchanged labels, as long",
}  # fmt: skip
PART_WORDS = {
    "matched": "both read IT's text (matched)", "reversed": "both read PT's text (reversed, as it should be)",
    "reversed_as_run": "IT on PT's text less IT on its own (reversed, as the study ran it)",
    "weights": "weights", "history": "token history", "template": "prompt format",
}  # fmt: skip
SIZE = partial(number, digits=3)
HALVES = "bands hold the middle 95 % of random draws"


def stability(results) -> alt.Chart:
    """Return a chart of how alike directions are, by layer: of disjoint halves, of the study's resamples, of prompt formats,
    and of exchanged labels.
    """
    frames = [
        stability_rows(d).assign(panel=panel, onset=depths.onset(d.sizes["layer"]))
        for panel, d in panels_of(results).items()
    ]
    return stability_curves(pd.concat(frames, ignore_index=True).round(DIGITS))


def stability_curves(rows: pd.DataFrame) -> alt.Chart:
    """Return the chart of a table of `stability_rows` with `panel` and `onset`."""
    marks = bands(
        charts.layers_axis(),
        "cosine",
        fields=("curve", "layer"),
        colours=by_category("curve", CURVES.values()),
    )
    return panels(
        rows, "How alike are two directions?", charts.onset_rule(), *marks, marks=(HALVES,),
        description="Cosine between two directions IT − PT of MLP outputs, against the layer: of disjoint halves of the "
        "prompts, of two resamples of all prompts, of each model's own prompt format and raw prompts, and with labels "
        "exchanged at random",
    )  # fmt: skip


def ends_rows(results, names: dict[str, dict]) -> pd.DataFrame:
    """Return a table of quantities that are intervals of their datasets, as `forest.forest_rows` does for those by prompt."""
    rows = []
    for title, dataset in panels_of(results).items():
        for name, labels in names.items():
            found = kept(quantities, dataset)[name].values
            rows.append({"panel": title, **labels, "mean": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def composition(results, window: str = "late") -> alt.Chart:
    """Return a forest plot of the shares of the direction that weights, history, prompt format and their interaction make
    up.
    """
    names = {f"share.{factor}.{window}": {"factor": FACTOR_WORDS[factor]} for factor in FACTORS}
    rows = ends_rows(results, names)
    what = f"Share of the direction that each factor makes up, mean of the {window} layers"
    return forest(
        rows, x="share of the direction", by="factor", encodings=by_category("factor", FACTOR_WORDS.values()),
        title=f"What the direction is made of, {window} layers",
        description=caption(what, rows, [BARS, ZERO, "the four shares of a pair add up to one"], each="row"),
    )  # fmt: skip


def matched(results, window: str = "late") -> alt.Chart:
    """Return a forest plot of cosines with the direction of raw prompts: matched, reversed, and reversed as the study ran
    it.
    """
    names = {
        f"cosine_raw.{part}.{window}": {"condition": words.split(" (")[1].rstrip(")")}
        for part, words in PART_WORDS.items() if "(" in words
    }  # fmt: skip
    rows = ends_rows(results, names)
    what = f"Cosine with the direction that both models' own text after raw prompts gives, mean of the {window} layers"
    return forest(
        rows, x="cosine", by="condition", encodings=by_category("condition", list(dict.fromkeys(rows["condition"]))),
        title=f"Directions of matched tokens, {window} layers",
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def composition_table(results) -> pd.DataFrame:
    """Return a table of each factor's share, length and cosine with the direction, late layers, with 95 % intervals."""
    rows = {}
    for title, d in panels_of(results).items():
        found = kept(quantities, d)
        row = {f"{FACTOR_WORDS[f]}, share": interval(found[f"share.{f}.late"].values) for f in FACTORS}
        row["length of the direction"] = interval(found["norm.mean.late"].values)
        row |= {f"{FACTOR_WORDS[f]}, length": interval(found[f"norm.{f}.late"].values) for f in FACTORS}
        row |= {
            f"{FACTOR_WORDS[f]}, cosine with the direction": interval(found[f"cosine.{f}.late"].values)
            for f in FACTORS
        }
        row["cosine of weights and history"] = interval(found["cosine_between.weights.history.late"].values)
        row |= {
            f"{words}, cosine with the direction of raw prompts": interval(
                found[f"cosine_raw.{p}.late"].values
            )
            for p, words in PART_WORDS.items()
            if "(" in words
        }
        rows[title] = row
    return pd.DataFrame(rows)


def sizes(results) -> alt.Chart:
    """Return a chart of the cosine against the number of prompts: with a disjoint half, and with all prompts as in the
    study.
    """
    frames = []
    for panel, d in panels_of(results).items():
        late = list(depths.windows(d.sizes["layer"])["late"])
        for name, words in {
            "disjoint": "with other prompts",
            "nested": "with all prompts, as the study",
        }.items():
            ends = drawn(d[name].sel(layer=late).mean("layer")).to_dataframe().reset_index()
            frames.append(ends.assign(panel=panel, reference=words))
    rows = pd.concat(frames, ignore_index=True).round(DIGITS)
    axis = alt.Axis(values=sorted(set(rows["size"].tolist())))
    x = alt.X("size:Q", title="prompts", scale=alt.Scale(type="log", nice=False), axis=axis)
    colours = by_category("reference", list(dict.fromkeys(rows["reference"])))
    marks = bands(x, "cosine", fields=("reference", "size"), colours=colours)
    return panels(
        rows, "How many prompts does a direction need?", *marks, marks=(HALVES,),
        description="Cosine of the direction of so many prompts, mean of the late layers, with that of half of the prompts, "
        "none of them among these, and with that of all prompts, these included",
    )  # fmt: skip


def set_table(results) -> pd.DataFrame:
    """Return a table of cosines between directions of disjoint calibration sets, mean of the late layers."""
    rows = {}
    for title, d in panels_of(results).items():
        late = list(depths.windows(d.sizes["layer"])["late"])
        cosine = d["set_cosine"].sel(layer=late).mean("layer")
        pairs = [(a, b) for group in (RANDOM, RANKED) for i, a in enumerate(group) for b in group[i + 1 :]]
        rows[title] = {
            f"{SET_WORDS[a]} and {SET_WORDS[b]}": number(float(cosine.sel(from_set=a, other_set=b)))
            for a, b in pairs
        }
    return pd.DataFrame(rows)


def removal(results) -> alt.Chart:
    """Return a forest plot of what removing each set's direction does, less what removing that of all prompts does."""
    shown = ("top", "bottom", "random_1", "exchanged")
    names = {f"removal_gap.{name}": {"direction": SET_WORDS[name]} for name in shown}
    rows = forest_rows(results, quantities, names)
    what = "KL per token from removing the direction of a third of the prompts in the late layers, less that of all prompts"
    return forest(
        rows, x="nats per token", by="direction", encodings=by_category("direction", [SET_WORDS[n] for n in shown]),
        title="Does it matter which prompts give the direction?",
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def tested(found, name: str) -> str:
    """Return the p of equivalence of a gap and the smallest gap that would have shown, as text."""
    least = number(found[f"detectable.{name}"].values, 4)
    return f"equivalence p {p_value(found[f'equivalence.{name}'].values)}, smallest visible gap {least}"


def removal_table(results) -> pd.DataFrame:
    """Return a table of what removing each direction does: KL per token, p of equivalence with all prompts' direction, and
    the smallest gap from it that these prompts show with 80 % power; and the same of thirds held against each other.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for name in d["set"].values:
            kl = value(quantities, d, f"removal.{name}")
            said = f"{number(kl, 4)} nats at dose {number(value(quantities, d, f'removal_dose.{name}'))}"
            if name != "all":
                said += f"; {tested(found, name)}"
            row[SET_WORDS[name]] = said
        for a, b in THIRDS:
            gap = interval(bounds(found[f"third_gap.{a}_less_{b}"], 0.95), 4)
            row[f"{SET_WORDS[a]} less {SET_WORDS[b]}"] = f"{gap} nats; {tested(found, f'{a}_less_{b}')}"
        rows[title] = row
    return pd.DataFrame(rows)


MATRIX = {
    "disjoint halves, against chance": "split_half.late",
    "weights' share": "share.weights.late",
    "history's share": "share.history.late",
    "reversed, as the study ran it": "cosine_raw.reversed_as_run.late",
    "reversed, as it should be": "cosine_raw.reversed.late",
    "top less bottom third, share of KL": "removal_gap.sets",
}


def verdict(results) -> Verdict:
    """Return the page's verdict: whether the direction is stable, what it is made of, and whether its prompts matter."""
    return fitting(partial(said, results))


def larger_history(results) -> list[str]:
    """Return the pairs in which the token history makes up more of the direction than the weights do."""
    size = partial(value, quantities)
    return [t for t, d in results.items() if size(d, "share.history.late") > size(d, "share.weights.late")]


def differing(results) -> list[str]:
    """Return the pairs in which removing the directions of the high and of the low third surely does not do the same."""
    found = sides(results, quantities, "removal_gap.sets")
    return [title for title in results if title in found[UP] + found[DOWN]]


def said(results, detail: int) -> Verdict:
    """Return the page's verdict, with more or less detail on the pairs that differ."""
    stable, mostly = answer(sides(results, quantities, "split_half.late")), larger_history(results)
    history, weights = (
        levels_of(results, quantities, f"share.{f}.late", percent) for f in ("history", "weights")
    )
    where_so = among(mostly, results, detail) if mostly else ""
    made = "more text than weights" if mostly else "more weights than text"
    alike = [t for t, d in results.items() if value(quantities, d, "sets_alike") == len(STUDIED)]
    effect = levels_of(results, quantities, "removal.all", SIZE)
    differ = differing(results)
    same = told(
        alike,
        results,
        "calibration sets do the same",
        "calibration sets are not shown to do the same",
        again=True,
    )
    apart = f", and surely differ {among(differ, results, detail)}".rstrip() if differ else ""
    return Verdict(
        f"Stable: {stable}; made of {made}",
        f"Late directions of disjoint halves have cosine {span(results, quantities, 'split_half.late')}.",
        sentence(f"The text read makes up {history} of them, the weights {weights}; the text more {where_so}".rstrip()
                 if mostly else f"The weights make up {weights} of them, the text read {history}"),
        sentence(f"Removing it costs {effect} nats a token; {same if detail else same.split(' (')[0]}{apart}"),
    )  # fmt: skip


def verdict_0a(results) -> Verdict:
    """Return the verdict of 0A: whether the direction is stable beyond chance, and what the study's nested subsets add."""
    stable = answer(sides(results, quantities, "split_half.late"))
    chance = levels_of(results, quantities, "chance.late")
    gained = span(results, quantities, "inflation.late")
    formats = span(results, quantities, "cosine.mean_raw.late")
    return Verdict(
        f"Stable: {stable}",
        f"Disjoint halves give cosine {span(results, quantities, 'split_half.late')} in late layers; "
        f"chance reaches {chance}.",
        f"Subsets of the same prompts, as in the study, add {gained}.",
        f"Raw prompts instead of each model's own format give {formats}. Stability is not relevance.",
    )


def verdict_0b(results) -> Verdict:
    """Return the verdict of 0B: whether the direction is one of weights, and what the study's reversed condition showed."""
    run = span(results, quantities, "cosine_raw.reversed_as_run.late")
    should = span(results, quantities, "cosine_raw.reversed.late")
    mostly = larger_history(results)
    matched_to = span(results, quantities, "cosine_raw.matched.late")
    below = sides(results, quantities, "cosine_raw.matched.late")[DOWN]
    share = levels_of(results, quantities, "share.weights.late", percent)
    return Verdict(
        f"A direction of weights: {'in part' if mostly else 'mostly'} ({share})",
        sentence(told(mostly, results, "The text read makes up more of it than the weights",
                      "The text read makes up no more of it than the weights")),
        f"Reversed as the study ran it, its cosine is {run}; with PT's own text under both models, {should}.",
        sentence(told(below, results, "Matched tokens stay below the study's criterion of 0.90",
                      "Matched tokens do not surely miss the study's criterion of 0.90", again=True) + f" ({matched_to})"),
    )  # fmt: skip


def equal(results, name: str) -> list[str]:
    """Return the pairs in which two one-sided tests put a gap within the bound at 0.05."""
    return [t for t, d in results.items() if value(quantities, d, f"equivalence.{name}") < 0.05]


def verdict_0h(results) -> Verdict:
    """Return the verdict of 0H: whether the calibration prompts matter to the direction and to what its removal does."""
    alike = [t for t, d in results.items() if value(quantities, d, "sets_alike") == len(STUDIED)]
    share = percent(bound(next(iter(results.values()))))
    ranked, random = (span(results, quantities, f"set_cosine.{name}") for name in ("top_bottom", "random"))
    high, middle, low, against = (
        in_pairs(equal(results, name), results) for name in (*STUDIED, "top_less_bottom")
    )
    words = {UP: "surely more than the low one", DOWN: "surely less than the low one"}
    gap = by_mark(results, quantities, "removal_gap.sets", words)
    return Verdict(
        f"The same effect from any prompts: {in_pairs(alike, results) if alike else 'not shown'}",
        f"High and low thirds have cosine {ranked}, random ones {random}.",
        f"“Equal” is KL within {share} of the whole direction's; shown for the high third {high}, a random one {middle}, "
        f"the low {low}, high against low {against}.".replace(f" of {in_words(len(results))}", ""),
        sentence(f"The high third does {gap}" if gap else ""),
    )
