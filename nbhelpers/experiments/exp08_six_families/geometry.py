"""How far the IT − PT differences lie on one line, and how stable that line is: from the collection of eight cells.

Everything about rank follows from the products of differences with each other, G_ij = D_i · D_j [prompt, prompt]. Intervals
come from halves of the prompts: with half of them left out, the spread over draws is the standard error of the whole
(delete-d jackknife; Shao and Wu 1989, A general theory for jackknife variance estimation, Annals of Statistics 17).
"""

import numpy as np
import xarray as xr
from scipy.special import ndtri

from nbhelpers.measures import directions


def halves(n: int, draws: int, seed: int = 0) -> np.ndarray:
    """Return random halves of n prompts, ⌊n/2⌋ indices each, [draw, ⌊n/2⌋]."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n)[: n // 2] for _ in range(draws)])


def half_interval(
    value: np.ndarray, drawn: np.ndarray, n: int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of a value […] of n prompts, from its values on halves of them [draw, …].

    half_interval = value ± z · sd(drawn) · √(m / (n − m)),  m = ⌊n/2⌋, z the normal quantile
    Halves give the spread alone: a value that depends on the number of prompts is not moved to theirs.
    """
    m = n // 2
    reach = ndtri((1 + confidence) / 2) * np.std(drawn, axis=0, ddof=1) * np.sqrt(m / (n - m))
    return value - reach, value + reach


def rank_measures(gram: np.ndarray) -> dict[str, np.ndarray]:
    """Return `experiment.RANK_MEASURES` of differences D with the products G = D Dᵀ [..., prompt, prompt], each [...].

    With λ_1 ≥ λ_2 ≥ … the eigenvalues of G, u its first eigenvector, d the mean difference and n prompts:
    energy_share = Σ_i (D_i·d̂)² / Σ_i ‖D_i‖² = ‖G1‖² / (1ᵀG1 · tr G);  mean_share = ‖d‖² / (1/n Σ_i ‖D_i‖²)
    uncentred_pc1 = λ_1 / tr G;  centred_pc1: the same of differences less their mean
    cosine_pc1 = √λ_1 |u·1| / √(1ᵀG1);  participation = (tr G)² / Σ λ²
    Centring takes away the mean difference, which is the direction itself; so the centred share says nothing of it.
    """
    total, n = np.trace(gram, axis1=-2, axis2=-1), gram.shape[-1]
    rows = gram.sum(-1)
    whole = rows.sum(-1)
    values, vectors = np.linalg.eigh(gram)
    centred = gram - rows[..., None] / n - rows[..., None, :] / n + whole[..., None, None] / n**2
    left = np.trace(centred, axis1=-2, axis2=-1)
    along = np.abs(vectors[..., -1].sum(-1))
    left = np.where(left > 0, left, np.nan)  # of a single prompt nothing is left
    return {
        "centred_pc1": np.linalg.eigvalsh(centred)[..., -1] / left,
        "uncentred_pc1": values[..., -1] / total,
        "energy_share": np.square(rows).sum(-1) / (whole * total),
        "mean_share": whole / (n * total),
        "cosine_pc1": np.sqrt(values[..., -1] / whole) * along,
        "participation": np.square(total) / np.square(gram).sum((-2, -1)),
    }


def rank_one(own: np.ndarray, *, draws: int, confidence: float, seed: int = 0) -> xr.Dataset:
    """Return `rank_one` with its interval, and `permuted` with its 95th percentile, (rank_measure, layer).

    own: differences [prompt, layer, d]. permuted: PT and IT exchanged in each prompt with chance ½, on average: what
    differences of these sizes and angles give if they have no common direction.
    """
    chosen = halves(len(own), draws, seed)
    signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(2, size=(draws, len(own)))
    value, half, null = [], [], []
    for states in own.transpose(1, 0, 2):  # a layer at a time: all draws of all layers would not fit
        gram = states @ states.T
        value.append(rank_measures(gram))
        half.append(rank_measures(gram[chosen[:, :, None], chosen[:, None, :]]))
        null.append(rank_measures(gram * signs[:, :, None] * signs[:, None, :]))
    value, half, null = (
        {name: np.array([layer[name] for layer in found]) for name in found[0]}
        for found in (value, half, null)
    )
    names, dims = list(value), ("rank_measure", "layer")
    ends = [half_interval(value[name], half[name].T, len(own), confidence) for name in names]
    found = {
        "rank_one": [value[name] for name in names],
        "rank_one_low": [low for low, _ in ends], "rank_one_high": [high for _, high in ends],
        "permuted": [null[name].mean(1) for name in names],
        "permuted_high": [np.quantile(null[name], 0.95, axis=1) for name in names],
    }  # fmt: skip
    return xr.Dataset(
        {name: (dims, np.array(values)) for name, values in found.items()}, {"rank_measure": names}
    )


def energy_along(own: np.ndarray) -> np.ndarray:
    """Return the share of each prompt's squared difference along the mean of the others, [prompt, layer].

    energy_along_i = (D_i · d̂_{−i})² / ‖D_i‖²,  d_{−i} the mean difference of the other prompts
    own: [prompt, layer, d]
    """
    others = (own.sum(0) - own) / (len(own) - 1)
    return directions.cosine(own, others) ** 2


def subspaces(own: np.ndarray, ranks) -> dict[str, np.ndarray]:
    """Return {"top k": orthonormal vectors [layer, k, d]}: the first k uncentred components of differences.

    own: [prompt, layer, d]. Only ranks up to the number of prompts and features are there. The first component of
    differences with a large mean is close to the mean.
    """
    most = min(own.shape[0], own.shape[2])
    basis = np.array([np.linalg.svd(layer, full_matrices=False)[2] for layer in own.transpose(1, 0, 2)])
    return {f"top {k}": basis[:, :k] for k in ranks if k <= most}


def random_subspace(n_layers: int, k: int, width: int, seed: int = 0) -> np.ndarray:
    """Return k random orthonormal vectors a layer, [layer, k, d]."""
    drawn = np.random.default_rng(seed).standard_normal((n_layers, width, k))
    return np.linalg.qr(drawn)[0].transpose(0, 2, 1)


def stability(cells: xr.DataArray, *, draws: int, confidence: float, seed: int = 0) -> xr.Dataset:
    """Return `stability` of the direction "mean" with its interval, (stability_measure, layer): `experiment.STABILITY`.

    Two halves are always disjoint; their cosine is the mean over draws, its interval the 5th and 95th percentile of draws.
    """
    own, raw = (directions.differences(cells, kind).values for kind in ("mean", "mean_raw"))
    split, n = directions.split_half(own, draws=draws, seed=seed), len(own)
    chosen = halves(n, draws, seed)
    others = directions.cosine(own, (own.sum(0) - own) / (n - 1))
    value = np.array([split.mean(0), directions.cosine(own.mean(0), raw.mean(0)), others.mean(0)])
    drawn = [
        [directions.cosine(own[half].mean(0), raw[half].mean(0)) for half in chosen],
        [others[half].mean(0) for half in chosen],
    ]
    ends = [tuple(np.quantile(split, [0.05, 0.95], axis=0))]
    ends += [half_interval(v, np.array(d), n, confidence) for v, d in zip(value[1:], drawn)]
    dims, names = ("stability_measure", "layer"), ["split_half", "template_cosine", "agreement"]
    low, high = (np.array(end) for end in zip(*ends))
    found = {"stability": value, "stability_low": low, "stability_high": high}
    return xr.Dataset({name: (dims, v) for name, v in found.items()}, {"stability_measure": names})
