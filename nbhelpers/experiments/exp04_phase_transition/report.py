"""The figures, table and verdict of exp04."""

import altair as alt
import pandas as pd

from nbhelpers.experiments.exp04_phase_transition.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import by_variant, layers_axis, panels, tidy
from nbhelpers.report.geometry_charts import TEMPLATES
from nbhelpers.report.quantities import DIMENSIONS, named, value
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import number, p_value
from nbhelpers.report.unmeasured import missing, sentences


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


def transition_table(results) -> pd.DataFrame:
    """Return a table of the contrast of a third of the depth with other layers and its p-values, by profile and family."""
    columns = {}
    for title, d in results.items():
        rows = zip(d.statistic.values, d.p_permuted.values, d.p_window.values)
        columns[title] = [f"{number(s, 3)} · {p_value(p)} · {p_value(w)}" for s, p, w in rows]
    index = [str(name) for name in next(iter(results.values()))["profile"].values]
    return pd.DataFrame(columns, index=index).rename_axis("contrast · p, order · p, window")


READ_AS = {"native": "native prompts", "raw": "plain text for both", "chat": "chat turns for both"}


def higher(results, template: str) -> str:
    """Return a clause with the number of families in which IT's cloud has the higher late dimension, by estimator."""
    said = []
    for estimator, name in DIMENSIONS.items():
        shift = f"late_dimension_shift.{estimator}.{template}"
        above = [value(quantities, dataset, shift) > 0 for dataset in results.values()]
        said.append(f"{sum(above) if len(above) > 1 else 'yes' if above[0] else 'no'} by {name}")
    return f"with {READ_AS[template]}: {', '.join(said)}"


def attention(results, template: str) -> str:
    """Return a clause, to follow "is", on IT − PT of the attention entropy, as a share of its ceiling."""
    without = missing(results, "attention")
    measured = {title: dataset for title, dataset in results.items() if title not in without}
    shift = named(quantities, f"attention_share_shift.{template}")
    return (
        sentence(measured, shift, "wider in IT than in PT", "narrower in IT") if measured else "not measured"
    )


def verdict(results) -> str:
    """Return the verdict on a transition near a third of the depth."""
    total = len(results)
    where = "" if total == 1 else f", families of {total}"
    largest, profiles, chance = (
        sum(value(quantities, dataset, name) for dataset in results.values())
        for name in ("third_is_largest", "profiles", "third_by_chance")
    )
    native, chat = (attention(results, template) for template in ("native", "chat"))
    return (
        f"IT's cloud has the higher dimension in the final fifth of the layers (point values{where}) "
        f"{'; '.join(higher(results, template) for template in READ_AS)}. Of all windows of its width, the one at a third "
        f"of the depth has the largest contrast in {largest:.0f} of {profiles:.0f} profiles over layers, where chance "
        f"alone would give about {chance:.0f}. Under native templates, attention from the prompt's end is, "
        f"as a share of its ceiling, {native}; with chat turns for both it is {chat}. {grounds(results)}"
        f"{sentences(results, 'attention')}"
    )
