"""Parameters and variables of exp14."""

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp14: number of resamples, and seed."""


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
