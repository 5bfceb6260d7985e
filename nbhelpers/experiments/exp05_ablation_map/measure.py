"""exp05: directions from one collection, then a map of what IT's own replies lose when layers are edited.

No text is generated: IT reads the replies that it wrote, and each condition is compared with unedited IT at every step.
The prompts of the map are not those that gave the directions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from nbhelpers import progress
from nbhelpers.core import depths
from nbhelpers.core.params import NATIVE, ModelParams, ParameterError
from nbhelpers.experiments.exp05_ablation_map.experiment import (
    EDITS,
    GRIDS,
    WIDE,
    WRITES,
    Params,
    skips,
    windows,
)
from nbhelpers.measures import directions, steering
from nbhelpers.measures.arms import Arm
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.forward import forced_batch
from nbhelpers.models.generation import Continuation, by_length
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


def layer_sets(n_layers: int, n: int, seed: int) -> list[tuple[int, ...]]:
    """Return n random sets of layers, each as many as a window has, in ascending order.

    None has the first layer, whose loss alone destroys any reply; nor have the windows mid and late.
    """
    width = len(depths.windows(n_layers)["late"])
    draws = (np.random.default_rng([seed, i]).choice(n_layers - 1, width, replace=False) for i in range(n))
    return [tuple(sorted(int(layer) + 1 for layer in draw)) for draw in draws]


def arms(n_layers: int, options: Params) -> dict[str, xr.DataArray]:
    """Return the conditions of every grid of `GRIDS`, {grid: arms with the grid's dimensions}."""
    late = tuple(depths.windows(n_layers)["late"])
    spans = {name: tuple(layers) for name, layers in windows(n_layers).items()}
    sets = layer_sets(n_layers, options.n_sets, options.seed)
    controls = [[f"{write}_{i}" for i in range(options.n_random)] for write in WRITES]
    made = {
        "layer": [[_arm(name, (layer,)) for layer in range(n_layers)] for name in EDITS],
        "window": [[_arm(name, layers) for layers in spans.values()] for name in WIDE],
        "set": [[_arm(name, layers) for layers in sets] for name in WIDE],
        "random": [[Arm(name, change="matched", layers=late, write=name, dose=0.0) for name in row] for row in controls],
        "skipped": [_arm("skip", tuple(range(first, n_layers))) for first in skips(n_layers)],
        "place": [_arm("remove", late), _arm("remove", late, place=UPDATE, vector=UPDATE)],
    }  # fmt: skip
    coords = {
        "edit": list(EDITS), "layer": range(n_layers), "change": list(WIDE), "window": list(spans), "write": list(WRITES),
        "first_skipped": skips(n_layers), "place": [OUTPUT, UPDATE],
    }  # fmt: skip
    found = {}
    for grid, (dims, _) in GRIDS.items():
        values = np.array(made[grid], dtype=object)
        found[grid] = xr.DataArray(values, {d: coords[d] for d in dims if d in coords}, dims)
    return found


def _arm(name: str, layers: tuple[int, ...], **options) -> Arm:
    """Return the arm of one edit at some layers, called by both."""
    return Arm(f"{name} {layers[0]}–{layers[-1]}", layers=layers, **CHANGES[name] | options)


def vectors(found: xr.Dataset, options: Params) -> dict[str, np.ndarray]:
    """Return what the arms remove or write, {name: [layer, d]}, from the dataset of `collected`.

    "mean": the direction; "output": IT's mean MLP output on its own replies; "mlp_update": the direction behind the norm
    after the MLP; "isotropic_i" and "covariance_i": random unit vectors, the former orthogonal to the direction.
    """
    cells, direction = found["mlp_mean"], found["direction"].sel(kind="mean").values
    drawn = {
        "isotropic": directions.random_directions(
            options.n_random, *direction.shape, orthogonal_to=direction, seed=options.seed
        ),
        "covariance": directions.covariance_directions(cells, options.n_random, seed=options.seed),
    }
    own = cells.sel(weights="it", history="it", prompt_format="chat")
    return {
        "mean": direction,
        "output": own.mean("prompt").values,
        UPDATE: found["site_direction"].sel(site=UPDATE).values,
    } | {f"{write}_{i}": one for write, of in drawn.items() for i, one in enumerate(of)}


def mapped(
    pair: Pair,
    prompts: Sequence[Prompt],
    replies: Sequence[Continuation],
    found: xr.Dataset,
    options: Params,
) -> xr.Dataset:
    """Return every read-out of every grid, `<read-out>_<grid>` (…, prompt), as changes from unedited IT on its own replies.

    found: the dataset of `collected`. Also `nll_plain`, `n_tokens` and the random `set_layers`.
    """
    grids = arms(pair.n_layers, options)
    flat = [arm for grid in grids.values() for arm in grid.values.ravel()]
    read = steering.forced(
        pair, [Arm("unedited"), *flat], prompts, replies, vectors(found, options), batch_size=options.batch_size
    )  # fmt: skip
    plain, read = read["nll"][0].drop_vars("arm"), read.isel(arm=slice(1, None)).drop_vars("arm")
    read["nll"] = read["nll"] - plain
    made, start = {"nll_plain": plain, "n_tokens": ("prompt", [len(reply.ids) for reply in replies])}, 0
    for grid, conditions in grids.items():
        part = read.isel(arm=slice(start, start + conditions.size))
        start += conditions.size
        for short, name in READ.items():
            values = part[name].values.reshape(*conditions.shape, -1).astype(np.float32)
            made[f"{short}_{grid}"] = ((*conditions.dims, "prompt"), values)
    sets = layer_sets(pair.n_layers, options.n_sets, options.seed)
    made["set_layers"] = ("layer_set", [" ".join(map(str, layers)) for layers in sets])
    coords = {name: values for grid in grids.values() for name, values in grid.coords.items()}
    return xr.Dataset(made, coords)


@torch.no_grad()
def parent(
    pair: Pair, prompts: Sequence[Prompt], replies: Sequence[Continuation], *, batch_size: int
) -> xr.Dataset:
    """Return how far PT is from IT on IT's replies: `kl_parent` and `nll_parent` (prompt_format, prompt).

    kl_parent = KL(IT ‖ PT) of the next-token distributions over real tokens, nats, mean over steps
    nll_parent = mean (log p_IT(token) − log p_PT(token)), nats
    IT reads chat turns; prompt_format is PT's.
    """
    own = read_as(pair.it, prompts, NATIVE["it"])
    found = {name: np.zeros((2, len(prompts))) for name in ("kl_parent", "nll_parent")}
    for f, prompt_format in enumerate(directions.FORMATS):
        rows = read_as(pair.pt, prompts, prompt_format)

        def read(chosen, rows=rows):
            batch = forced_batch(chosen, own, replies, pair.it.pad_id)
            p = _log_probabilities(pair.it, batch)
            q = _log_probabilities(pair.pt, forced_batch(chosen, rows, replies, pair.pt.pad_id)).to(p.device)
            target = pair.it.unembedding.rows(batch.targets).to(p.device)[:, None]
            steps = {
                "kl_parent": (p.exp() * (p - q)).sum(-1),
                "nll_parent": (p.gather(-1, target) - q.gather(-1, target))[:, 0],
            }
            return {name: steering.by_row(values, batch) for name, values in steps.items()}

        lengths = [range(len(row) + len(reply.ids)) for row, reply in zip(own, replies)]
        read_all = in_batches(by_length(lengths), max(1, batch_size // 8), read, f"{pair.key} PT force")
        for chosen, means in progress(read_all, "PT force"):
            for name, values in means.items():
                found[name][f, chosen] = values
    coords = {"prompt_format": list(directions.FORMATS)}
    return xr.Dataset({n: (("prompt_format", "prompt"), v) for n, v in found.items()}, coords)


def _log_probabilities(decoder: Decoder, batch) -> torch.Tensor:
    """Return log p of an unedited model at the measured positions of a forced batch, [token, real vocabulary]."""
    return steering.log_probabilities(decoder, steering.last_residuals(decoder, batch, (), [0])[0])


def assembled(*parts: xr.Dataset, prompts: Sequence[Prompt]) -> xr.Dataset:
    """Return exp05's dataset from its parts, with the ids and categories of the map's prompts."""
    found = xr.merge([part.drop_attrs(deep=False) for part in parts], combine_attrs="drop")
    n_layers = found.sizes["layer"]
    about = {"category": ("prompt", np.array([p.category for p in prompts], dtype=object))}
    coords = {"prompt": [p.id for p in prompts], "depth": ("layer", depths.depth(n_layers))}
    return found.assign(about).assign_coords(coords).assign_attrs(n_layers=n_layers)
