"""Directions of an IT/PT difference in MLP outputs, from one collection over weights × history × prompt format.

Each cell of the collection reads the same prompts: which model's weights run, whose reply is read (`history`), and
whether the prompt is raw text or a chat turn. A direction is a difference of cell means, layer by layer; all kinds come
from the same eight cells. A mean difference is stable long before it is meaningful, so `quality` is read before use.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers.core import store
from nbhelpers.core.params import NATIVE, VARIANTS, ModelParams
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import replay
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, read_as

FORMATS = ("raw", "chat")
CELLS = [(w, h, f) for w in VARIANTS for h in VARIANTS for f in FORMATS]
Cell = tuple[str, str, str]  # weights, history, prompt format


def _main_effect(axis: int) -> dict[Cell, float]:
    """The contrast of one factor, averaged over the other two: +¼ at its upper level, −¼ at its lower one."""
    upper = ("it", "it", "chat")[axis]
    return {cell: 0.25 if cell[axis] == upper else -0.25 for cell in CELLS}


# Kind of direction → the weights of the cells whose sum it is.
COMBINATIONS: dict[str, dict[Cell, float]] = {
    # Each model as it runs: its own reply after its own prompt format. The study's direction for five families.
    "mean": {("it", "it", "chat"): 1.0, ("pt", "pt", "raw"): -1.0},
    # Both models read raw prompts: the study's direction for Gemma.
    "mean_raw": {("it", "it", "raw"): 1.0, ("pt", "pt", "raw"): -1.0},
    "mean_chat": {("it", "it", "chat"): 1.0, ("pt", "pt", "chat"): -1.0},
    # Both models read IT's reply after raw prompts ("matched tokens"), or both PT's ("reversed").
    "matched": {("it", "it", "raw"): 1.0, ("pt", "it", "raw"): -1.0},
    "reversed": {("it", "pt", "raw"): 1.0, ("pt", "pt", "raw"): -1.0},
    # The main effects of the three factors; mean = weights + history + template + their three-way interaction.
    "weights": _main_effect(0),
    "history": _main_effect(1),
    "template": _main_effect(2),
}


SITES = ("mlp_output", "mlp_update", "attention_update", "residual")  # tensors of `forward.Stream`


@torch.no_grad()
def cell_means(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    replies: Sequence[Continuation],
    *,
    sites: Sequence[str] = ("mlp_output",),
    batch_size: int = 32,
) -> np.ndarray:
    """Return each prompt's mean activation, float32 [site, prompt, layer, d], over the positions that predict its reply.

    cell_means[i] = mean_t h_ℓ(t) over the positions t of prompt i that predict its reply
    rows: ids of the prompts; replies: the tokens that the model is made to read after them. All k tokens of a reply count,
    the first one, which the prompt's last position predicts, included. sites: of `SITES`.
    """
    width = decoder.config.hidden_size
    found = np.zeros((len(sites), len(rows), decoder.n_layers, width), dtype=np.float32)
    for batch, stream in replay(decoder, rows, replies, batch_size=batch_size):
        order, index = np.unique(batch.row_of_step, return_inverse=True)
        count = np.bincount(index)[:, None]
        for s, site in enumerate(sites):
            for layer, values in enumerate(getattr(stream, site)):
                total = torch.zeros(len(order), width, dtype=torch.float64)
                total.index_add_(0, torch.as_tensor(index), values.double().cpu())
                found[s, order, layer] = total.numpy() / count
    return found


def collect(
    pair: Pair,
    prompts: Sequence[Prompt],
    replies: Mapping[str, Sequence[Continuation]],
    *,
    batch_size: int = 32,
) -> xr.DataArray:
    """Return the mean MLP output of every cell, float32 (weights, history, prompt_format, prompt, layer, feature).

    replies: {"it": IT's own replies, "pt": PT's own}, one a prompt. One forward a cell; no generation.
    """
    shape = (len(VARIANTS), len(VARIANTS), len(FORMATS), len(prompts), pair.n_layers)
    found = np.empty((*shape, pair.pt.config.hidden_size), dtype=np.float32)
    for w, decoder in enumerate((pair.pt, pair.it)):
        for f, prompt_format in enumerate(FORMATS):
            rows = read_as(decoder, prompts, prompt_format)
            for h, history in enumerate(VARIANTS):
                found[w, h, f] = cell_means(decoder, rows, replies[history], batch_size=batch_size)[0]
    return xr.DataArray(
        found,
        dims=("weights", "history", "prompt_format", "prompt", "layer", "feature"),
        coords={
            "weights": list(VARIANTS), "history": list(VARIANTS), "prompt_format": list(FORMATS),
            "prompt": [prompt.id for prompt in prompts],
        },
    )  # fmt: skip


def site_directions(
    pair: Pair,
    prompts: Sequence[Prompt],
    replies: Mapping[str, Sequence[Continuation]],
    *,
    batch_size: int = 32,
) -> xr.DataArray:
    """Return the mean difference of each model as it runs (kind "mean") at every site, (site, layer, feature).

    site_directions = mean_i (cell_it[i] − cell_pt[i]) over prompts i
    An edit of an update or of the stream takes the direction of that place.
    """
    own = {
        v: cell_means(
            decoder, read_as(decoder, prompts, NATIVE[v]), replies[v], sites=SITES, batch_size=batch_size
        )
        for v, decoder in zip(VARIANTS, pair)
    }
    values = (own["it"] - own["pt"]).mean(1)
    return xr.DataArray(values, dims=("site", "layer", "feature"), coords={"site": list(SITES)})


def differences(cells: xr.DataArray, kind: str = "mean") -> xr.DataArray:
    """Return each prompt's own difference of a kind, (prompt, layer, feature), as `COMBINATIONS` defines it.

    D_i = Σ_cell coefficient(cell) · mean activation(cell, i)
    KeyError for an unknown kind.
    """
    parts = [
        coefficient * cells.sel(weights=w, history=h, prompt_format=f, drop=True).astype(float)
        for (w, h, f), coefficient in COMBINATIONS[kind].items()
    ]
    return sum(parts[1:], parts[0])


def direction(cells: xr.DataArray, kind: str = "mean") -> xr.DataArray:
    """Return the mean difference over prompts, (layer, feature), in the units of the MLP output: every prompt counts once.

    direction = mean_i D_i
    """
    return differences(cells, kind).mean("prompt")


def unit(vectors):
    """Return vectors [..., d] of length one; zero vectors stay zero. Arrays, DataArrays (dim feature) and tensors."""
    if isinstance(vectors, xr.DataArray):
        length = np.sqrt((vectors**2).sum("feature"))
        return vectors / length.where(length > 0, 1.0)
    if isinstance(vectors, Tensor):
        return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    vectors = np.asarray(vectors, dtype=float)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def cosine(a, b) -> np.ndarray:
    """Return the cosine of vectors [..., d] along the last axis.

    cosine = a·b / (‖a‖ ‖b‖)
    """
    return (unit(a) * unit(b)).sum(-1)


def random_directions(
    n: int, n_layers: int, width: int, *, orthogonal_to: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Return n random unit vectors a layer, [n, layer, d]; orthogonal_to [layer, d]: they have no part along these.

    random_directions ∝ g − (g·d) d,  g ~ N(0, I),  d the unit vector of orthogonal_to
    """
    drawn = np.random.default_rng(seed).standard_normal((n, n_layers, width))
    if orthogonal_to is not None:
        axis = unit(orthogonal_to)
        drawn -= (drawn * axis).sum(-1, keepdims=True) * axis
    return unit(drawn)


def covariance_directions(cells: xr.DataArray, n: int, *, seed: int = 0) -> np.ndarray:
    """Return n random unit vectors a layer that vary as IT's MLP outputs do over prompts, [n, layer, d].

    covariance_directions ∝ Σ_i z_i (m_i − m̄),  z_i ~ N(0, 1)
    Each is a normal combination of the prompts' centred means in the cell of IT's weights on its own chat replies, so its
    covariance is theirs.
    """
    own = cells.sel(weights="it", history="it", prompt_format="chat").values.astype(float)
    centred = own - own.mean(0)
    weights = np.random.default_rng(seed).standard_normal((n, len(centred)))
    return unit(np.einsum("np,pld->nld", weights, centred))


def permuted_directions(cells: xr.DataArray, n: int, *, kind: str = "mean", seed: int = 0) -> np.ndarray:
    """Return n directions from exchanged labels, [n, layer, d]: each prompt's difference has a random sign.

    permuted_directions = mean_i s_i D_i,  s_i = ±1 at random
    """
    own = differences(cells, kind).values
    signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(2, size=(n, len(own)))
    return np.einsum("np,pld->nld", signs, own) / len(own)


def _halves(n: int, draws: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        order = rng.permutation(n)
        yield order[: n // 2], order[n // 2 :]


def split_half(own: np.ndarray, *, draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return the cosine of mean differences of two disjoint halves of prompts, [draw, layer]; own: [prompt, layer, d].

    split_half = cos(mean_{i ∈ A} D_i, mean_{i ∈ B} D_i)
    """
    return np.array([cosine(own[a].mean(0), own[b].mean(0)) for a, b in _halves(len(own), draws, seed)])


def bootstrap_cosine(own: np.ndarray, *, draws: int = 200, seed: int = 0) -> np.ndarray:
    """Return the cosine of the mean difference of resampled prompts with that of all, [draw, layer].

    bootstrap_cosine = cos(mean_i D*_i, mean_i D_i),  D* drawn with replacement
    """
    rng, whole = np.random.default_rng(seed), own.mean(0)
    counts = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), draws) / len(own)
    return cosine(np.einsum("np,pld->nld", counts, own), whole)


def agreement(own: np.ndarray) -> np.ndarray:
    """Return the mean cosine of each prompt's difference with the mean of the other prompts' differences, [layer].

    agreement = mean_i cos(D_i, mean_{j ≠ i} D_j)
    """
    others = (own.sum(0) - own) / (len(own) - 1)
    return cosine(own, others).mean(0)


def held_out_auroc(cells: xr.DataArray, kind: str = "mean", *, draws: int = 10, seed: int = 0) -> np.ndarray:
    """Return how well the direction of one half of the prompts separates the cells of the other half, AUROC [layer].

    auroc = P(d·x⁺ > d·x⁻) + ½ P(d·x⁺ = d·x⁻), the mean over random halves
    x⁺ is of cells with a positive coefficient, x⁻ of those with a negative one.
    """
    from sklearn.metrics import roc_auc_score

    own, combination = differences(cells, kind).values, COMBINATIONS[kind]
    states = {
        key: cells.sel(weights=key[0], history=key[1], prompt_format=key[2]).values for key in combination
    }
    found = []
    for a, b in _halves(len(own), draws, seed):
        axis = own[a].mean(0)
        scores = {key: np.einsum("pld,ld->lp", values[b], axis) for key, values in states.items()}
        label = np.concatenate([np.full(len(b), combination[key] > 0) for key in scores])
        by_layer = np.concatenate(list(scores.values()), axis=1)
        found.append([roc_auc_score(label, row) for row in by_layer])
    return np.mean(found, axis=0)


def energy_share(own: np.ndarray) -> np.ndarray:
    """Return the uncentred share of the differences' energy along their mean, [layer].

    energy_share = Σ_i (D_i·d)² / Σ_i ‖D_i‖²,  d the unit vector of the mean
    """
    axis = unit(own.mean(0))
    along = np.einsum("pld,ld->pl", own, axis)
    return (along**2).sum(0) / (own**2).sum((0, 2))


def quality(cells: xr.DataArray, kind: str = "mean", *, seed: int = 0, draws: int = 50) -> xr.Dataset:
    """Return what to know of a direction before its use, by layer: stability, separability and size.

    Variables (layer): `split_half` and `split_half_low` (mean and 5th percentile over random halves), `bootstrap` and
    `bootstrap_low`, `template_cosine` (with the same difference under raw prompts for both, or chat for a raw kind),
    `agreement`, `auroc`, `energy_share`, `norm` (length of the mean difference).
    """
    own = differences(cells, kind).values
    halves, boot = split_half(own, draws=draws, seed=seed), bootstrap_cosine(own, draws=draws, seed=seed)
    other = "mean_chat" if kind == "mean_raw" else "mean_raw"
    found = {
        "split_half": halves.mean(0), "split_half_low": np.quantile(halves, 0.05, axis=0),
        "bootstrap": boot.mean(0), "bootstrap_low": np.quantile(boot, 0.05, axis=0),
        "template_cosine": cosine(own.mean(0), direction(cells, other).values),
        "agreement": agreement(own), "auroc": held_out_auroc(cells, kind, seed=seed),
        "energy_share": energy_share(own), "norm": np.linalg.norm(own.mean(0), axis=-1),
    }  # fmt: skip
    return xr.Dataset({name: ("layer", values) for name, values in found.items()})


def checkpoints(model: ModelParams) -> str:
    """Return the versions of a pair's two checkpoints as JSON, which ties a direction to its pair."""
    return json.dumps({variant: getattr(model, variant).version for variant in VARIANTS})


def check_pair(dataset: xr.Dataset, model: ModelParams) -> xr.Dataset:
    """Return a dataset of directions; `store.ResultError` if it was collected from other checkpoints than the pair's."""
    if dataset.attrs.get("checkpoints") != checkpoints(model):
        raise store.ResultError(
            f"these directions belong to {dataset.attrs.get('model', 'an unnamed pair')} with checkpoints "
            f"{dataset.attrs.get('checkpoints', 'unknown')}, not to {model.key}: collect them anew for this pair."
        )
    return dataset
