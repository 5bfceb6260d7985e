"""The figures, table and verdict of exp04."""

from functools import partial

import altair as alt
import numpy as np
import pandas as pd
from scipy.stats import binom

from nbhelpers.experiments.exp04_phase_transition.quantities import is_largest, quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import by_variant, layers_axis, panels, tidy
from nbhelpers.report.directions import LEAST, NAMES, fitting, sentence
from nbhelpers.report.families import turned
from nbhelpers.report.geometry_charts import TEMPLATES
from nbhelpers.report.quantities import DIMENSIONS, value
from nbhelpers.report.text import in_words, number, p_value, percent
from nbhelpers.report.unmeasured import sentences
from nbhelpers.report.verdicts import Verdict, signs, told


def spectrum_profile(results, measure="participation_ratio") -> alt.Chart:
    """Return a chart of the participation ratio, effective rank or first axis's share of each layer's cloud, by template."""
    rows = tidy(results, lambda dataset: dataset[measure].rename("mean").to_dataset())
    rows["template"] = rows["template"].map(TEMPLATES)
    title = {"participation_ratio": "Participation ratio", "effective_rank": "Effective rank"}.get(
        measure, "Variance along the first axis"
    )
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip("mean:Q", format=".2f"),
    ]
    line = alt.Chart().mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=2)
    line = line.encode(x=layers_axis(), y=alt.Y("mean:Q", title=title.lower()), tooltip=tips, **by_variant())
    return panels(
        rows, f"{title} of each layer's cloud", line, toggles={"template": "prompts read as"},
        description=f"{title} of the states at the prompts' ends, against the layer, for {VARIANTS}",
    )  # fmt: skip


def change_between_layers(results) -> alt.Chart:
    """Return a chart of 1 − cosine of a prompt's state with that of the layer before; the reader chooses the template."""

    def values(dataset):
        change = dataset.adjacent_change.rename(cloud_prompt="prompt")
        return change.assign_coords(template=[TEMPLATES[t] for t in change.template.values])

    return charts.layer_profile(
        results, values, y="1 − cosine", title="Change of the state from layer to layer",
        description="Change of the state at the prompt's end from the layer before, 1 − cosine",
        toggles={"template": "prompts read as"},
    )  # fmt: skip


TESTS = ("contrast", "p, layers in random order", "share of windows")


def window_table(results) -> pd.DataFrame:
    """Return a table of the share of windows that contrast with the other layers as much as a third of the depth does.

    One row per profile, one column per pair; "largest" where no other window does.
    """
    columns = {
        title: [place(*each) for each in zip(d.p_window.values, is_largest(d).values)]
        for title, d in results.items()
    }
    names = [str(name) for name in next(iter(results.values()))["profile"].values]
    table = pd.DataFrame(columns, index=pd.Index(names, name="profile over layers"))
    return table if len(results) > 1 else table.set_axis(["share of windows"], axis="columns")


def place(share: float, first: bool) -> str:
    """Return a share of windows as text: "largest" for the first of all, a dash where nothing was measured."""
    return "largest" if first else "–" if np.isnan(share) else percent(share)


def transition_table(results) -> pd.DataFrame:
    """Return a table of the contrast of a third of the depth with the other layers and its p-values, by profile and pair."""
    rows = {}
    for title, d in results.items():
        for name, contrast, *shares in zip(
            d["profile"].values, d.statistic.values, d.p_permuted.values, d.p_window.values
        ):
            for part, text in zip(TESTS, (number(contrast, 3), *map(p_value, shares))):
                rows.setdefault((str(name), part), {})[title] = text
    if len(results) > 1:
        return pd.DataFrame(rows).T.rename_axis(["profile over layers", None])
    names = dict.fromkeys(name for name, _ in rows)
    alone = {name: {part: next(iter(rows[name, part].values())) for part in TESTS} for name in names}
    return pd.DataFrame(alone).T.rename_axis("profile over layers")


READ_AS = {"native": "each model's own prompts", "raw": "plain text", "chat": "chat turns"}


def dimension_table(results) -> pd.DataFrame:
    """Return a table of IT − PT of the mean dimension in the final fifth, point values, by pair, prompts and estimator."""
    rows = {
        title: {
            (read_as, name): number(value(quantities, d, f"late_dimension_shift.{estimator}.{template}"))
            for template, read_as in READ_AS.items()
            for estimator, name in DIMENSIONS.items()
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


MATRIX = {
    "TwoNN, own prompts": "late_dimension_shift.two_nn.native",
    "TwoNN, plain text": "late_dimension_shift.two_nn.raw",
    "max. likelihood, own prompts": "late_dimension_shift.mle.native",
    "max. likelihood, plain text": "late_dimension_shift.mle.raw",
    "attention, own prompts": "attention_share_shift.native",
    "attention, chat turns": "attention_share_shift.chat",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether a third of the depth stands out, more sharply in IT, and where IT's dimension is higher."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict with more or less detail on the pairs that differ."""
    largest, profiles, chance = (
        sum(value(quantities, dataset, name) for dataset in results.values())
        for name in ("third_is_largest", "profiles", "third_by_chance")
    )
    by_chance = in_words(max(round(chance), 1))
    stands = (
        f"A third of the depth stands out most in {in_words(round(largest))} of {profiles:.0f} profiles over layers "
        f"(by chance, about {by_chance})."
    )
    sharp = told(
        signs(results, quantities, "sharpness_ratio").above, results, "The dip of dimension there is sharper in IT",
        "The dip of dimension there is not sharper in IT",
    )  # fmt: skip
    lacking = sentences(results, "attention")
    shown = sharp if detail == NAMES else "" if lacking and detail == LEAST else sharp.split(" (")[0]
    return Verdict(
        answer(largest, profiles, chance), stands, sentence(shown), f"{sentence(higher(results))}{lacking}"
    )


def answer(largest: float, profiles: float, chance: float) -> str:
    """Return whether a third of the depth stands out in more profiles than by chance, by a binomial test at 5 %."""
    if largest <= chance:
        return "No"
    return "Yes" if binom.sf(largest - 1, profiles, chance / profiles) < 0.05 else "Undecided"


def higher(results) -> str:
    """Return the clause on where IT's late dimension is the higher one: by prompts, and over estimators (point values)."""
    said, total = [], len(results)
    for template in ("native", "raw"):
        shifts = [f"late_dimension_shift.{estimator}.{template}" for estimator in DIMENSIONS]
        above = [sum(value(quantities, d, shift) > 0 for d in results.values()) for shift in shifts]
        said.append(one_pair(above) if total == 1 else several(above, total, again=template == "raw"))
    (native, plain), (own, text) = said, [f"with {READ_AS[template]}" for template in ("native", "raw")]
    start = f"IT's late dimension is {'' if total == 1 else 'higher '}"
    if native.removesuffix(f" of {in_words(total)}") == plain:
        return f"{start}{native}, {own} {'or' if native == 'not higher' else 'and'} {text}"
    return f"{start}{native} {own}, but {plain} {text}"


def one_pair(above: list[int]) -> str:
    """Return whether IT's dimension is higher in a single pair, and by which estimator if they differ."""
    if len({*above}) == 1:
        return "higher" if above[0] else "not higher"
    return f"higher by {list(DIMENSIONS.values())[above.index(1)]} alone"


def several(above: list[int], total: int, again: bool) -> str:
    """Return in how many of several pairs something holds, from the estimator with the fewest to that with the most."""
    counts = sorted({*above})
    if counts == [total]:
        return "in both" if total == 2 else f"in all {in_words(total)}"
    return f"in {' or '.join(map(in_words, counts))}{'' if again else f' of {in_words(total)}'}"
