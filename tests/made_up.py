"""Made-up variables of every experiment: shapes from the schema, values of a known direction.

Where a variable has PT and IT, IT lies above or below PT by `TOWARDS` times the family's lift; nothing else about the
values is meant to be realistic. exp09, which tests look at more closely, has a module of its own.
"""

import numpy as np

from nbhelpers import experiments
from nbhelpers.core import depths
from nbhelpers.models.token_classes import CLASSES
from tests import made_up_grafts

RULES = (
    "top1_first", "top1_strict", "top1_stable3", "kl_first_0.1",
    *(f"kl_stays_{threshold}" for threshold in (0.05, 0.1, 0.2, 0.5, 1.0)),
    "majority_0.1", "majority_below_0.1", "kl_qualified_0.5_3x", "entropy_0.2", "cosine_0.95",
)  # fmt: skip
PROFILES = (
    "dimension, PT", "dimension, IT", "1 − CKA to the layer before, PT", "1 − CKA to the layer before, IT",
    "1 − cosine, PT", "1 − cosine, IT", "dimension, IT − PT", "|attention entropy, IT − PT|",
)  # fmt: skip
ONSET_RULES = [f"{sigma} σ" for sigma in (0.5, 0.75, 1, 1.5, 2)] + [
    f"drop {d}" for d in (0.02, 0.05, 0.1, 0.15)
]
CONDITIONS = ["PT", "IT", "IT without template"]
WORDS = (
    "the baker of Arden sells bread and the ferry leaves at nine so the children wait by the river".split()
)
COORDS = {
    "variant": ["pt", "it"],
    "lens": ["raw", "tuned"],
    "component": ["block", "attention", "mlp"],
    "history": ["pt", "it"],
    "basis": ["own", "other"],
    "stratum": ["low", "medium", "high"],
    "direction": ["final_layer", "layer_final"],
    "estimator": ["two_nn", "mle"],
    "template": ["raw", "chat"],
    "group": ["attention", "mlp", "router", "norm"],
    "selection": ["attribution", "random", "impact"],
    "quantity": ["attribution", "target efficiency"],
    "statistic": ["slope", "intercept", "pearson", "spearman"],
    "condition": CONDITIONS,
    "part": ["first third", "second third", "last third"],
    "measure": ["delta_cosine", "update_norm", "entropy", "kl_final_layer"],
    "token_class": list(CLASSES),
    "agreement_of": ["same token", "another token"],
    "k": [10, 20, 50],
    "profile": list(PROFILES),
    "check": [1, 20, 40],
    "token": list(range(48)),
}
RULES_OF = {"exp03": ["kl_continuous", "kl_stays"], "exp07_0j": ONSET_RULES, "exp09": list(RULES)}
SIZES = {
    "neuron": 8,
    "neighbour": 3,
    "axis": 4,
    "outside": 3,
    "head": 2,
    "cloud_prompt": 20,
    "text": 20,
    "sample": 30,
    "step": 40,
}
UNITS = {"kl": "nats", "entropy": "nats", "convergence": "nats", "commitment": "layer", "n_tokens": "tokens"}
RANGES = {
    "kl": (0.5, 1.5), "entropy": (0.5, 1.0), "dimension": (5.0, 6.0), "commitment": (5.0, 7.0), "support": (20, 30),
    "update_n": (100, 200), "neuron_n90": (5, 6), "sample_n90": (100, 300), "token_id": (0, 900), "token_class": (0, 7),
    "top1": (0, 3), "sample_layer": (0, 12), "target_rank": (1, 30), "n50": (10, 20), "n90": (30, 60),
    "delta_cosine": (0.1, 0.3), "adjacent": (0.1, 0.3), "lowest_layer": (3, 5), "chosen_step": (20, 40),
    "visible_keys": (20, 40), "neighbour_index": (0, 20), "steps_by": (20, 900), "top1_probability": (0.6, 0.9),
    "top1_agreement": (0.3, 0.9), "adjacent_change": (0.05, 0.1), "participation_ratio": (3, 4), "effective_rank": (6, 8),
}  # fmt: skip
TOWARDS = {
    "phase_kl_adjacent": 0.8, "late_mind_change": 1.0, "commitment_by_confidence": 1.5, "entropy": -0.3, "dimension": 1.5,
    "attention_normalised": -0.5, "kl_by_agreement": 0.8, "top1_probability": 0.1, "delta_cosine": -0.2, "gini": -0.1,
}  # fmt: skip
WHOLE = {
    "token_id", "token_class", "top1", "sample_layer", "target_rank", "n50", "n90", "lowest_layer", "chosen_step",
    "visible_keys", "neighbour_index", "steps_by_confidence", "update_n90", "update_n50", "sample_n90",
}  # fmt: skip


def limits(name):
    """Return the range of a variable: that of the longest beginning of its name, or 0 to 1."""
    starts = [start for start in RANGES if name.startswith(start)]
    return RANGES[max(starts, key=len)] if starts else (0.0, 1.0)


def dims_of(key):
    """Return the dimensions of every variable that an experiment declares."""
    return {name: variable.dims for name, variable in experiments.variables(key).items()}


def coordinates(key, n_prompts, n_layers):
    """Return the coordinates of an experiment, without sizes that have none."""
    dims = {dim for dims in dims_of(key).values() for dim in dims}
    of = COORDS | made_up_grafts.COORDS.get(key, {})
    named = {dim: values for dim, values in of.items() if dim in dims}
    if "rule" in dims and key in RULES_OF:
        named["rule"] = RULES_OF[key]
    if "phase" in dims:
        named["phase"] = list(depths.phases(n_layers))
    if "prompt" in dims:
        named["prompt"] = [f"held-{i:03d}" for i in range(n_prompts)]
    if "cloud_prompt" in dims:
        named["cloud_prompt"] = [f"held-{i:03d}" for i in range(SIZES["cloud_prompt"])]
    if "layer" in dims:
        named |= {"layer": np.arange(n_layers), "depth": ("layer", depths.depth(n_layers))}
    return named


def filled(key, rng, lift, coords):
    """Return every variable that an experiment's schema promises, drawn evenly, IT moved by `TOWARDS`."""
    sizes, found = SIZES | {dim: len(values) for dim, values in coords.items()}, {}
    for name, dims in dims_of(key).items():
        low, high = limits(name)
        values = rng.uniform(low, high, [sizes.get(dim, 3) for dim in dims])
        if name in TOWARDS and {"variant", "condition"} & set(dims):
            axis = dims.index("variant" if "variant" in dims else "condition")
            moved = np.array([0, *[1] * (values.shape[axis] - 1)]) * TOWARDS[name] * lift
            values = values + moved.reshape([-1 if i == axis else 1 for i in range(len(dims))])
        found[name] = (dims, np.floor(values).astype("int64") if name in WHOLE else values)
    return found


def around(variables, name, reach):
    """Return the ends of an interval around a variable."""
    dims, values = variables[name]
    return {f"{name}_low": (dims, values - reach), f"{name}_high": (dims, values + reach)}


def texts(rng, *shape):
    """Return made-up texts."""
    return np.array([" ".join(rng.choice(WORDS, 6)) for _ in range(int(np.prod(shape)))]).reshape(shape)


def kinds(n_prompts, names):
    """Return a kind for each prompt, in turn."""
    return np.array([names[i % len(names)] for i in range(n_prompts)])


def falling(n_layers, reach=1.0):
    """Return a factor by layer that falls from `reach` to 0 at the last layer."""
    return reach * (1 - np.arange(1, n_layers + 1) / n_layers)


def exp00(rng, lift, coords):
    """Return steps of both texts, PT's the longer, IT's end point the sharper."""
    n, lengths = len(coords["prompt"]), rng.integers((6, 2), (10, 5), (len(coords["prompt"]), 2)).T
    rows = [(p, t, v) for v, of in zip(("pt", "it"), lengths) for p, m in enumerate(of) for t in range(m)]
    index, token, history = map(np.array, zip(*rows))
    coords |= {"prompt_index": ("step", index), "token": ("step", token), "history": ("step", history)}
    found = filled("exp00", rng, lift, coords | {"step": rows})
    for name, values in (("text", texts(rng, 2, n)), ("n_tokens", lengths), ("stopped", lengths < 9)):
        found[name] = (("variant", "prompt"), values)
    found |= {"category": ("prompt", kinds(n, ["fact", "story"])), "message": ("prompt", texts(rng, n))}
    return found | {"global_layer": ("layer", np.ones(len(coords["layer"]), bool))}


def exp01(rng, lift, coords):
    """Return breadths of which the support falls with depth, the updates grow, and r is above zero."""
    found, n_layers = filled("exp01", rng, lift, coords), len(coords["layer"])
    dims, support = found["support"]
    found["support"] = (dims, support * (1 + falling(n_layers, 4.0)))
    dims, breadth = found["update_n90"]
    found["update_n90"] = (dims, breadth + 20 * np.arange(n_layers)[:, None])
    dims, neurons = found["neuron_n90"]
    found["neuron_n90"] = (dims, np.where(rng.random(neurons.shape) < 0.05, np.nan, neurons))
    for name, level in (("fit", 0.5), ("fit_shift", 0.1)):
        found[name] = (found[name][0], level + 0.1 * found[name][1])
        found |= around(found, name, 0.1)
    n = len(coords["prompt"])
    return found | {"group": ("prompt", kinds(n, ["fact", "riddle"])), "target": ("prompt", texts(rng, n))}


def exp02(rng, lift, coords):
    """Return three conditions: kinds differ in δ-cosine, the opposition needs no template, which strengthens it late."""
    found, n = filled("exp02", rng, lift, coords), len(coords["prompt"])
    found["template_shift"] = (("prompt", "layer"), rng.uniform(-0.2, -0.1, (n, len(coords["layer"]))))
    p = np.tile([0.001, 0.3, 0.2, 0.4], (len(CONDITIONS), 1))
    found["p_layers"] = (("condition", "measure"), p)
    found |= {
        "category": ("prompt", kinds(n, ["IC", "OOC", "R"])),
        "form": ("prompt", kinds(n, ["stub", "question"])),
    }
    return found | {"text": (("condition", "prompt"), texts(rng, len(CONDITIONS), n))}


def exp03(rng, lift, coords):
    """Return revisions larger and commitments later in IT, on every history."""
    found = filled("exp03", rng, lift, coords)
    dims, curve = found["kl_adjacent"]
    found["kl_adjacent"] = (dims, np.where(np.arange(len(coords["layer"])) == 0, np.nan, curve))
    return found


def exp04(rng, lift, coords):
    """Return clouds of which IT's has the higher dimension, and p-values of a tenth at the least."""
    found = filled("exp04", rng, lift, coords)
    found |= around(found, "dimension", 0.4)
    found["p_window"] = (("profile",), rng.integers(2, 11, len(PROFILES)) / 10)
    for name in ("global_statistic", "p_global"):
        found[name] = (("profile",), np.full(len(PROFILES), np.nan))
    return found


def exp07_0g(rng, lift, coords):
    """Return lenses of which the tuned ones halve the divergence and pass the gate."""
    found, n_layers = filled("exp07_0g", rng, lift, coords), len(coords["layer"])
    for name in ("kl_final_layer", "kl_layer_final"):
        dims, values = found[name]
        found[name] = (dims, values * falling(n_layers, 4.0) * np.array([1, 0.5])[:, None, None])
    found["kl_transfer"] = (("text", "layer"), found["kl_final_layer"][1][1, 1] * 1.5)
    found["last_layer_kl"] = (("variant",), np.array([1e-6, 2e-6]))
    return found | {"gate": (("variant",), np.array([True, True]))}


def exp07_0j(rng, lift, coords):
    """Return rules that all see an onset near 0.6 of the depth and meet it from there on."""
    found, n_layers = filled("exp07_0j", rng, lift, coords), len(coords["layer"])
    onset = depths.onset(n_layers) + rng.integers(0, 2, (3, len(ONSET_RULES)))
    found["onset"] = (("component", "rule"), onset)
    found |= around(found, "onset", 1.0)
    found["found_exchanged"] = (("component", "rule"), rng.uniform(0.1, 0.3, onset.shape))
    return found | {"meets": (("component", "rule", "layer"), np.arange(n_layers) >= onset[..., None])}
