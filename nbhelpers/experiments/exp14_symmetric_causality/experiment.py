"""Parameters, cost and variables of exp14."""

from collections.abc import Mapping
from dataclasses import replace

from nbhelpers.core.cost import Cost, reading_cost
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ExperimentParams, Size
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp14: number of resamples, and seed."""


ENTRIES = 11 * 2 * 2 * 3 * 2 * 2  # read-outs, regions, sides, windows, lenses, bases


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp14: it reads exp11's results and resamples their means, twice at once."""
    read = reading_cost(needs)
    return replace(read, host=read.host + 2 * 8.0 * run.experiment.n_resamples * ENTRIES)


VARIABLES = declared(
    {
        ("readout", "region", "side", "window", "lens", "basis"): {
            "mean": ("nats, layers or 1", "mean change over prompts"),
            "low": ("nats, layers or 1", "lower end of its BCa interval"),
            "high": ("nats, layers or 1", "upper end of its BCa interval"),
            "p": ("1", "two-sided p of the sign-flip test over prompts"),
            "p_holm": (
                "1",
                "the same, Holm over windows and sides, within each read-out, region, lens and basis",
            ),
            "strongest": (
                "1",
                "bootstrap probability that the window has the largest change in the study's direction",
            ),
        },
        ("readout", "region", "side", "window", "lens", "basis", "prompt"): {
            "shift": ("nats, layers or 1", "change from the host's baseline, by read-out"),
        },
    }
)
