"""Made-up results of the grafts: experiments 11, 13 and 14, in which the late window does what the study says.

Late MLPs of IT raise PT's late distances and take IT's away; other windows do a tenth of it. exp14 is computed from exp11.
"""

import numpy as np
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import schemas
from nbhelpers.experiments.exp11_matched_prefix import experiment as exp11_experiment
from nbhelpers.experiments.exp11_matched_prefix import measure as exp11_measure
from nbhelpers.experiments.exp13_token_support import correlates as exp13_correlates
from nbhelpers.experiments.exp13_token_support import support as exp13_support
from nbhelpers.experiments.exp14_symmetric_causality import measure as exp14_measure
from nbhelpers.measures import graft_shifts
from nbhelpers.models import conditions
from nbhelpers.models.token_classes import CLASSES

EIGHT = [condition.name for condition in conditions.symmetric_conditions(12)]
GRAFTED = [name for name in EIGHT if "_" in name]
SWEEP = exp11_measure.swept_windows(12, exp11_experiment.Params(n_prompts=2, batch_size=2))
COORDS = {
    "exp11": {
        "teacher": ["it", "pt"],
        "basis": ["host", "pt"],
        "condition": [condition.name for condition in exp11_measure.main_conditions(12)],
        "side": ["sufficiency", "necessity"],
        "sweep": list(SWEEP),
        "rule": ["kl_layer_final_0.05", "kl_layer_final_0.1", "top1"],
        "axis": list(graft_shifts.AXES),
    },
    "exp13": {
        "condition": GRAFTED,
        "displaced": list(CLASSES),
        "supported": list(CLASSES),
        "role": list(exp13_support.ROLES),
        "part": list(exp13_support.PARTS),
        "reader": EIGHT,
        "axis": list(graft_shifts.AXES),
        "measured": [*exp11_measure.PROJECTED, exp13_correlates.POOLED],
        "scale": ["cosine", "projection"],
        "kind": list(exp13_correlates.KINDS),
        "given": list(exp13_correlates.GIVEN),
        "feature": list(exp13_correlates.FEATURES),
    },
}  # fmt: skip
DIVERGENCES = ("kl_", "js_", "entropy", "commitment")


def effect(condition) -> float:
    """Return what a graft does to its host: most if late and by the donor, towards IT in PT and away from it in IT."""
    if not condition.layers or condition.control == "self":
        return 0.0
    size = 1.0 if condition.window == "late" else 0.1
    return size * (0.5 if condition.control == "scrambled" else 1.0) * (1 if condition.host == "pt" else -1)


def exp11(rng, lift, coords):
    """Return read-outs in which late grafts move every divergence, by `lift` nats, and nothing moves under PT's replies."""
    chosen = exp11_measure.main_conditions(12)
    sizes = {dim: len(values) for dim, values in coords.items() if dim != "depth"}
    moved = xr.DataArray([effect(c) * lift for c in chosen], dims="condition")
    on = xr.DataArray([1.0, 0.1], dims="teacher")
    found = {}
    for name, dims in ((n, v.dims) for n, v in experiments.variables("exp11").items()):
        shape = [sizes[dim] for dim in dims]
        base = xr.DataArray(rng.uniform(0.5, 0.7, shape), dims=dims)
        if "condition" in dims:
            base = base + (moved * on if name.startswith(DIVERGENCES) else -0.1 * moved * on)
        found[name] = (dims, base.transpose(*dims).values)
    dims, lengths = found["n_tokens"]
    found["n_tokens"] = (dims, 40 * lengths)  # replies in which every condition misses a token
    swept = np.array([0.1 * lift * (1 + span.start) for span in SWEEP.values()])
    sides = np.array([1.0, -1.0])
    for name in exp11_measure.SWEPT:
        dims, values = found[f"sweep_{name}"]
        by_window = sides[:, None] * swept if len(dims) == 3 else sides[:, None, None] * swept[:, None]
        found[f"sweep_{name}"] = (dims, values - 0.6 + by_window[..., None])
    found["sweep_first"] = ("sweep", np.array([span.start for span in SWEEP.values()]))
    found["sweep_width"] = ("sweep", np.array([len(span) for span in SWEEP.values()]))
    n = sizes["prompt"]
    found["category"] = ("prompt", np.array([["fact", "story"][i % 2] for i in range(n)]))
    found["message"] = ("prompt", np.array([f"Who lives in house {i}?" for i in range(n)]))
    for name in ("host", "prompt_format", "baseline", "window", "control"):
        coords[name] = ("condition", [getattr(c, name) for c in chosen])
    coords["first_layer"] = ("condition", [min(c.layers, default=-1) for c in chosen])
    coords["last_layer"] = ("condition", [max(c.layers, default=-1) for c in chosen])
    coords["component"] = ["block", "attention", "mlp"]
    return found


def exp13(rng, lift, coords):
    """Return classes of which content gains and function words lose, gains above zero, and small correlations."""
    sizes = {dim: len(values) for dim, values in coords.items() if dim != "depth"}
    found = {
        name: (dims, rng.uniform(0.05, 0.15, [sizes[dim] for dim in dims]))
        for name, dims in ((n, v.dims) for n, v in experiments.variables("exp13").items())
    }
    share = xr.DataArray(
        found["share"][1],
        dims=found["share"][0],
        coords={"role": coords["role"], "token_class": coords["token_class"]},
    )
    share.loc[{"role": "change"}] = 0.0
    share.loc[{"role": "change", "token_class": "content"}] = 0.1 * lift
    share.loc[{"role": "change", "token_class": "function"}] = -0.1 * lift
    found["share"] = (share.dims, share.values)
    for name, reach in (("share", 0.02), ("r", 0.05)):
        dims, values = found[name]
        found |= {f"{name}_low": (dims, values - reach), f"{name}_high": (dims, values + reach)}
    for name in ("replaced", "n_steps"):
        found[name] = (found[name][0], rng.integers(1, 6, found[name][1].shape))
    return found | {"cells_per_step": ((), 3)}


def exp14(rng, lift, coords):
    """Return what `exp14`'s `summarise` makes of a made-up exp11."""
    n = len(coords["prompt"])
    about = {dim: values for dim, values in COORDS["exp11"].items()}
    about |= {
        "prompt": coords["prompt"],
        "layer": np.arange(12),
        "lens": ["raw", "tuned"],
        "component": ["block", "attention", "mlp"],
    }
    grafted = xr.Dataset(exp11(rng, lift, about), about, {"n_layers": 12})
    found = exp14_measure.summarise(grafted, schemas.ExperimentParams(n_resamples=200))
    # Through the raw lens the answer is a little less sure, so that a reader who chooses it sees another chart.
    found["strongest"] = found.strongest * xr.DataArray([0.9, 1.0], {"lens": ["raw", "tuned"]})
    coords.clear()
    coords |= {name: values for name, values in found.coords.items()}
    assert found.sizes["prompt"] == n
    return dict(found.data_vars)
