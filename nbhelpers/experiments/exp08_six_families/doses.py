"""Dose response from the dataset of the steering runs: changes from dose 1 by outcome, trends by branch, random band."""

import numpy as np
import xarray as xr

from nbhelpers.core import dose_stats, stats
from nbhelpers.core.resampling import bca_of_sums
from nbhelpers.experiments.exp08_six_families.experiment import OUTCOMES
from nbhelpers.measures.arms import SteeringError

REMOVED = 0.0
RIGHT = ("content", "choice", "arithmetic")  # metrics that say whether a reply is right, at most one a prompt


def outcomes(steered: xr.Dataset) -> xr.DataArray:
    """Return the outcomes of every arm, (outcome, arm, prompt): `experiment.OUTCOMES` that the dataset has, NaN elsewhere.

    "kl" is KL(unedited ‖ edited) on IT's unedited reply.
    """
    score = steered["score"].astype(float)
    found = {name: score.sel(metric=name, drop=True) for name in OUTCOMES if name in score.metric}
    found["right"] = right(score)
    found["kl"] = steered["forced_kl_unedited"].astype(float)
    missing = found["kl"] * np.nan
    parts = [found.get(name, missing).drop_vars("arm", errors="ignore") for name in OUTCOMES]
    names = xr.IndexVariable("outcome", list(OUTCOMES))
    return xr.concat(parts, names, coords="minimal", compat="override").transpose("outcome", "arm", "prompt")


def right(score: xr.DataArray) -> xr.DataArray:
    """Return whether replies are right in what they say, (arm, prompt): the first of `RIGHT` that the prompt supports."""
    first, *others = (score.sel(metric=name, drop=True) for name in RIGHT if name in score.metric)
    for other in others:
        first = first.fillna(other)
    return first


def of_group(values: xr.DataArray, steered: xr.Dataset, group: str) -> xr.DataArray:
    """Return the arms of a group in the order of their doses, (outcome, dose, prompt) if each has its own dose."""
    at = np.flatnonzero(steered["group"].values == group)
    at = at[np.argsort(steered["dose"].values[at], kind="stable")]
    dose = steered["dose"].values[at].astype(float)
    return values.isel(arm=at).assign_coords(dose=("arm", dose)).swap_dims(arm="dose")


def changes(score: xr.DataArray) -> xr.DataArray:
    """Return each prompt's change from dose 1, (outcome, dose, prompt)."""
    return score - score.sel(dose=1.0, drop=True)


def tests(change: xr.DataArray, **draws) -> xr.Dataset:
    """Return `d_z`, `p_holm`, `lost` and `gained` of changes (outcome, dose, prompt); all (outcome, dose).

    d_z is 0 where no prompt moves. p: sign flips by prompt, with Holm's correction over all outcomes and all doses but 1.
    """
    values = change.transpose("prompt", "outcome", "dose").values
    p = stats.sign_flip(values.reshape(len(values), -1), **draws).reshape(values.shape[1:])
    p[:, change["dose"].values == 1.0] = np.nan
    d_z = np.array([[dose_stats.cohen_dz(values[:, o, d]) for d in range(p.shape[1])] for o in range(len(p))])
    d_z[np.nanmax(np.abs(values), axis=0, initial=0) == 0] = 0.0
    d_z[np.isnan(values).all(0)] = np.nan
    found = {
        "d_z": d_z, "p_holm": stats.holm(p.ravel()).reshape(p.shape),
        "lost": (values < 0).sum(0), "gained": (values > 0).sum(0),
    }  # fmt: skip
    dims = ("outcome", "dose")
    return xr.Dataset({name: (dims, v) for name, v in found.items()}, {dim: change[dim] for dim in dims})


def trends(score: xr.DataArray) -> xr.Dataset:
    """Return `rho`, `rho_p` and `page_p` of scores (outcome, dose, prompt) below and above dose 1, (outcome, branch).

    rho: Spearman's, of the mean score with the dose. page_p: of a rise towards dose 1, prompt by prompt. One correlation
    over both branches would mix a rise with a fall.
    """
    doses, shape = score["dose"].values, (score.sizes["outcome"], 2)
    rho, rho_p, page = (np.full(shape, np.nan) for _ in range(3))
    sides = {"below": doses <= 1, "above": doses >= 1}
    for o in range(shape[0]):
        one = score.isel(outcome=o).transpose("prompt", "dose").dropna("prompt").values
        found = dose_stats.spearman_branches(doses, one.mean(0)) if len(one) else {}
        for b, (side, chosen) in enumerate(sides.items()):
            if not found:
                continue
            rho[o, b], rho_p[o, b], _ = found[side]
            if chosen.sum() > 2 and len(one) > 1:
                page[o, b] = dose_stats.page_trend(one[:, chosen], rises=side == "below").p
    dims = ("outcome", "branch")
    named = {"rho": rho, "rho_p": rho_p, "page_p": page}
    coords = {"outcome": score["outcome"], "branch": list(sides)}
    return xr.Dataset({name: (dims, values) for name, values in named.items()}, coords)


def band(values: xr.DataArray, steered: xr.Dataset, removed: xr.DataArray) -> xr.Dataset:
    """Return `band_low`, `band_high` and `band_p` of the removal among matched random directions at dose 0, (outcome).

    values: (outcome, arm, prompt) of all arms; removed: changes at dose 0 (outcome, prompt). p is two-sided.
    """
    matched = (steered["group"].values == "matched") & (steered["dose"].values == REMOVED)
    plain = of_group(values, steered, "dose").sel(dose=1.0, drop=True)
    null = (values.isel(arm=np.flatnonzero(matched)) - plain).mean("prompt")
    mean = removed.mean("prompt")
    p = [dose_stats.rank_p(float(m), n, two_sided=True) for m, n in zip(mean.values, null.values)]
    found = {"band_low": null.min("arm").values, "band_high": null.max("arm").values, "band_p": p}
    return xr.Dataset({name: ("outcome", np.asarray(v, float)) for name, v in found.items()})


def selectivity(change: xr.DataArray, confidence: float, **draws) -> xr.Dataset:
    """Return how much more form is lost than right content at each dose, and its BCa interval over prompts, (dose).

    selectivity = mean(change of right content) − mean(change of right forms), over the prompts of which each is known
    Prompts are resampled whole, since those that ask for a form may have both. NaN if a mean has fewer than two prompts.
    """
    content = change.sel(outcome="right", drop=True)
    both = [values.transpose("dose", "prompt").values for values in (content, change.sel(outcome="format"))]
    ends = [_more_lost(*pair, confidence=confidence, **draws) for pair in zip(*both)]
    names = ("selectivity", "selectivity_low", "selectivity_high")
    return xr.Dataset({name: ("dose", np.array(end)) for name, end in zip(names, zip(*ends))})


def _more_lost(content: np.ndarray, form: np.ndarray, **options) -> tuple[float, float, float]:
    """Return mean(content) − mean(form) over the prompts [prompt] of which each is known, and its interval."""
    known = [~np.isnan(values) for values in (content, form)]
    if min(each.sum() for each in known) < 2:
        return (np.nan,) * 3
    sums = np.stack([np.nan_to_num(content), known[0], np.nan_to_num(form), known[1]], axis=1).astype(float)

    def difference(total):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total[:, 0] / total[:, 1] - total[:, 2] / total[:, 3])[:, None]

    return tuple(float(end[0]) for end in bca_of_sums(sums[known[0] | known[1]], difference, **options))


def response(
    steered: xr.Dataset, *, confidence: float, seed: int = 0, n_resamples: int = 10_000
) -> xr.Dataset:
    """Return the dose response of one pair: `score`, its tests, trends, random band, detectable size and selectivity.

    steered: the dataset of the steering runs. confidence: of the selectivity's interval. SteeringError if it lacks the
    doses 0 and 1 of the direction.
    """
    values = outcomes(steered)
    score = of_group(values, steered, "dose")
    if not {0.0, 1.0} <= set(score["dose"].values.tolist()):
        raise SteeringError(
            "The steering runs lack dose 0 or dose 1 of the late direction: measure them again."
        )
    change = changes(score)
    removed = change.sel(dose=REMOVED, drop=True)
    smallest = [dose_stats.detectable(one) for one in removed.values]
    parts = [
        score.astype(np.float32).to_dataset(name="score"),
        tests(change, n_resamples=n_resamples, seed=seed),
        trends(score),
        band(values, steered, removed),
        selectivity(change, confidence, n_resamples=n_resamples, seed=seed),
    ]
    found = xr.merge(parts, compat="override", join="outer").assign(
        detectable=("outcome", np.array(smallest))
    )
    incoherent = score.sel(outcome="incoherent", drop=True).mean("prompt")
    return found.assign(incoherent=incoherent).drop_vars(
        set(found.coords) - {"outcome", "dose", "branch", "prompt"}
    )
