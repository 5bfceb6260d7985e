"""The quantities of exp07_0a, from one pair's dataset. Windows are `depths.windows`: early, mid and late."""

import json

import numpy as np
import xarray as xr

from nbhelpers.core import depths, dose_stats, stats
from nbhelpers.report.quantities import Quantities, levels, shifts

FACTORS = ("weights", "history", "template", "interaction")
RANDOM, RANKED = ("random_1", "random_2", "random_3"), ("top", "middle", "bottom")
STUDIED = ("top", "random_1", "bottom")  # the study's three calibration sets
THIRDS = (("top", "bottom"), ("top", "random_1"), ("random_1", "bottom"))
PASS = 0.9  # the study's criterion for the cosine of matched tokens
SELECTED = "the study's prompts were chosen by a judge, and its set overlaps the others"
OTHER_SIZES = "pairs have other numbers of prompts; the size curve stands on the page"
NO_REPLIES = (
    "replies are forced, not written, under each set's direction; KL on the same replies stands instead"
)
UNMEASURED = {
    **{f"bootstrap_cosine.{n}": OTHER_SIZES for n in ("n300", "n100")},
    **{f"set_{o}.{s}": NO_REPLIES for o in ("structure", "format", "alignment", "arithmetic")
       for s in ("top", "random", "bottom")},
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp07_0a's quantities: stability (0A), composition (0B) and calibration (0H) of the direction."""
    return stability(result) | composition(result) | calibration(result)


def windows(result: xr.Dataset) -> dict[str, list[int]]:
    """Return {window: its layers} of a result."""
    return {name: list(layers) for name, layers in depths.windows(int(result.attrs["n_layers"])).items()}


def stability(result: xr.Dataset) -> Quantities:
    """Return 0A: cosines of disjoint halves, of exchanged labels, of the study's resamples, and of prompt formats.

    `split_half.<window>`: mean over random halves and layers, with the middle 95 % of the halves; its centre is the chance
    level, the 95th percentile under exchanged labels. `inflation.<window>`: the study's nested subsets less disjoint halves.
    """
    found, notes = {}, "the middle 95 % of random halves, not an interval over prompts"
    pairwise = {"least": float(result["pairwise"].min())}
    for name, layers in windows(result).items():
        halves, chance = (result[v].sel(layer=layers).mean("layer").values for v in ("split_half", "chance"))
        limit = float(np.quantile(chance, 0.95))
        ends = stats.Interval(float(halves.mean()), *map(float, np.quantile(halves, [0.025, 0.975])))
        found |= levels({f"split_half.{name}": ends}, "cosine", notes, centre=limit)
        found |= levels({f"chance.{name}": limit}, "cosine")
        pairwise[name] = float(result["pairwise"].sel(layer=layers).mean())
        at = {"layer": layers, "size": int(result["size"].max())}
        nested, disjoint = (float(result[v].sel(at).mean()) for v in ("nested", "disjoint"))
        found |= shifts({f"inflation.{name}": nested - disjoint}, "cosine")
    return found | levels({f"pairwise_cosine.{name}": v for name, v in pairwise.items()}, "cosine")


def interval(values: xr.DataArray) -> stats.Interval:
    """Return a value with its interval from the dimension `end`."""
    return stats.Interval(*(float(values.sel(end=end)) for end in ("mean", "low", "high")))


def composition(result: xr.Dataset) -> Quantities:
    """Return 0B: `share.<factor>`, `norm.<part>`, and `cosine.<part>` with the direction, by window, with intervals.

    `cosine_raw.<part>` is with the direction of raw prompts, which the study's is. `.least` and `.most` are over layers.
    """
    found = {}
    for name in windows(result):
        at = result.sel(place=name)
        share = {f"share.{p}.{name}": interval(at["share"].sel(part=p)) for p in FACTORS}
        found |= levels(share, "1", centre=0.0)
        found |= levels(
            {f"norm.{p}.{name}": interval(at["norm"].sel(part=p)) for p in ("mean", *FACTORS)}, "1"
        )
        for against, start in {"mean": "cosine", "mean_raw": "cosine_raw"}.items():
            cosine = at["cosine"].sel(against=against)
            for part in result["part"].values:
                centre = PASS if part == "matched" else 0.0
                found |= levels(
                    {f"{start}.{part}.{name}": interval(cosine.sel(part=part))}, "cosine", "", centre
                )
        between = interval(at["cosine"].sel(part="weights", against="history"))
        found |= levels({f"cosine_between.weights.history.{name}": between}, "cosine", centre=0.0)
    layers = [str(layer) for layer in range(int(result.attrs["n_layers"]))]
    for part in ("matched", "reversed_as_run", "reversed"):
        raw = result["cosine"].sel(part=part, against="mean_raw", end="mean", place=layers)
        ends = {f"cosine_raw.{part}.least": float(raw.min()), f"cosine_raw.{part}.most": float(raw.max())}
        found |= levels(ends, "cosine", "over all layers of this model", 0.0)
    return found


def bound(result: xr.Dataset) -> float:
    """Return the share of the whole direction's effect within which two directions do the same."""
    return float(json.loads(result.attrs.get("parameters", "{}")).get("bound", 0.25))


def calibration(result: xr.Dataset) -> Quantities:
    """Return 0H: cosines of disjoint calibration sets in the late window, and what removing each direction does.

    `removal.<set>`: KL(unedited ‖ edited) per token, late window. `removal_gap.<set>`: less that of the direction of all
    prompts. `equivalence.<set>`: p of two one-sided tests against `bound` times the effect of all; `sets_alike`: how many
    of the study's three sets (top, random, bottom) pass at 0.05. `detectable.<set>`: the smallest gap that these prompts
    show with 80 % power. `removal_gap.sets`: the top third's effect less the bottom third's, as a share of the whole
    direction's mean. `third_gap.<a>_less_<b>`, with its `equivalence` and `detectable`: thirds of as many prompts held
    against each other, which the whole direction, of three times as many, is not.
    """
    cosine = result["set_cosine"].sel(layer=windows(result)["late"]).mean("layer")
    pairs = [(a, b) for i, a in enumerate(RANDOM) for b in RANDOM[i + 1 :]]
    random = float(np.mean([cosine.sel(from_set=a, other_set=b) for a, b in pairs]))
    ranked = float(cosine.sel(from_set="top", other_set="bottom"))
    found = levels({"set_cosine.random": random, "set_cosine.top_bottom": ranked}, "cosine")
    found |= shifts({"set_cosine_gap": ranked - random}, "cosine")
    kl, alike = result["removal_kl"].astype(float), 0
    whole = kl.sel(set="all", drop=True)
    limit = bound(result) * float(whole.mean())
    for name in result["set"].values:
        one = kl.sel(set=name, drop=True)
        found |= levels({f"removal.{name}": one}, "nats")
        found |= levels({f"removal_dose.{name}": result["removal_dose"].sel(set=name, drop=True)}, "1")
        if name != "all":
            p = dose_stats.equivalence((one - whole).values, limit)
            alike += name in STUDIED and p < 0.05
            found |= shifts({f"removal_gap.{name}": one - whole}, "nats")
            found |= levels({f"equivalence.{name}": p}, "1")
            found |= levels({f"detectable.{name}": dose_stats.detectable((one - whole).values)}, "nats")
    found |= shifts({"removal_gap.sets": gap(kl) / float(whole.mean())}, "1")
    for a, b in THIRDS:
        moved, name = kl.sel(set=a, drop=True) - kl.sel(set=b, drop=True), f"{a}_less_{b}"
        found |= shifts({f"third_gap.{name}": moved}, "nats")
        found |= levels({f"equivalence.{name}": dose_stats.equivalence(moved.values, limit)}, "1")
        found |= levels({f"detectable.{name}": dose_stats.detectable(moved.values)}, "nats")
    return found | levels({"sets_alike": float(alike)}, "sets", SELECTED)


def gap(kl: xr.DataArray) -> xr.DataArray:
    """Return, by prompt, the effect of the top third's direction less that of the bottom third's, nats."""
    return kl.sel(set="top", drop=True) - kl.sel(set="bottom", drop=True)


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "split_half.*": ("stability", stability),
    "chance.*": ("stability", stability),
    "inflation.*": ("sizes", stability),
    "pairwise_cosine.*": ("stability", stability),
    "share.*": ("main_figure", composition),
    "norm.*": ("composition", composition),
    "cosine*": ("composition", composition),
    "set_cosine*": ("sets", calibration),
    "third_gap.*": ("removal", calibration),
    "removal*": ("removal", calibration),
    "equivalence.*": ("removal", calibration),
    "detectable.*": ("removal", calibration),
    "sets_alike": ("removal", calibration),
}
