"""The figure, table and verdict of exp00."""

from collections.abc import Callable
from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.core.unmeasured import PARTS
from nbhelpers.experiments.exp00_observations.quantities import quantities
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import by_variant, panels, tidy
from nbhelpers.report.directions import caveat, claim, fitting, levels_of, most, on_side, sentence
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import value
from nbhelpers.report.text import percent
from nbhelpers.report.unmeasured import sentences
from nbhelpers.report.verdicts import Verdict


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
    """Return a table of each model's text lengths and final distributions, and of their agreement, by pair."""

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
            "same top-1 token on IT's text": percent(value(quantities, d, "same_top1.it")),
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T.rename_axis(None), results)


LENGTH, ENTROPY = "n_tokens_shift", "final_entropy_shift"
MATRIX = {
    "tokens a text, IT − PT": LENGTH,
    "final entropy, IT − PT": ENTROPY,
    "top probability, IT − PT": "final_top1_probability_shift",
    "same top token, IT's text − PT's": "same_top1_on_it_less_pt",
}


def verdict(results) -> Verdict:
    """Return the verdict: which model writes more, which is the surer, and on whose text the two agree."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict with more or less detail on the pairs that differ."""
    writes = most(results, quantities, LENGTH, "IT writes more", "PT writes more", "Either may write more")
    surer = most(
        results,
        quantities,
        ENTROPY,
        "PT is surer of its words",
        "IT is surer of its words",
        "either may be surer",
    )
    same = [levels_of(results, quantities, f"same_top1.{v}", percent) for v in ("pt", "it")]
    agree = (
        f"On the same text, both expect the same token at {same[0]} of positions in PT's, {same[1]} in IT's."
    )
    return Verdict(
        f"{writes}; {surer}", sentence(length(results, detail)), sentence(sharpness(results, detail)),
        caveat(agree, sentences(results, *PARTS), detail),
    )  # fmt: skip


def length(results, detail: int) -> str:
    """Return the clause on the lengths of both models' texts."""
    chosen = on_side(results, quantities, LENGTH)
    it, pt = (levels_of(chosen, quantities, f"n_tokens.{v}", lambda n: f"{n:.0f}") for v in ("it", "pt"))
    return claim(
        results, quantities, LENGTH, f"IT's texts ({it} tokens) are {{word}} than PT's ({pt})",
        f"Whether IT's texts ({it} tokens) or PT's ({pt}) are longer is undecided", ("longer", "shorter"), detail=detail,
    )  # fmt: skip


def sharpness(results, detail: int) -> str:
    """Return the clause on how sure both models' final predictions are."""
    chosen = on_side(results, quantities, ENTROPY)
    it, pt = (levels_of(chosen, quantities, f"final_entropy.{v}") for v in ("it", "pt"))
    return claim(
        results, quantities, ENTROPY, f"IT's final predictions (entropy {it} nats) are {{word}} than PT's ({pt})",
        f"Whether IT's final predictions (entropy {it} nats) or PT's ({pt}) are surer is undecided", ("less sure", "surer"),
        again=True, detail=detail,
    )  # fmt: skip
