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
from nbhelpers.report.directions import claim, fitting, levels_of, most, sentence
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


MATRIX = {
    "tokens a text, IT − PT": "n_tokens_shift",
    "final entropy, IT − PT": "final_entropy_shift",
    "top probability, IT − PT": "final_top1_probability_shift",
    "same top token, IT's text − PT's": "same_top1_on_it_less_pt",
}


def verdict(results) -> Verdict:
    """Return the verdict: which model writes more, which is the surer, and on whose text the two agree."""
    return fitting(partial(said, results))


def said(results, names: bool) -> Verdict:
    """Return the verdict, with or without the names of the pairs that differ."""
    tokens = [levels_of(results, quantities, f"n_tokens.{v}", lambda n: f"{n:.0f}") for v in ("it", "pt")]
    nats = [levels_of(results, quantities, f"final_entropy.{v}") for v in ("it", "pt")]
    same = [levels_of(results, quantities, f"same_top1.{v}", percent) for v in ("pt", "it")]
    length = claim(
        results, quantities, "n_tokens_shift",
        f"IT's texts ({tokens[0]} tokens) are {{word}} than PT's ({tokens[1]})",
        f"Whether IT's texts ({tokens[0]} tokens) or PT's ({tokens[1]}) are longer is undecided",
        ("longer", "shorter"), names=names,
    )  # fmt: skip
    sharper = claim(
        results, quantities, "final_entropy_shift",
        f"IT's final predictions (entropy {nats[0]} nats) are {{word}} than PT's ({nats[1]})",
        f"Whether IT's final predictions (entropy {nats[0]} nats) or PT's ({nats[1]}) are surer is undecided",
        ("less sure", "surer"), again=True, names=names,
    )  # fmt: skip
    writes = most(
        results,
        quantities,
        "n_tokens_shift",
        "IT writes more",
        "PT writes more",
        "Neither surely writes more",
    )
    surer = most(
        results,
        quantities,
        "final_entropy_shift",
        "PT is surer of its words",
        "IT is surer of its words",
        "neither is surely surer",
    )
    agree = f"On the same text, both predict the same next token for {same[0]} of PT's and {same[1]} of IT's."
    missing = sentences(results, *PARTS).strip()
    return Verdict(
        f"{writes}; {surer}", sentence(length), sentence(sharper), " ".join(filter(None, (agree, missing)))
    )
