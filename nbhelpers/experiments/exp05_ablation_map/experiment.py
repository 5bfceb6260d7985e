"""Parameters, cost and variables of exp05."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core import depths
from nbhelpers.core.cost import (
    PROMPT_TOKENS,
    Cost,
    logits,
    prompt_tokens,
    replayed,
    steered,
    weights,
)
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Size
from nbhelpers.core.variables import Variable, declared

EDITS = ("mean", "zero", "skip", "remove", "reverse")  # what is done to one layer
WIDE = ("mean", "skip", "remove")  # what is done to several layers
WRITES = ("isotropic", "covariance")  # how random directions are drawn
CELLS = 8  # of the collection: weights × history × prompt format


class Params(ForwardParams):
    """Parameters of exp05: which of exp00's prompts give the directions, which the map, and how many controls."""

    n_prompts: int = Field(ge=4, description="of exp00's prompts, for the directions; the map has others")
    n_map: int = Field(ge=2, description="of exp00's other prompts, for the map")
    n_random: int = Field(default=20, ge=1, description="random directions of each kind, late window")
    n_sets: int = Field(default=5, ge=1, description="random sets of layers, as many layers as a window has")


def skips(n_layers: int) -> list[int]:
    """Return the first skipped layers of the progressive skip: L − 1, L − 2, L − 3, L − 4, L − 6, … and the onset."""
    onset = depths.onset(n_layers)
    return sorted(
        {onset} | {n_layers - n for n in (1, 2, 3, 4, 6, 8, 10) if n_layers - n >= onset}, reverse=True
    )


def windows(n_layers: int) -> dict[str, range]:
    """Return the windows that are edited whole: early, mid and late, and the first two phases of the study.

    A model of five layers or fewer has no layer of the phase format, which is left out.
    """
    phases = depths.phases(n_layers)  # its last one is the late window
    return depths.windows(n_layers) | {name: phases[name] for name in ("content", "format") if phases[name]}


def n_arms(n_layers: int, options: Params) -> int:
    """Return the number of edited conditions."""
    wide = len(windows(n_layers)) + options.n_sets
    return (
        len(EDITS) * n_layers + len(WIDE) * wide + len(WRITES) * options.n_random + len(skips(n_layers)) + 2
    )


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp05: the prompts of the directions read eight times, those of the map once a condition."""
    e, reply, prompt = (
        run.experiment,
        needs["exp00"][0].experiment.max_new_tokens,
        prompt_tokens(run.profile.prompts),
    )
    arms = n_arms(size.layers, e)
    forced = (CELLS + 2) * e.n_prompts + (arms + 3) * e.n_map
    rows = min(e.batch_size, e.n_prompts)
    collecting = replayed(run, size, rows, e.n_prompts, prompt, reply)
    mapping = steered(run, size, arms, e.batch_size, prompt, reply, n_prompts=e.n_map)
    parent = logits(size, max(1, e.batch_size // 8) * reply, 5)
    cells = 4.0 * CELLS * e.n_prompts * size.layers * size.width
    vectors = 3 * 4.0 * arms * size.layers * size.width
    held = weights(run, size, 2) + max(collecting, mapping, parent)
    tokens = forced * (reply + PROMPT_TOKENS)
    # The cells, three kinds of differences in float64 of one prompt's cell each, and the means at other sites.
    host = max(3 * cells, cells + vectors)
    return Cost(e.n_prompts + e.n_map, 0, tokens, -(-forced // e.batch_size), held, 1.5 * cells, host)


READOUTS = {
    "kl": ("nats", "KL(unedited ‖ edited) of next-token distributions"),
    "nll": ("nats", "rise of the negative log-probability of the reply's tokens"),
    "agreement": ("1", "share of steps with the unedited model's top-1 token"),
    "residual_change": ("1", "change of the last residual over its norm"),
}
# Grid of conditions → its dimensions besides the prompt, and what its conditions are.
GRIDS = {
    "layer": (("edit", "layer"), "one layer edited"),
    "window": (("change", "window"), "a window of layers edited"),
    "set": (("change", "layer_set"), "a random set of layers edited, as many as a window has"),
    "random": (("write", "control"), "late removal's length taken out along a random direction"),
    "skipped": (("first_skipped",), "all layers from here on skipped"),
    "place": (("place",), "late removal at the MLP's output, or behind the norm that follows it"),
}
VARIABLES = {
    f"{readout}_{grid}": Variable((*dims, "prompt"), unit, f"{text}: {what}")
    for grid, (dims, what) in GRIDS.items()
    for readout, (unit, text) in READOUTS.items()
} | declared(
    {
        ("prompt_format", "prompt"): {
            "kl_parent": ("nats", "KL(IT ‖ PT) of next-token distributions on IT's reply"),
            "nll_parent": ("nats", "PT's negative log-probability of the reply's tokens, over IT's"),
        },
        ("prompt",): {
            "nll_plain": ("nats", "negative log-probability of the reply's tokens under unedited IT"),
            "n_tokens": ("tokens", "tokens of IT's reply"),
            "category": ("1", "category of the prompt"),
        },
        ("kind", "layer"): {
            "split_half": ("1", "mean cosine of the directions of two disjoint halves of the prompts"),
            "split_half_low": ("1", "5th percentile of it over random halves"),
            "bootstrap": ("1", "mean cosine of resampled directions with the whole one"),
            "bootstrap_low": ("1", "5th percentile of it"),
            "template_cosine": ("1", "cosine with the direction under raw prompts for both models"),
            "agreement_of_prompts": ("1", "mean cosine of a prompt's difference with the others' mean"),
            "auroc": ("1", "how well half of the prompts' direction separates the other half's outputs"),
            "energy_share": ("1", "uncentred share of the differences' energy along the direction"),
            "norm": ("1", "length of the mean difference"),
        },
        ("layer_set",): {
            "set_layers": ("1", "layers of a random set, as text"),
        },
    }
)
# What later experiments steer with.
DIRECTIONS = declared(
    {
        ("weights", "history", "prompt_format", "prompt", "layer", "feature"): {
            "mlp_mean": ("1", "mean MLP output over the positions that predict a reply"),
        },
        ("kind", "layer", "feature"): {
            "direction": ("1", "mean difference of MLP outputs, by kind of contrast"),
        },
        ("site", "layer", "feature"): {
            "site_direction": ("1", "IT − PT, each as it runs, of the tensor at a site"),
        },
    }
)
ARTIFACTS = {"exp05_directions": DIRECTIONS}
