"""The arms of exp07_0c that it runs itself, by control.

0C: `covariance`, `permuted` and `unit` directions in the late window, and the degenerate dose. 0F: `window` and its
`window_random`. 0I: `formula_…`, other tensors and other formulas. What the steering run has already, is read from its
dataset.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp07_0c_controls.experiment import Params, width
from nbhelpers.measures import directions
from nbhelpers.measures.arms import Arm

PLAIN = "none"


class Control(NamedTuple):
    """An arm, what it controls, its number among those of its kind, and whether its replies are scored too."""

    arm: Arm
    control: str
    member: int = 0
    answers: bool = False


def vectors(artifact: xr.Dataset, options: Params) -> dict[str, np.ndarray]:
    """Return the vectors that the arms name, {name: [layer, d]}.

    artifact: of the directions. `mean`, and those of other sites (`mlp_update`, `attention_update`, `residual`);
    `random_i`, without a part along `mean`; `covariance_i`, drawn from the covariance of IT's MLP outputs; `permuted_i`,
    of exchanged labels.
    """
    mean, cells = artifact["direction"].sel(kind="mean").values.astype(float), artifact["mlp_mean"]
    seed = options.seed + 1  # other directions than the steering run's
    n_random = max(options.n_unit, options.n_window_random, options.n_degenerate)
    drawn = {
        "random": directions.random_directions(n_random, *mean.shape, orthogonal_to=mean, seed=seed),
        "covariance": directions.covariance_directions(cells, options.n_covariance, seed=seed),
        "permuted": directions.permuted_directions(cells, options.n_permuted, seed=seed),
    }
    sites = ("mlp_update", "attention_update", "residual")
    found = {"mean": mean} | {s: artifact["site_direction"].sel(site=s).values.astype(float) for s in sites}
    return found | {f"{kind}_{i}": one for kind, many in drawn.items() for i, one in enumerate(many)}


def controls(n_layers: int, options: Params) -> list[Control]:
    """Return every arm that is run here; the last is unedited IT, `PLAIN`."""
    late = tuple(depths.windows(n_layers)["late"])
    made = [*_directions(late, options), *_windows(n_layers, options), *formulas(late)]
    return [*made, Control(Arm(PLAIN), PLAIN, answers=True)]


def _directions(late: tuple[int, ...], options: Params) -> Iterator[Control]:
    """Yield 0C's arms: controls at α = 0 in the late window, and the degenerate dose of the direction and of random ones."""
    for kind, n in (("covariance", options.n_covariance), ("permuted", options.n_permuted)):
        for i in range(n):
            arm = Arm(f"{kind}_{i}", change="matched", layers=late, dose=0.0, write=f"{kind}_{i}")
            yield Control(arm, kind, i, kind == "covariance")
    for i in range(options.n_unit):
        yield Control(
            Arm(f"unit_{i}", change="rescale", layers=late, dose=0.0, vector=f"random_{i}"), "unit", i
        )
    dose = options.degenerate_dose
    yield Control(Arm("degenerate", change="rescale", layers=late, dose=dose), "degenerate", 0, True)
    for i in range(options.n_degenerate):
        arm = Arm(f"degenerate_random_{i}", change="matched", layers=late, dose=dose, write=f"random_{i}")
        yield Control(arm, "degenerate_random", i, True)


def _windows(n_layers: int, options: Params) -> Iterator[Control]:
    """Yield 0F's arms: the direction removed in every window of one width, and as much along random directions."""
    wide = width(n_layers)
    for first in range(n_layers - wide + 1):
        layers = tuple(range(first, first + wide))
        yield Control(Arm(f"window_{first}", change="rescale", layers=layers, dose=0.0), "window")
        for i in range(options.n_window_random):
            name = f"window_{first}_random_{i}"
            arm = Arm(name, change="matched", layers=layers, dose=0.0, write=f"random_{i}")
            yield Control(arm, "window_random", i)


def formulas(late: tuple[int, ...]) -> Iterator[Control]:
    """Yield 0I's arms: the same late layers, other tensors and other formulas.

    `formula_update`: behind the norm that follows the MLP. `formula_attention`: what attention adds, with its own direction;
    `formula_attention_mlp`: what self-attention returns, with the MLP's direction, as in the study. `formula_residual`:
    the stream after every late block; `formula_residual_mlp`: with the MLP's direction, as in the study;
    `formula_residual_one`: after one late block. `formula_add`: c times the gap itself; c = 0 is what the study ran.
    """

    def rescaled(control, name, layers=late, dose=0.0, answers=True, **options):
        return Control(Arm(name, change="rescale", layers=layers, dose=dose, **options), control, 0, answers)

    yield rescaled("formula_update", "update_0", place="mlp_update", vector="mlp_update")
    for dose in (0.0, 2.0):
        attention = {"place": "attention_update", "vector": "attention_update"}
        yield rescaled("formula_attention", f"attention_{dose:g}", dose=dose, **attention)
        yield rescaled(
            "formula_attention_mlp", f"attention_mlp_{dose:g}", dose=dose, place="attention_output"
        )
        yield rescaled(
            "formula_residual", f"residual_{dose:g}", dose=dose, place="residual", vector="residual"
        )
        yield rescaled("formula_residual_mlp", f"residual_mlp_{dose:g}", dose=dose, place="residual")
    for layer in late:
        one = {"place": "residual", "vector": "residual", "answers": layer == late[0]}
        yield rescaled("formula_residual_one", f"residual_one_{layer}", (layer,), **one)
    for factor in (-1.0, -0.5, 0.0, 0.5, 1.0):
        arm = Arm(f"add_{factor:g}", change="add", layers=late, dose=factor)
        yield Control(arm, "formula_add", 0, abs(factor) in (0.0, 1.0))
