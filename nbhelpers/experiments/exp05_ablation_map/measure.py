"""exp05: directions from one collection, then a map of what IT's own replies lose when layers are edited.

No text is generated: IT reads the replies that it wrote, and each condition is compared with unedited IT at every step.
The prompts of the map are not those that gave the directions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers import progress
from nbhelpers.core import depths
from nbhelpers.core.params import NATIVE, ModelParams, ParameterError
from nbhelpers.experiments.exp05_ablation_map.experiment import GRIDS, METHODS, WIDE, WRITES, Params, skips
from nbhelpers.measures import directions, steering
from nbhelpers.measures.steering import Arm
from nbhelpers.models.decoder import Pair
from nbhelpers.models.forward import forced_batch
from nbhelpers.models.generation import Continuation, batches_by_length
from nbhelpers.models.prompts import Prompt, choose, read_as

KINDS = ("mean", "weights")  # whose quality is reported
READ = {"kl": "kl_unedited", "nll": "nll", "agreement": "agreement", "residual_change": "residual_change"}
OUTPUT, UPDATE = "mlp_output", "mlp_update"
CHANGES = {
    "mean": {"change": "mean", "vector": "output"},
    "zero": {"change": "zero"},
    "skip": {"change": "skip"},
    "remove": {"change": "rescale", "dose": 0.0},
    "reverse": {"change": "rescale", "dose": -1.0},
}


def map_prompts(
    observed: xr.Dataset, known: Sequence[Prompt], without: Sequence[Prompt], n: int, seed: int
) -> list[Prompt]:
    """Return up to n of the prompts that a capture has replies to, none of `without`, balanced over categories.

    ParameterError if none is left.
    """
    ids = set(observed.prompt.values.tolist()) - {prompt.id for prompt in without}
    left = [prompt for prompt in known if prompt.id in ids]
    if not left:
        raise ParameterError(
            f"all {len(without)} prompts of the capture gave the directions, so none is left for the map: lower n_prompts"
        )
    return choose(left, min(n, len(left)), seed)


def collected(
    pair: Pair,
    prompts: Sequence[Prompt],
    replies: Mapping[str, Sequence[Continuation]],
    model: ModelParams,
    *,
    batch_size: int,
) -> xr.Dataset:
    """Return the directions that experiments steer with: `mlp_mean`, `direction`, `site_direction`, tied to the pair."""
    cells = directions.collect(pair, prompts, replies, batch_size=batch_size)
    kinds = xr.IndexVariable("kind", list(directions.COMBINATIONS))
    found = xr.Dataset(
        {
            "mlp_mean": cells,
            "direction": xr.concat([directions.direction(cells, k) for k in kinds.values], kinds),
            "site_direction": directions.site_directions(pair, prompts, replies, batch_size=batch_size),
        }
    )
    about = {"checkpoints": directions.checkpoints(model), "n_layers": pair.n_layers}
    return found.assign(direction=found["direction"].astype(np.float32)).assign_attrs(about)


def qualities(found: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Return `directions.quality` of the two kinds of `KINDS`, (kind, layer)."""
    cells = found["mlp_mean"]
    read = [directions.quality(cells, kind, seed=seed) for kind in KINDS]
    return xr.concat(read, xr.IndexVariable("kind", list(KINDS))).rename(agreement="agreement_of_prompts")
