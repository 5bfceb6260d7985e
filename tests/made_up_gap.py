"""A made-up exp09: curves that fall to zero at the last layer as real ones do, later in IT than in PT."""

import numpy as np

from tests.made_up import RULES, around, falling, filled, kinds


def fall(rng, start, knee, n_prompts, n_layers):
    """Return KL-like curves [variant, lens, prompt, layer], nats, zero at the last layer, the tuned lens's lower."""
    depth = np.arange(1, n_layers + 1) / n_layers
    curve = start[:, None] * (1 / (1 + np.exp((depth - knee[:, None]) * 14)))
    noisy = curve[:, None, None] * rng.lognormal(0, 0.35, (2, 1, n_prompts, 1))
    noisy = noisy * rng.lognormal(0, 0.1, (2, 1, n_prompts, n_layers)) * (depth < 1)
    return (noisy * np.array([1, 0.6])[:, None, None]).astype("float32")


def curves(rng, lift, n_prompts, n_layers):
    """Return exp09's lens variables: each falls later in IT."""
    start, knee = np.array([4.0, 4.4 + lift]), np.array([0.45, 0.45 + 0.2 * lift])
    heights = {"kl_final_layer": 1, "kl_layer_final": 1.5, "kl_adjacent": 1 / 4, "top1_agreement": 1 / 6}
    found = {name: fall(rng, start * by, knee, n_prompts, n_layers) for name, by in heights.items()}
    found["top1_agreement"] = np.clip(1 - found["top1_agreement"], 0, 1)
    spread = rng.uniform(0.8, 1.2, (2, 1, n_prompts, 1)) * np.array([1, 0.8])[:, None, None]
    found["entropy"] = (0.4 + 3 * falling(n_layers) * spread).astype("float32")
    found["entropy"][1] -= 0.1
    found["top1_probability"] = np.exp(-found["entropy"])
    found |= {f"{name}_first": found[name] * 0.8 for name in ("kl_final_layer", "kl_layer_final", "entropy")}
    return {name: (("variant", "lens", "prompt", "layer"), values) for name, values in found.items()}


def geometry(rng, lift, n_prompts, n_layers):
    """Return exp09's δ-cosines and norms: IT opposes the stream more from 0.7 of the depth on."""
    layers = np.arange(n_layers)
    noise = rng.normal(0, 0.05, (2, 3, n_prompts, n_layers))
    shift = -0.2 * lift * np.array([0, 1])[:, None, None, None] * (layers > 0.7 * n_layers)
    cosine = 0.5 - 0.06 * layers - 0.05 * np.arange(3)[:, None, None] + shift + noise
    norm = 3 * np.exp(0.25 * layers) * rng.lognormal(0, 0.1, (2, n_prompts, n_layers))
    updates, layered = ("variant", "component", "prompt", "layer"), ("variant", "prompt", "layer")
    return {
        "delta_cosine": (updates, np.clip(cosine, -1, 1)),
        "update_norm": (updates, np.repeat(norm[:, None] * 0.3, 3, axis=1)),
        "residual_norm": (layered, norm),
        "cosine_to_final": (layered, np.clip(layers / (n_layers - 1) + noise[:, 0], -1, 1)),
    }


def commitment(rng, lift, n_prompts, n_layers):
    """Return exp09's commitment layers by prompt and their pooled counts, IT later than PT by about `lift`."""
    centre = 0.6 * n_layers + np.linspace(-1, 2, len(RULES)) + np.array([0, lift])[:, None]
    noise = rng.normal(0, 0.8, (2, 2, len(RULES), n_prompts))
    mean = np.clip(centre[:, None, :, None] + noise, 0, n_layers - 1)
    steps = np.rint(mean[..., None] + rng.normal(0, 1, (*mean.shape, 40))).clip(0, n_layers - 1).astype(int)
    count = np.stack([(steps == layer).sum(axis=(-1, -2)) for layer in range(n_layers)], axis=-1)
    found = {
        "commitment": (("variant", "lens", "rule", "prompt"), mean),
        "commitment_count": (("variant", "lens", "rule", "layer"), count),
        "commitment_delay": (("lens", "rule"), (mean[1] - mean[0]).mean(-1)),
    }
    return found | around(found, "commitment_delay", 0.2)


def gap(found, n_layers):
    """Return exp09's convergence gap, its interval and its token-weighted version, from the curves."""
    late = slice(n_layers // 2, None)
    halves = [found[name][1][..., late].mean(-1) for name in ("kl_final_layer", "kl_layer_final")]
    difference = np.stack([half[1] - half[0] for half in halves])  # direction, lens, prompt
    mean, error = difference.mean(-1).T, difference.std(-1).T / np.sqrt(difference.shape[-1])
    gaps = {"convergence_gap": (("lens", "direction"), mean)}
    gaps["convergence_gap_tokens"] = (("lens", "direction"), mean * 1.05)
    return gaps | around(gaps, "convergence_gap", 2 * error)


def exp09(rng, lift, coords):
    """Return a pair whose IT is farther from its final prediction, commits later and opposes the stream more."""
    n, n_layers = len(coords["prompt"]), len(coords["layer"])
    found = filled("exp09", rng, lift, coords)
    found |= curves(rng, lift, n, n_layers) | geometry(rng, lift, n, n_layers)
    found |= gap(found, n_layers) | commitment(rng, lift, n, n_layers) | around(found, "dimension", 0.5)
    for name in ("kl_final_layer", "kl_layer_final"):
        dims, curve = found[name]
        read = np.stack([curve, 0.9 * curve])  # through its own lens and the other's
        found[f"{name}_matched"] = (("history", "basis", *dims), np.stack([read, read]))
    strata = np.stack([found["kl_final_layer"][1] * scale for scale in (1.4, 1.0, 0.7)])
    dims = ("stratum", "variant", "lens", "prompt", "layer")
    found["kl_by_confidence"] = (dims, strata)
    found["kl_by_confidence_matched"] = (("history", *dims), np.stack([strata, strata]))
    found["delta_cosine_by_step"] = (("variant", "token", "layer"), rng.uniform(-1, 1, (2, 48, n_layers)))
    lengths = rng.integers(5, 49, (2, n))
    found |= {"n_tokens": (("variant", "prompt"), lengths), "stopped": (("variant", "prompt"), lengths < 48)}
    return found | {"category": (("prompt",), kinds(n, ["fact", "story", "sum", "format"]))}
