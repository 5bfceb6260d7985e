"""Made-up steps with the schema of exp00's, for tests that need numbers of their own choosing."""

import numpy as np
import xarray as xr

from nbhelpers.core.depths import depth
from nbhelpers.core.params import VARIANTS

LENSES, COMPONENTS = ("raw", "tuned"), ("block", "attention", "mlp")


def observed(lengths=(4, 3, 5), *, n_layers=6, seed=0):
    """Return the steps of two models on two histories, the first token of each text included, of random values.

    lengths: tokens of each text, the same on both histories, or {history: lengths}. Assign what a test is about.
    """
    rng = np.random.default_rng(seed)
    lengths = lengths if isinstance(lengths, dict) else dict.fromkeys(VARIANTS, lengths)
    index = [(h, i, t) for h in VARIANTS for i, n in enumerate(lengths[h]) for t in range(n)]
    history, prompt, token = map(np.array, zip(*index))
    n, n_prompts = len(index), len(lengths["pt"])
    by_lens, shape = ("variant", "lens", "layer", "step"), (2, 2, n_layers, n)
    kl = rng.lognormal(size=shape) * (np.arange(n_layers) < n_layers - 1)[:, None]
    adjacent = rng.lognormal(size=shape)
    adjacent[:, :, 0] = np.nan
    top1 = rng.integers(0, 4, shape)
    top1[:, 1, -1] = top1[:, 0, -1]  # both lenses end on the raw last layer
    variables = {
        "kl_final_layer": (by_lens, kl),
        "kl_layer_final": (by_lens, kl * 2),
        "kl_final_layer_cross": (by_lens, kl * 3),
        "kl_layer_final_cross": (by_lens, kl * 4),
        "kl_adjacent": (by_lens, adjacent),
        "entropy": (by_lens, rng.lognormal(size=shape)),
        "top1": (by_lens, top1),
        "top1_probability": (by_lens, rng.uniform(size=shape)),
        "target_log_probability": (by_lens, -rng.lognormal(size=shape)),
        "target_rank": (by_lens, rng.integers(1, 9, shape)),
        "turnover": (by_lens, rng.uniform(size=shape)),
        "candidates_final": (by_lens, rng.uniform(size=shape)),
        "delta_cosine": (("variant", "component", "layer", "step"), rng.uniform(-1, 1, (2, 3, n_layers, n))),
        "update_norm": (("variant", "component", "layer", "step"), rng.lognormal(size=(2, 3, n_layers, n))),
        "residual_norm": (("variant", "layer", "step"), rng.lognormal(size=(2, n_layers, n))),
        "cosine_to_final": (("variant", "layer", "step"), rng.uniform(-1, 1, (2, n_layers, n))),
        "token_id": ("step", rng.integers(0, 4, n)),
        "token_class": ("step", rng.integers(0, 7, n).astype("int8")),
        "n_tokens": (("variant", "prompt"), [list(lengths[h]) for h in VARIANTS]),
        "stopped": (("variant", "prompt"), np.ones((2, n_prompts), bool)),
        "category": ("prompt", np.array(["fact", "sum"] * n_prompts, dtype=object)[:n_prompts]),
    }
    coords = {
        "variant": list(VARIANTS),
        "lens": list(LENSES),
        "component": list(COMPONENTS),
        "layer": np.arange(n_layers),
        "depth": ("layer", depth(n_layers)),
        "prompt": [f"p{i}" for i in range(n_prompts)],
        "history": ("step", history),
        "prompt_index": ("step", prompt),
        "token": ("step", token),
    }
    return xr.Dataset(variables, coords)
