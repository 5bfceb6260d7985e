"""The figure, table and verdict of exp00."""

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.core.unmeasured import PARTS
from nbhelpers.experiments.exp00_observations.quantities import quantities
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import by_variant, panels, tidy
from nbhelpers.report.quantities import value
from nbhelpers.report.text import percent, whether
from nbhelpers.report.unmeasured import sentences


def lengths(results) -> alt.Chart:
    """Return a chart of the lengths of each model's texts: the share of prompts with at least so many tokens."""

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
    description = f"Share of texts with at least so many tokens, against the number of tokens, for {VARIANTS}"
    return panels(rows, "Length of the texts", line, description=description)


def volume(results) -> pd.DataFrame:
    """Return a table of each model's text lengths and final distributions, and of their agreement, by family."""

    def arrow(dataset, name: str, shown: Callable) -> str:
        return " → ".join(
            shown(value(quantities, dataset, f"{name}.{variant}")) for variant in params.VARIANTS
        )

    rows = {
        title: {
            "tokens PT → IT": arrow(d, "n_tokens", lambda n: f"{n:.1f}"),
            "ended PT → IT": arrow(d, "stopped", percent),
            "final entropy, nats": arrow(d, "final_entropy", lambda h: f"{h:.2f}"),
            "top probability": arrow(d, "final_top1_probability", lambda p: f"{p:.2f}"),
            "same top-1 token on PT's text": percent(value(quantities, d, "same_top1.pt")),
            "on IT's text": percent(value(quantities, d, "same_top1.it")),
        }
        for title, d in results.items()
    }
    return pd.DataFrame(rows).T.rename_axis(None)


def verdict(results) -> str:
    """Return the verdict on text lengths and final entropies."""
    total, lower = len(results), "with the lower mean entropy"
    longer = [t for t, d in results.items() if value(quantities, d, "n_tokens_shift") < 0]
    sharper = [t for t, d in results.items() if value(quantities, d, "final_entropy_shift") < 0]
    return (
        f"On average {whether(longer, total, 'PT writes the longer texts', 'PT does not write the longer texts')}. IT's own "
        f"predictions {whether(sharper, total, f'end {lower}', f'do not end {lower}')}.{sentences(results, *PARTS)}"
    )
