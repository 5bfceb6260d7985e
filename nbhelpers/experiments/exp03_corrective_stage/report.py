"""The figures, tables and verdict of exp03."""

from functools import partial

import altair as alt
import pandas as pd

from nbhelpers.core import params
from nbhelpers.experiments.exp03_corrective_stage.quantities import quantities
from nbhelpers.measures.steps import STRATA
from nbhelpers.models.token_classes import CLASSES
from nbhelpers.report import charts
from nbhelpers.report.captions import BARS, ONSET, VARIANTS, ZERO, caption
from nbhelpers.report.charts import (
    NAMES,
    by_variant,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.report.directions import (
    LEAST,
    capital,
    claim,
    everywhere,
    fitting,
    larger_side,
    levels_of,
    sentence,
    sides,
    yes_or_no,
)
from nbhelpers.report.families import FEWEST, cells, free, turned
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import interval_rows, named, value
from nbhelpers.report.text import in_words, number, percent
from nbhelpers.report.unmeasured import needs, sentences
from nbhelpers.report.verdicts import DOWN, MISSING, UP, Verdict

MINDS = {
    "late_mind_change": ("First correct at the onset or later", "share of tokens"),
    "late_flips": ("Changes of the top-1 token in late layers", "changes a step"),
    "kl_adjacent_at_change": ("Divergence at the change of mind", "nats"),
}

TEXTS = {"free": "each model on its own text", "it": "both on IT's text"}


def phases_of_revision(results) -> alt.Chart:
    """Return a chart of KL(previous layer ‖ layer) by layer, free running; the reader chooses the lens."""
    return charts.layer_profile(
        results, lambda d: free(d[["kl_adjacent"]]).kl_adjacent, y="nats", unit="nats",
        title="KL(previous layer ‖ layer): how much each layer revises (√ scale)", toggles={"lens": "lens"},
        description="KL(previous layer ‖ layer), nats, on a square-root scale",
        **charts.root_scale(),
    )  # fmt: skip


def turnover(results) -> alt.Chart:
    """Return a chart of the Jaccard index of a layer's five best tokens with the previous layer's, free running, by lens."""
    return charts.layer_profile(
        results, lambda d: free(d[["turnover"]]).turnover, y="Jaccard index",
        title="Candidates kept from the layer before (five best tokens)", toggles={"lens": "lens"},
        description="Jaccard index of a layer's five best tokens with those of the layer before",
    )  # fmt: skip


def emergence(results) -> alt.Chart:
    """Return a chart of each layer's probability of the token that follows, free running; the reader chooses the lens."""
    return charts.layer_profile(
        results, lambda d: free(d[["target_probability"]]).target_probability, y="probability",
        title="Probability of the token that follows", toggles={"lens": "lens"},
        description="Probability that each layer gives to the token that follows",
    )  # fmt: skip


def minds_by_class(results, measure="late_mind_change", text="free") -> alt.Chart:
    """Return a chart of late changes of mind by class of the following token, raw lens, PT and IT, with intervals.

    text: "free" for each model on its own text, "it" for both models on IT's text.
    """
    names = {
        f"{measure}.{text}.{kind}.{v}": {"token_class": kind, "variant": NAMES[v]}
        for kind in CLASSES
        if kind != "special"
        for v in params.VARIANTS
    }
    rows = interval_rows(results, quantities, names).dropna(subset=["mean"])
    rows = rows[rows["prompts"] >= FEWEST].round(charts.DIGITS)
    rows["token_class"] = pd.Categorical(rows["token_class"], CLASSES)
    heading, unit = MINDS[measure]
    what = f"{heading} ({unit}), by class of the following token, {TEXTS[text]}, raw lens, for {VARIANTS}"
    return forest(
        rows, column="token_class", by="variant", encodings=by_variant(), x=unit,
        title=f"{heading}, by class of the following token", description=caption(what, rows, [BARS], each="row"),
    )  # fmt: skip


def commitment_by_confidence(results, text="free") -> alt.Chart:
    """Return a chart of the commitment delay IT − PT by confidence of the final prediction, raw lens, with intervals."""
    start = "delay_by_confidence" if text == "free" else "matched_delay_by_confidence"
    rows = forest_rows(
        results, quantities, {f"{start}.{s}": {"confidence": f"{s} confidence"} for s in STRATA}
    )
    what = f"Delay of IT's commitment, IT − PT in layers, by confidence of the final prediction, {TEXTS[text]}, raw lens"
    return forest(
        rows, column="confidence", x="IT − PT, layers", title=f"Commitment delay by confidence, {TEXTS[text]}",
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


@needs("neurons")
def neuron_gini(results) -> alt.Chart:
    """Return a chart of the Gini coefficient of neuron use by layer: 0 if all neurons are used equally, near 1 if few are."""
    rows = tidy(results, lambda dataset: dataset.gini.rename("mean").to_dataset())
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip("mean:Q", format=".3f"),
    ]
    y = alt.Y("mean:Q", title="Gini coefficient", scale=alt.Scale(zero=False))
    line = (
        alt.Chart()
        .mark_line(point=True, strokeWidth=2)
        .encode(x=layers_axis(), y=y, tooltip=tips, **by_variant())
    )
    return panels(
        rows, "Concentration of neuron use by layer", onset_rule(), line, marks=[ONSET],
        description=f"Gini coefficient of neuron use against the layer, for {VARIANTS}",
    )  # fmt: skip


def phase_table(results) -> pd.DataFrame:
    """Return a table of IT − PT of the adjacent KL, nats, by phase and pair, free running, raw lens."""
    phases = {name: named(quantities, f"phase_kl_adjacent_shift.{name}.raw") for name in PHASES}
    return turned(cells(results, {f"{name} phase": of for name, of in phases.items()}), results)


PHASES = ("content", "format", "corrective")


def agreement_table(results) -> pd.DataFrame:
    """Return a table of the gap on IT's text by whether both models' final top-1 token is the same, by pair."""
    kinds = [str(kind) for kind in next(iter(results.values())).agreement_of.values]
    table = cells(results, {kind: named(quantities, f"gap_by_agreement.{kind}") for kind in kinds})
    share = {title: percent(value(quantities, d, "agreement.it")) for title, d in results.items()}
    return turned(table.assign(**{"share of steps with the same token": pd.Series(share)}), results)


def gini_table(results) -> pd.DataFrame:
    """Return a table of the mean Gini coefficient of neuron use from the onset on, and of the overlap of top neurons."""
    rows = {}
    for title, d in results.items():
        rows[title] = {
            f"Gini, {v.upper()}": number(value(quantities, d, f"gini.{v}"), 3) for v in params.VARIANTS
        }
        shared = {int(k): value(quantities, d, f"neuron_overlap_all_layers.k{k}") for k in d.k.values}
        rows[title] |= {f"top {k} shared": number(share) for k, share in shared.items()}
    return turned(pd.DataFrame(rows).T.rename_axis(None), results)


REVISION, DELAY = "phase_kl_adjacent_shift.corrective.raw", "delay_by_confidence.high"
MATCHED = f"matched_{DELAY}"
MATRIX = {
    "late revision": REVISION,
    "late revision, tuned lens": "phase_kl_adjacent_shift.corrective.tuned",
    "both reading IT's text": "matched_revision_shift.raw.it",
    "the same, tuned lens": "matched_revision_shift.tuned.it",
    "confident predictions settle later": DELAY,
    "the same on IT's text": MATCHED,
}


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's late layers revise more, whether it commits later, and for which tokens."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict with more or less detail on the pairs that differ."""
    revised = claim(
        results, quantities, REVISION,
        "In the last two fifths, each layer moves IT's prediction {size} nats {word} than PT's",
        "Whether each layer of the last two fifths moves IT's prediction more than PT's is undecided",
        MOVES, detail=detail,
    )  # fmt: skip
    share = levels_of(results, quantities, "late_change_structural_share.it", percent)
    ends = "" if share == MISSING else f"; {share} of IT's late changes end on structural tokens"
    lacking = sentences(results, "neurons").strip()
    same_text = "" if lacking and detail == LEAST else f"; {on_one_text(results, detail)}"
    answer = capital(yes_or_no(results, quantities, REVISION)) + ends
    return Verdict(answer, sentence(revised + same_text), sentence(delay(results, detail)), lacking)


def on_one_text(results, detail: int) -> str:
    """Return the clause on whether IT revises more, or less, where both models read IT's text, through either lens."""
    found = [sides(results, quantities, f"matched_revision_shift.{lens}.it") for lens in ("raw", "tuned")]
    if len(results) > 1:
        side = larger_side(sides(results, quantities, REVISION))
        raw, tuned = (in_words(len(each[side])) for each in found)
        lens = f" (tuned lens: {tuned})" if detail > LEAST else ""
        return f"when both read IT's text, {MOVES[side == DOWN]} in {raw}{lens}"
    words = dict(zip((UP, DOWN), MOVES))
    raw, tuned = (next((word for side, word in words.items() if each[side]), "undecided") for each in found)
    return f"when both read IT's text, {raw}" + (f" (tuned lens: {tuned})" if tuned != raw else "")


def delay(results, detail: int) -> str:
    """Return the clause on IT − PT of the commitment layer where the final prediction is sure: on own texts, on IT's."""
    shown = partial(number, digits=1)
    own = claim(
        results, quantities, DELAY, "Confident predictions settle {size} layers {word} in IT",
        "Whether confident predictions settle later in IT is undecided", SETTLES, shown=shown, again=True, detail=detail,
    )  # fmt: skip
    matched = claim(
        results, quantities, MATCHED, "when both read IT's text, {size} {word}",
        "when both read IT's text, undecided", SETTLES, shown=shown, again=True, detail=detail,
    )  # fmt: skip
    every = f" {everywhere(results, again=True)}" if len(results) > 1 else ""
    return (
        f"{own.removesuffix(every)}; {matched}" if every and matched.endswith(every) else f"{own}; {matched}"
    )


MOVES, SETTLES = ("more", "less"), ("later", "earlier")
