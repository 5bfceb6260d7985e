"""exp07_0a, validation 0A: is the direction the same on other prompts, and is that more than chance?

The study resampled the very prompts that define its direction, and drew subsets of them. Here the two directions that are
compared share no prompt, chance is what exchanged labels give, and the gap between prompt formats stands beside.
"""

from collections.abc import Sequence

import numpy as np

from nbhelpers.measures.directions import cosine


def halves(n: int, draws: int, seed: int) -> np.ndarray:
    """Return random orders of n prompts, [draw, n]; the first and the second half of one share no prompt."""
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n) for _ in range(draws)])


def disjoint_curve(own: np.ndarray, sizes: Sequence[int], *, draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return the cosine of the mean difference of s prompts with that of the other half, [size, draw, layer].

    own: each prompt's difference, [prompt, layer, d]. sizes: at most half of the prompts; the reference is always ⌊n/2⌋
    prompts, none of them among the s.
    """
    half, found = len(own) // 2, np.empty((len(sizes), draws, own.shape[1]))
    for k, order in enumerate(halves(len(own), draws, seed)):
        reference = own[order[:half]].mean(0)
        for s, size in enumerate(sizes):
            found[s, k] = cosine(own[order[half : half + size]].mean(0), reference)
    return found


def nested_curve(own: np.ndarray, sizes: Sequence[int], *, draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return the study's curve, [size, draw, layer]: the cosine of the mean difference of s of the prompts with that of all.

    It ends at 1 by construction, because the s prompts are among those that define the reference.
    """
    whole, found = own.mean(0), np.empty((len(sizes), draws, own.shape[1]))
    for k, order in enumerate(halves(len(own), draws, seed)):
        for s, size in enumerate(sizes):
            found[s, k] = cosine(own[order[:size]].mean(0), whole)
    return found


def exchanged(own: np.ndarray, *, draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return the cosine of two disjoint halves when PT and IT are exchanged in each prompt with probability ½, [draw, layer].

    This is the chance level: what two mean differences share when there is no difference to find.
    """
    signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(2, size=(draws, len(own)))
    half = len(own) // 2
    found = np.empty((draws, own.shape[1]))
    for k, order in enumerate(halves(len(own), draws, seed + 1)):
        signed = signs[k][:, None, None] * own
        found[k] = cosine(signed[order[:half]].mean(0), signed[order[half:]].mean(0))
    return found


def pairwise(own: np.ndarray, *, draws: int = 50, seed: int = 0) -> np.ndarray:
    """Return the study's stability: the mean cosine between the mean differences of two resamples of all prompts, [layer].

    Resamples share two thirds of their prompts with each other, so this lies above the cosine of disjoint halves.
    """
    rng, n = np.random.default_rng(seed), len(own)
    counts = rng.multinomial(n, np.full(n, 1 / n), draws) / n
    drawn = np.einsum("np,pld->nld", counts, own)
    unit = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True).clip(1e-30)
    total = unit.sum(0)
    return ((total**2).sum(-1) - draws) / (draws * (draws - 1))
