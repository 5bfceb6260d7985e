"""The figures of exp06."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.experiments.exp06_steering import quantities as q
from nbhelpers.report import claims
from nbhelpers.report.captions import BANDS, BARS, ZERO, caption
from nbhelpers.report.charts import DIGITS, INK, banded, bands, by_category, layers_axis, panels
from nbhelpers.report.dose_charts import (
    CURVE,
    broken_rows,
    curve_rows,
    dose_response,
    end_rows,
    parts,
    random_rows,
    repeated,
)
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.graft_charts import by_window
from nbhelpers.report.theme import PT

TITLES = {
    "format": "requested form",
    "content": "right content of the same replies",
    "choice": "right choices",
    "arithmetic": "right sums",
    "refusal_harmful": "harmful requests refused",
    "engaged_harmless": "harmless requests answered",
    "structure": "structural words (share of words)",
    "repetition": "repeated 4-grams (share of 4-grams)",
    "incoherent": "incoherent replies",
}
METRIC = {"metric": "score"}
FORM, DISTANCE = "requested form", "distance of late layers"
SHARE = "share"  # of replies, unless a score says of what
CONTROLS = {
    "dose.0": "the direction",
    "matched.0": "random, same size",
    "permuted.0": "labels exchanged",
    "unit.0": "a random direction's own part",
    "early.0": "early layers",
    "mid.0": "middle layers",
    "prompted": "asked for plain text",
}


def by_metric(make, metrics=TITLES) -> dict[str, xr.DataArray]:
    """Return {score in words: `make(metric)`}."""
    return {TITLES[metric]: make(metric) for metric in metrics}


def _joined(found: dict[str, xr.DataArray], dim: str = "metric") -> xr.DataArray:
    return xr.concat(found.values(), xr.IndexVariable(dim, list(found)))


def scores_by_dose(result: xr.Dataset) -> xr.DataArray:
    """Return the scores of replies under every dose, (metric, prompt, dose)."""
    return _joined(by_metric(lambda metric: q.dose_table(result, metric)))


def random_means(result: xr.Dataset) -> xr.DataArray:
    """Return the mean scores under the first twenty matched random directions, (metric, dose, control), α = 1 included."""

    def of_metric(metric):
        doses, least = q.band_doses(result), min(len(v) for v in q.of_group(result, "matched").values())
        level = float(q.score(result, metric, "it").mean())
        means = {dose: q.band(result, metric, dose).mean("prompt").values[:least] + level for dose in doses}
        means[1.0] = np.full(least, level)
        return xr.DataArray([means[d] for d in sorted(means)], {"dose": sorted(means)}, ("dose", "control"))

    return _joined(by_metric(of_metric))


def plain_scores(result: xr.Dataset) -> xr.DataArray:
    """Return the mean scores of PT and IT as they are, (metric, variant)."""

    def of_metric(metric):
        means = [float(q.score(result, metric, arm).mean()) for arm in ("pt", "it")]
        return xr.DataArray(means, {"variant": ["pt", "it"]}, ("variant",))

    return _joined(by_metric(of_metric))


def plain_rates(result: xr.Dataset) -> xr.DataArray:
    """Return the mean rates of PT and IT as they are, (metric, variant)."""
    return plain_scores(result).sel(metric=[TITLES[metric] for metric in q.RATES])


def incoherence(result: xr.Dataset) -> xr.DataArray:
    """Return the share of incoherent replies under every dose, (dose)."""
    return q.dose_table(result, "incoherent").mean("prompt")


def dose_curves(results) -> alt.Chart:
    """Return the dose–response of every score, with the random band, PT and IT as they are, and doses that break the text."""
    limit = q.option(next(iter(results.values())), "incoherent_share", 0.2)
    shade = repeated(broken_rows(results, incoherence, limit), "metric", TITLES.values())
    rows = parts(
        curve_rows(results, scores_by_dose), random_rows(results, random_means), end_rows(results, plain_scores), shade
    )  # fmt: skip
    return dose_chart(rows.dropna(subset=["mean", "low"], how="all"), limit)


def dose_chart(rows: pd.DataFrame, limit: float = 0.2) -> alt.Chart:
    """Return the dose–response of the scores in a table of `dose_charts.parts`; limit: of incoherent replies, see there."""
    return dose_response(
        rows, y=SHARE, title="Replies by dose of the late direction",
        description="Share, of replies or of what the score says, against the dose α of the late IT − PT direction in IT",
        toggles=METRIC, limit=limit,
    )  # fmt: skip


def windows(results) -> alt.Chart:
    """Return the scores by dose, one curve for each window of layers whose own direction is rescaled."""

    def values(result):
        def of_metric(metric):
            found = {}
            for window, group in (("early", "early"), ("mid", "mid"), ("late", "dose")):
                arms = {d: a[0] for d, a in q.of_group(result, group).items() if d in q.band_doses(result)}
                arms[1.0] = "it"
                table = [q.score(result, metric, arms[d]) for d in sorted(arms)]
                found[window] = xr.concat(table, xr.IndexVariable("dose", sorted(arms)))
            return _joined(found, "window")

        return _joined(by_metric(of_metric, q.RATES))

    rows = parts(curve_rows(results, values), end_rows(results, plain_rates)).dropna(subset=["mean"])
    return dose_response(
        rows, y=SHARE, title="The same in early, middle and late layers", fields=("window",), colours=by_window(),
        description="Share of replies with the chosen score, against the dose α, with the direction of early (▲), middle (■) "
        "or late (●) layers rescaled there", toggles=METRIC,
    )  # fmt: skip


def injection(results) -> alt.Chart:
    """Return the scores of PT by how much of the gap between the models is added to its late MLP outputs."""

    def values(result):
        def of_metric(metric):
            arms = {dose: arms[0] for dose, arms in q.of_group(result, "inject").items()}
            table = [q.score(result, metric, arm) for arm in arms.values()]
            return xr.concat(table, xr.IndexVariable("dose", list(arms)))

        return _joined(by_metric(of_metric, q.RATES))

    rows = parts(curve_rows(results, values), end_rows(results, plain_rates)).dropna(subset=["mean"])
    return dose_response(
        rows, y=SHARE, title="The direction added to PT", x="added, in units of the gap (c)", identity=0,
        colours={"color": alt.value(PT)},
        description="Share of PT's replies with the chosen score, against the factor c of the mean IT − PT gap that is added "
        "to its late MLP outputs", toggles=METRIC,
    )  # fmt: skip


def skipping(results) -> alt.Chart:
    """Return the scores by how many of the last blocks are left out."""
    shown = ("format", "choice", "arithmetic", "incoherent")

    def values(result):
        arms = {0.0: "it"} | {n: arms[0] for n, arms in q.of_group(result, "skip").items()}
        found = {TITLES[m]: [q.score(result, m, arm) for arm in arms.values()] for m in shown}
        tables = {name: xr.concat(t, xr.IndexVariable("dose", list(arms))) for name, t in found.items()}
        return _joined(tables)

    rows = parts(curve_rows(results, values)).dropna(subset=["mean"])
    return dose_response(
        rows, y=SHARE, title="The last blocks left out", x="blocks left out", identity=0, fields=("metric",),
        colours=by_category("metric", [TITLES[m] for m in shown]),
        description="Share of IT's replies by score, against the number of last blocks that are left out",
    )  # fmt: skip


def single_layers(results) -> alt.Chart:
    """Return what removing the direction at one layer alone changes of format compliance, by layer."""

    def table(title, result):
        arms = [arm for found in q.of_group(result, "single").values() for arm in found]
        one = xr.concat([q.shift(result, "format", arm) for arm in arms], "layer")
        one = one.assign_coords(layer=[int(arm.rpartition("_")[2]) for arm in arms]).dropna("prompt")
        return banded(one).to_dataframe().reset_index().assign(panel=title)

    rows = pd.concat([table(title, d) for title, d in results.items()], ignore_index=True).round(DIGITS)
    curve = bands(layers_axis(), "change", fields=("layer",), colours={"color": alt.value(INK)})
    zero = alt.Chart().mark_rule().encode(y=alt.datum(0))
    return panels(
        rows, "One layer at a time: requested form", zero, *curve, marks=[BANDS],
        description="Change of the share of replies in the requested form, against the layer at which alone the direction is "
        "removed (α = 0)",
    )  # fmt: skip


def controls(results) -> alt.Chart:
    """Return what removing the direction changes, beside what its controls do, by score."""
    names = {
        f"shift.{metric}.{key}": {"control": control, "metric": TITLES[metric]}
        for metric in q.RATES
        for key, control in CONTROLS.items()
    }
    rows = forest_rows(results, q.quantities, names, pool=False)
    what = "Change of the share of replies with the chosen score, α = 0 less α = 1, for the direction and its controls"
    return forest(
        rows, column="control", x="change of the share", title="Removing the direction, and controls", toggles=METRIC,
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def ways(title: str, result: xr.Dataset) -> list[dict]:
    """Return how far every dose carries a pair towards PT: rows of dose, lens, what and interval."""
    doses, rows = q.of_group(result, "dose"), []
    for dose, (arm, *_) in doses.items():
        forms = [q.score(result, "format", name) for name in (arm, "it", "pt")]
        found = dict.fromkeys((("raw", FORM), ("tuned", FORM)), q.share_of_way(*forms))
        for lens in ("raw", "tuned"):
            far = [q.gap_of(result, lens, name) for name in (arm, doses[1.0][0], "pt")]
            found[lens, DISTANCE] = q.share_of_way(*far)
        for (lens, what), ends in found.items():
            labels = {"panel": title, "part": CURVE, "dose": dose, "lens": lens, "what": what}
            rows.append(labels | dict(zip(("mean", "low", "high"), ends)))
    return rows


def together(results) -> alt.Chart:
    """Return how far each dose carries IT towards PT: the form of its replies, and the distance of its late layers."""
    rows = [row for title, result in results.items() for row in ways(title, result)]
    rows = pd.DataFrame(rows).round(DIGITS).dropna(subset=["mean"])
    return dose_response(
        rows, y="share of the way from IT to PT", title="Does the gap move when the form moves?", fields=("what",),
        colours=by_category("what", [FORM, DISTANCE]),
        description="Share of the way from IT (0) to PT (1) that a dose carries the requested form of replies and the mean "
        "KL(layer ‖ own final) over the late half of the layers on IT's own replies, against the dose α",
        toggles={"lens": "lens"}, defaults={"lens": "tuned"},
    )  # fmt: skip


def kl_curves(results) -> alt.Chart:
    """Return KL(layer ‖ own final) by layer on IT's own replies: α = −1, 0, 1, 2 in IT, and PT."""
    shown = {"dose_-1": "α = −1", "dose_0": "α = 0", "dose_1": "α = 1", "pt": "PT"}

    def table(title, result):
        known = [name for name in shown if name in result["reader"].values]
        values = result["kl_layer_final"].sel(reader=known).astype(float)
        values = values.assign_coords(
            reader=[shown[name] for name in known], layer=range(result.sizes["layer"])
        )
        return banded(values).to_dataframe().reset_index().assign(panel=title)

    rows = pd.concat([table(title, d) for title, d in results.items()], ignore_index=True).round(DIGITS)
    curve = bands(
        layers_axis(),
        "nats",
        "nats",
        fields=("reader", "layer"),
        colours=by_category("reader", shown.values()),
    )
    return panels(
        rows, "Distance from the own final by layer", *curve, marks=[BANDS], toggles={"lens": "lens"},
        defaults={"lens": "tuned"},
        description="KL(layer ‖ own final), nats, on IT's own replies, against the layer, at three doses and for PT",
    )  # fmt: skip


# Score → the published figures of which the study's curve is drawn, by the second part of their ids.
CURVES = {"format": "05", "choice": "17", "arithmetic": "18", "refusal_harmful": "05"}


def published_curves() -> alt.Chart:
    """Return the study's dose–response of Gemma, by score, as published."""
    found = []
    for row in claims.published("exp06").to_dict("records"):
        metric, _, dose = row["metric"].partition(".dose.")
        if row["id"].split(".")[1] == CURVES.get(metric) and dose:
            number = float(dose.replace("m", "-").replace("_", "."))
            ends = {"mean": row["value"], "low": row["ci_low"], "high": row["ci_high"]}
            found.append(
                {"panel": "the study's Gemma", "part": CURVE, "dose": number, "score": TITLES[metric]} | ends
            )
    rows = pd.DataFrame(found)
    return dose_response(
        rows, y=SHARE, title="Published: Gemma 3 4B", fields=("score",),
        colours=by_category("score", [TITLES[metric] for metric in CURVES]),
        description="Published share of replies by score, against the dose α in layers 20–33",
    )  # fmt: skip
