"""Phase 4 of exp10: IT steered along the probe's direction and along the mean difference, both learned on MLP outputs.

Arms act on the late MLPs but the last layer's, at which no gap is left to predict. "equal" arms change as much as the mean
direction's removal does, |m·h| at every position, along the probe's direction or along random ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers import progress
from nbhelpers.experiments.exp10_contrastive_patching.experiment import Params
from nbhelpers.measures import lens, scoring, steering, tuned_lens
from nbhelpers.measures.arms import Arm, SteeringError, Vectors
from nbhelpers.measures.directions import random_directions
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.forward import forward, read_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.row_edits import as_edits

DIRECTIONS = ("conv", "mean")
TOUCHED = 1e-6  # a smaller change of the last residual, as a share of its norm, is none


def arms(options: Params, layers: Sequence[int]) -> list[Arm]:
    """Return the arms that write: IT as it is, each dose of both directions, the probe's at the mean direction's size."""
    layers = tuple(layers)
    doses = [
        Arm(f"{name} {dose:g}", change="rescale", layers=layers, vector=name, dose=dose)
        for name in DIRECTIONS
        for dose in options.doses
    ]
    equal = [equal_arm("equal", "conv", layers, dose) for dose in (0.0, 2.0)]
    return [Arm("it"), *doses, *equal]


def equal_arm(name: str, write: str, layers: tuple[int, ...], dose: float) -> Arm:
    """Return the arm that changes as much as the mean direction at a dose, along another vector."""
    return Arm(f"{name} {dose:g}", change="matched", layers=layers, vector="mean", write=write, dose=dose)


def randoms(options: Params, layers: Sequence[int]) -> list[Arm]:
    """Return the random band: as much as the mean direction's removal changes, along `n_large` random directions."""
    return [equal_arm(f"random {i + 1}:", f"random_{i}", tuple(layers), 0.0) for i in range(options.n_large)]


def vectors(found: xr.Dataset, options: Params, n_layers: int) -> dict[str, np.ndarray]:
    """Return the vectors that the arms name, {name: [layer, d]}, of the space of MLP outputs; zero at the last layer.

    found: from `probes.directions_of`. Random vectors have no part along the mean direction.
    """
    of = found["vector"].sel(space="mlp_output", drop=True).astype(float)
    whole = {}
    for name in DIRECTIONS:
        values = of.sel(direction=name).values
        whole[name] = np.concatenate([values, np.zeros_like(values[:1])])[:n_layers]
    axis = whole["mean"]
    drawn = random_directions(options.n_large, *axis.shape, orthogonal_to=axis, seed=options.seed)
    return whole | {f"random_{i}": one for i, one in enumerate(drawn)}


def scored(written: xr.Dataset, tasks: Sequence[scoring.Task]) -> xr.DataArray:
    """Return the scores of written replies, float32 (metric, arm, prompt): those of `scoring`, and their length in tokens."""
    texts = written["text"].values
    values = [scoring.score_table(tasks, [str(text) for text in row]) for row in texts]
    whole = np.concatenate([np.stack(values, 1), written["n_tokens"].values[None]]).astype(np.float32)
    names = [*scoring.METRICS, "length"]
    return xr.DataArray(whole, {"metric": names, "arm": written["arm"].values}, ("metric", "arm", "prompt"))


def forced(
    decoder: Decoder,
    chosen: Sequence[Arm],
    rows: Sequence[Sequence[int]],
    replies: Sequence[Continuation],
    along: Vectors,
    tuned: tuned_lens.TunedLens,
    layers: Sequence[int],
    *,
    batch_size: int,
    lens_rows: int,
) -> xr.Dataset:
    """Return how every arm reads IT's replies, all the same tokens: `kl_late`, `kl_unedited`, `residual_change`.

    All (arm, forced_prompt), means over tokens. kl_late: KL(layer ‖ own final) by the tuned lens, mean over `layers`.
    kl_unedited = KL(unedited ‖ edited) of the next token;  residual_change = ‖h′ − h‖ / ‖h‖ of the last residual
    SteeringError if an arm with a neutral dose changes anything, or another changes nothing.
    """
    found = {
        name: np.zeros((len(chosen), len(rows))) for name in ("kl_late", "kl_unedited", "residual_change")
    }

    def read(batch):  # what a batch that fails has written, smaller ones write again
        plain = forward(decoder, batch, keep=[min(layers)])
        index = np.searchsorted(np.sort(batch.rows), batch.row_of_step)
        order, count = np.sort(batch.rows), np.bincount(index)
        for a, arm in enumerate(chosen):
            edits = as_edits(steering.row_edits([arm], along, decoder.config.hidden_size))
            stream = forward(decoder, batch, edits, resume=plain) if edits else plain
            for name, values in _read(decoder, stream, plain, tuned, layers, lens_rows).items():
                found[name][a, order] = np.bincount(index, values) / count

    batches = read_batches(decoder, rows, replies, read, batch_size=batch_size, what="steered")
    for _ in progress(batches, "it steered"):
        pass
    check_changes(chosen, found["residual_change"])
    return xr.Dataset(
        {name: (("arm", "forced_prompt"), values) for name, values in found.items()},
        {"arm": [arm.name for arm in chosen]},
    )


def _read(decoder, stream, plain, tuned, layers, lens_rows) -> dict[str, np.ndarray]:
    """Return the read-outs of one arm at every token, {name: [token]}."""
    h, before = stream.residual[-1], plain.residual[-1]
    states = [*(tuned_lens.translate_layer(tuned, layer, stream.residual[layer]) for layer in layers), h]
    options = {"rows": lens_rows}
    own = lens.lens_metrics(states, decoder.unembedding, metrics=("kl_layer_final",), **options)[
        "kl_layer_final"
    ]
    ends = lens.lens_metrics([h, before], decoder.unembedding, metrics=("kl_final_layer",), **options)
    change = (h.float() - before.float()).norm(dim=-1) / before.float().norm(dim=-1)
    found = {
        "kl_late": own[:-1].mean(0),
        "kl_unedited": ends["kl_final_layer"][0].clamp_min(0),
        "residual_change": change,
    }
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def check_changes(chosen: Sequence[Arm], change: np.ndarray) -> None:
    """Raise SteeringError unless neutral arms change nothing and all others something; change: [arm, prompt]."""
    for arm, size in zip(chosen, change.max(1)):
        if arm.identity and size > TOUCHED:
            raise SteeringError(
                f"The arm {arm.name} must change nothing, and it moves the last residual by {size:.2g}."
            )
        if not arm.identity and not size > TOUCHED:
            raise SteeringError(
                f"The arm {arm.name} changes nothing at dose {arm.dose:g}: its direction or dose is broken."
            )


def described(chosen: Sequence[Arm]) -> Mapping[str, tuple[str, list]]:
    """Return the coordinates of the dim `arm`: its vector, the vector that it writes along, and its dose, NaN for none."""
    plain = [arm.change == "none" for arm in chosen]
    return {
        "along": ("arm", ["" if none else arm.write or arm.vector for arm, none in zip(chosen, plain)]),
        "sized_by": ("arm", ["" if none else arm.vector for arm, none in zip(chosen, plain)]),
        "dose": ("arm", [np.nan if none else arm.dose for arm, none in zip(chosen, plain)]),
    }


def sampled(n: int, of: int) -> np.ndarray:
    """Return n of `of` indices, spread evenly; all of them if there are fewer."""
    return np.unique(np.linspace(0, of - 1, min(n, of)).round().astype(int))
