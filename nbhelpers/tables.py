"""The tables beside the figures of the observation chapter, and the quantities by prompt behind them.

Each table takes results, panel title → dataset of one experiment, and returns text: a row or a column a family. The
sentences that say what a run shows are in `readings`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers import depths, params
from nbhelpers.synthesis import free, interval_table, number, percent, written

FEWEST = 5  # prompts that an interval needs


def shift(values: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Return IT − PT of values with a `variant` dimension, [prompt], prompts that lack either left out."""
    both = values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)
    return both.rename({dim: "prompt"} if dim != "prompt" else {}).dropna("prompt")


def usable(results, measure: Callable) -> dict[str, xr.DataArray]:
    """Return `measure(dataset)`, [prompt], of the results that have enough prompts for it."""
    measured = {title: measure(dataset) for title, dataset in results.items()}
    return {title: values for title, values in measured.items() if values.sizes["prompt"] >= FEWEST}


def cells(results, measures: dict[str, Callable]) -> pd.DataFrame:
    """Return means with intervals as text: a row a family, a column a named measure [prompt], a dash for too few."""
    columns = {}
    for heading, measure in measures.items():
        table = interval_table(usable(results, measure), lambda values: values, pool=False)
        columns[heading] = pd.Series(written(table), index=table["family"], dtype=object)
    return pd.DataFrame(columns).reindex(list(results)).fillna("–").rename_axis(None)


def p_value(p: float, digits: int = 2) -> str:
    """Return a p-value as text, never as zero; a dash where there is none."""
    smallest = 10**-digits
    return "–" if np.isnan(p) else f"< {smallest:.{digits}f}" if p < smallest else f"{p:.{digits}f}"


def own(observed: xr.Dataset, variant: str) -> xr.Dataset:
    """Return exp00's steps of one model on the text that it wrote."""
    return observed.sel(variant=variant).isel(step=np.flatnonzero((observed.history == variant).values))


def final_entropy(observed: xr.Dataset, variant: str) -> float:
    """Return the mean entropy of a model's own predictions on its own text, nats."""
    return float(own(observed, variant).entropy.sel(lens="raw").isel(layer=-1).mean())


def same_token(observed: xr.Dataset, history: str) -> float:
    """Return the share of steps on one history at which both models' final first token is the same."""
    at = np.flatnonzero((observed.history == history).values)
    top = observed.top1.sel(lens="raw").isel(layer=-1, step=at)
    return float((top.sel(variant="pt") == top.sel(variant="it")).mean())


def volume(results) -> pd.DataFrame:
    """Return how much each model of exp00 wrote, and how sharp its end point is, by family."""

    def arrow(of: Callable) -> str:
        return " → ".join(of(variant) for variant in params.VARIANTS)

    def sharpness(d, v):
        return f"{float(own(d, v).top1_probability.sel(lens='raw').isel(layer=-1).mean()):.2f}"

    rows = {
        title: {
            "tokens PT → IT": arrow(lambda v, d=d: f"{float(d.n_tokens.sel(variant=v).mean()):.1f}"),
            "ended PT → IT": arrow(lambda v, d=d: percent(d.stopped.sel(variant=v).mean())),
            "final entropy, nats": arrow(lambda v, d=d: f"{final_entropy(d, v):.2f}"),
            "top probability": arrow(lambda v, d=d: sharpness(d, v)),
            "same first token on PT's text": percent(same_token(d, "pt")),
            "on IT's text": percent(same_token(d, "it")),
        }
        for title, d in results.items()
    }
    return pd.DataFrame(rows).T.rename_axis(None)


def at_depth(values: xr.DataArray, share: float = 0.6) -> xr.DataArray:
    """Return values at the layer ⌊share · L⌋."""
    return values.isel(layer=int(share * values.sizes["layer"]), drop=True)


def lens_table(results) -> pd.DataFrame:
    """Return the quality of exp07_0g's lenses: KL at 0.6 of the depth, layers improved, last layer, gate."""
    rows = {}
    for title, d in results.items():
        for v in params.VARIANTS:
            mean = d.kl_final_layer.sel(variant=v).mean("text")
            raw, tuned = (mean.sel(lens=lens, drop=True) for lens in ("raw", "tuned"))
            a, b = float(at_depth(raw)), float(at_depth(tuned))
            rows[f"{title}, {v.upper()}"] = {
                "KL at 0.6 L, raw → tuned": f"{a:.2f} → {b:.2f} ({number(100 * (b - a) / a, 0)} %)",
                "layers closer": f"{int((tuned < raw)[:-1].sum())} of {len(raw) - 1}",
                "worst layer": number(float((tuned - raw)[:-1].max())),
                "last translator, KL": f"{float(d.last_layer_kl.sel(variant=v)):.1e}".replace("-", "−"),
                "gate": "pass" if bool(d.gate.sel(variant=v)) else "FAIL",
            }
    return pd.DataFrame(rows).T.rename_axis(None)


def onset_table(results, component: str = "block") -> pd.DataFrame:
    """Return exp07_0j's onset by rule, with its interval and its false-alarm rate, a column a family."""
    columns = {}
    for title, d in results.items():
        one = d.sel(component=component)
        rows = zip(one.onset.values, one.onset_low.values, one.onset_high.values, one.found_exchanged.values)
        columns[title] = [f"{_layer(o)} [{_layer(a)}, {_layer(b)}] · {percent(p)}" for o, a, b, p in rows]
    rules = next(iter(results.values()))["rule"].values
    return pd.DataFrame(columns, index=[str(rule) for rule in rules]).rename_axis("onset · by chance")


def _layer(value: float) -> str:
    """Return a layer as text, a dash for none."""
    return "–" if np.isnan(value) or value < 0 else f"{value:.0f}"


def phase(dataset: xr.Dataset, name: str, lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of exp03's adjacent KL averaged over a phase, free running, nats [prompt]."""
    values = free(dataset[["phase_kl_adjacent"]]).phase_kl_adjacent
    return shift(values.sel(phase=name, lens=lens, drop=True))


def phase_table(results) -> pd.DataFrame:
    """Return IT − PT of the adjacent KL by phase, nats, by family."""
    return cells(
        results, {name: lambda d, n=name: phase(d, n) for name in ("content", "format", "corrective")}
    )


def agreement_gap(dataset: xr.Dataset, which: str, history: str = "it") -> xr.DataArray:
    """Return the late-half KL gap IT − PT on one history, [prompt], where both end on the same token, or not."""
    curve = dataset.kl_by_agreement.sel(history=history, agreement_of=which, lens="raw", drop=True)
    return shift(curve.isel(layer=list(depths.late_half(dataset.sizes["layer"]))).mean("layer"))


def agreement_table(results) -> pd.DataFrame:
    """Return the gap on IT's text where both models end on the same token and where they do not, by family."""
    kinds = [str(kind) for kind in next(iter(results.values())).agreement_of.values]
    table = cells(results, {kind: lambda d, k=kind: agreement_gap(d, k) for kind in kinds})
    share = {t: percent(d.agreement.sel(variant="pt", history="it")) for t, d in results.items()}
    return table.assign(**{"share of steps with the same token": pd.Series(share)})


def gini_table(results) -> pd.DataFrame:
    """Return the mean Gini coefficient of neuron use in late layers and the overlap of the most used neurons."""
    rows = {}
    for title, d in results.items():
        late = d.gini.isel(layer=slice(depths.onset(d.sizes["layer"]), None)).mean("layer")
        overlap = d.neuron_overlap.mean("layer")
        rows[title] = {f"Gini, {v.upper()}": f"{float(late.sel(variant=v)):.3f}" for v in params.VARIANTS}
        rows[title] |= {f"top {int(k)} shared": f"{float(overlap.sel(k=k)):.2f}" for k in overlap.k.values}
    return pd.DataFrame(rows).T.rename_axis(None)


def transition_table(results) -> pd.DataFrame:
    """Return exp04's contrast of a third of the depth with the other layers and its p-values, by profile and family."""
    columns = {}
    for title, d in results.items():
        rows = zip(d.statistic.values, d.p_permuted.values, d.p_window.values)
        columns[title] = [f"{number(s, 3)} · {p_value(p)} · {p_value(w)}" for s, p, w in rows]
    index = [str(name) for name in next(iter(results.values()))["profile"].values]
    return pd.DataFrame(columns, index=index).rename_axis("contrast · p, order · p, window")


def fit_table(results) -> pd.DataFrame:
    """Return exp01's slope and correlation of log attribution on log N90, by family, selection and variant."""
    rows = {}
    for title, d in results.items():
        for selection in d.selection.values:
            one = d.sel(selection=selection, quantity="attribution")
            rows[title, str(selection)] = {
                f"{statistic}, {v.upper()}": _interval(one.sel(statistic=statistic, variant=v))
                for statistic in ("slope", "pearson")
                for v in params.VARIANTS
            }
    return pd.DataFrame(rows).T.rename_axis([None, "chosen by"])


def _interval(one: xr.Dataset) -> str:
    """Return a fitted value with its interval as text."""
    fit, low, high = (number(float(one[name])) for name in ("fit", "fit_low", "fit_high"))
    return f"{fit} [{low}, {high}]"


def kinds_table(results) -> pd.DataFrame:
    """Return exp02's p-value that kinds of prompts differ at some layer, by measure and condition, a column a family."""
    rows = {}
    for title, d in results.items():
        for c in d.condition.values:
            for m in d.measure.values:
                p = float(d.p_layers.sel(condition=c, measure=m))
                rows.setdefault((str(m), str(c)), {})[title] = p_value(p, 3)
    return pd.DataFrame(rows).T.rename_axis(["measure", "condition"])


def template_effect(dataset: xr.Dataset, which: str) -> xr.DataArray:
    """Return IT less IT without its template of the δ-cosine, [prompt]: at the last layer, or the others' mean."""
    values = dataset.template_shift
    if which == "last":
        return values.isel(layer=-1, drop=True).dropna("prompt")
    return values.isel(layer=slice(1, -1)).mean("layer").dropna("prompt")


def late_cosine(dataset: xr.Dataset, condition: str) -> xr.DataArray:
    """Return the δ-cosine of IT under a condition less PT's in the final fifth of the layers, [prompt]."""
    block = dataset.delta_cosine.sel(component="block", drop=True)
    block = block.isel(layer=list(depths.final_fifth(dataset.sizes["layer"]))).mean("layer")
    return (block.sel(condition=condition, drop=True) - block.sel(condition="PT", drop=True)).dropna("prompt")


def template_table(results) -> pd.DataFrame:
    """Return what the template changes in the δ-cosine and how much of the late shift is left without it, by family."""
    measures = {
        "template's effect, last layer": lambda d: template_effect(d, "last"),
        "template's effect, other layers": lambda d: template_effect(d, "other"),
        "IT − PT, final fifth, with template": lambda d: late_cosine(d, "IT"),
        "IT − PT, final fifth, without": lambda d: late_cosine(d, "IT without template"),
    }
    return cells(results, measures)
