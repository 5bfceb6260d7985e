"""The figure, table and verdict of exp00."""

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.report.charts import by_variant, panels, tidy
from nbhelpers.report.text import counted, percent


def lengths(results) -> alt.Chart:
    """Return how long each model's texts are: the share of prompts with at least so many tokens."""

    def survival(dataset):
        width = int(dataset.n_tokens.max())
        at = np.arange(1, width + 1)
        share = [(dataset.n_tokens.sel(variant=v).values[:, None] >= at).mean(0) for v in ("pt", "it")]
        return xr.Dataset(
            {"share": (("variant", "token"), np.array(share))}, {"variant": ["pt", "it"], "token": at}
        )

    rows = tidy(results, survival)
    y = alt.Y("share:Q", title="share of texts", axis=alt.Axis(format="%"))
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "token:Q",
        alt.Tooltip("share:Q", format=".0%"),
    ]
    x = alt.X("token:Q", title="tokens, at least")
    line = (
        alt.Chart()
        .mark_line(interpolate="step-before", strokeWidth=2)
        .encode(x=x, y=y, tooltip=tips, **by_variant())
    )
    return panels(rows, "Length of the texts", line)


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


def verdict(results) -> str:
    """Return how long the texts are and how sharp the end points."""
    total = len(results)
    length = {t: d.n_tokens.mean("prompt") for t, d in results.items()}
    longer = [t for t, n in length.items() if float(n.sel(variant="pt") - n.sel(variant="it")) > 0]
    sharper = [t for t, d in results.items() if final_entropy(d, "it") < final_entropy(d, "pt")]
    return (
        f"On average PT writes the longer texts in {counted(longer, total)}. IT's own predictions end with the lower mean "
        f"entropy in {counted(sharper, total)}."
    )
