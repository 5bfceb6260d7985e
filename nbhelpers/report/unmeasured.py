"""What pages say of parts that a model's architecture lacks: a line, a clause of a verdict, a note in place of a chart."""

from collections.abc import Callable
from functools import wraps

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core.unmeasured import reasons
from nbhelpers.report.charts import SINGLE, in_lines


def missing(results, part: str) -> dict[str, str]:
    """Return {title: why} of the results in which a part was not measured."""
    return {title: why[part] for title, d in results.items() if part in (why := reasons(d))}


def note(results, part: str) -> str:
    """Return one line on the results that lack a part, "not measured: …"; empty if none does."""
    found = missing(results, part)
    said = (why if len(results) == 1 else f"{title}: {why}" for title, why in found.items())
    return f"not measured: {part} ({'; '.join(said)})" if found else ""


def lines(result: xr.Dataset) -> list[str]:
    """Return the lines that a pair's notebook prints of what its model lacks; none if it lacks nothing."""
    return [f"\n{note({'': result}, part)}" for part in reasons(result)]


def sentences(results, *parts: str) -> str:
    """Return the sentences that end a verdict with those of its parts that were not measured, a space before each."""
    return "".join(
        f" {said[0].upper()}{said[1:]}." for said in (note(results, part) for part in parts) if said
    )


def needs(part: str) -> Callable:
    """Return a decorator of a figure of results that need a part: it draws those that have it, and names the others.

    If none has it, the chart is the note alone.
    """

    def decorated(draw: Callable[..., alt.Chart]) -> Callable[..., alt.Chart]:
        @wraps(draw)
        def drawn(results, *arguments, **options):
            without, said = missing(results, part), note(results, part)
            if not said:
                return draw(results, *arguments, **options)
            if len(without) == len(results):
                return words(said)
            chart = draw({t: d for t, d in results.items() if t not in without}, *arguments, **options)
            return chart.properties(title=alt.TitleParams(chart.title, subtitle=in_lines(said)))

        return drawn

    return decorated


def words(said: str) -> alt.Chart:
    """Return a chart that holds a line of text alone."""
    text = alt.Chart(pd.DataFrame({"said": [said]})).mark_text(align="left", limit=SINGLE["width"])
    text = text.encode(text="said:N", x=alt.value(0))
    return text.properties(
        title=in_lines(said), description=f"There is no chart here: {said}.", width=SINGLE["width"], height=20
    )
