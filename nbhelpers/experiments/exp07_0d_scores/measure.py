"""exp07_0d: intervals, effect sizes and trends by dose (0D), and what the structural token ratio measures (0E).

Computed from the steering run's scores and replies alone; no model runs.
"""

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers.core import dose_stats, stats
from nbhelpers.experiments.exp07_0d_scores.experiment import (
    BRANCHES,
    CLASSES,
    COUNTED,
    DEFINITIONS,
    KINDS,
    OUTCOMES,
    STATES,
    Params,
)
from nbhelpers.measures.scoring import word_classes


def by_dose(steered: xr.Dataset) -> xr.DataArray:
    """Return the scores of the late direction's doses, (outcome, dose, prompt), doses in order."""
    arms = np.flatnonzero((steered["group"] == "dose").values)
    arms = arms[np.argsort(steered["dose"].values[arms])]
    found = steered["score"].isel(arm=arms).sel(metric=list(OUTCOMES)).reset_coords(drop=True)
    found = found.rename(metric="outcome", arm="dose").assign_coords(
        dose=steered["dose"].values[arms].astype(float)
    )
    return found.transpose("outcome", "dose", "prompt").astype(float)


def half_widths(score: xr.DataArray, options: Params) -> xr.DataArray:
    """Return half of each mean's BCa interval with each prompt once, and with every row doubled, (outcome, dose, counted).

    The study's rows held most prompts twice: copies carry no information, and shorten an interval by about √2.
    """
    values = score.transpose("prompt", ...).values
    found = np.full((*values.shape[1:], len(COUNTED)), np.nan)
    draws = {"n_resamples": options.n_resamples, "confidence": options.confidence, "seed": options.seed}
    enough = (~np.isnan(values)).sum(0) > 1
    for k, copies in enumerate((1, 2)):
        if enough.any():
            ends = stats.bca_mean(np.concatenate([values[:, enough]] * copies), **draws)
            found[enough, k] = (ends.high - ends.low) / 2
    coords = {"outcome": score["outcome"].values, "dose": score["dose"].values, "counted": list(COUNTED)}
    return xr.DataArray(found, dims=("outcome", "dose", "counted"), coords=coords)


def pooled_d(a: np.ndarray, b: np.ndarray) -> float:
    """Return Cohen's d of two independent samples, (mean a − mean b) / √((s_a² + s_b²) / 2); NaN without spread."""
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if min(len(a), len(b)) < 2:
        return np.nan
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return float((a.mean() - b.mean()) / spread) if spread > 0 else np.nan


def effect_sizes(score: xr.DataArray) -> dict[str, np.ndarray]:
    """Return d_z of paired differences from dose 1 and the study's pooled d, {name: [outcome, dose]}."""
    base = score.sel(dose=1.0).values
    paired, pooled = (np.full(score.shape[:2], np.nan) for _ in range(2))
    for o, k in np.ndindex(paired.shape):
        paired[o, k] = dose_stats.cohen_dz(score.values[o, k] - base[o])
        pooled[o, k] = pooled_d(score.values[o, k], base[o])
    return {"d_paired": paired, "d_pooled": pooled}


def branch_doses(doses: np.ndarray) -> dict[str, np.ndarray]:
    """Return {branch: which doses it has}: all, those up to the identity, those from it on."""
    return {"whole": doses == doses, "below": doses <= 1, "above": doses >= 1}


def resamples(n: int, options: Params) -> np.ndarray:
    """Return how often each prompt counts, [1 + resample, prompt]; the first row counts each once."""
    drawn = np.random.default_rng(options.seed).multinomial(n, np.full(n, 1 / n), options.n_boot)
    return np.concatenate([np.ones((1, n)), drawn])


def weighted_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return means over measured prompts, [resample, …, condition], of values [prompt, …] counted as often as `counts`
    says.
    """
    known = ~np.isnan(values)
    flat = np.where(known, values, 0.0).reshape(len(values), -1)
    weight = counts @ known.reshape(len(values), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts @ flat / weight).reshape(len(counts), *values.shape[1:])


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the rank correlation along the last axis, [resample]; NaN where one side does not vary."""
    ranks = [scipy_stats.rankdata(each, axis=-1) for each in (a, b)]
    x, y = (each - each.mean(-1, keepdims=True) for each in ranks)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    rho = np.divide((x * y).sum(-1), scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return np.where(np.isnan(a).any(-1) | np.isnan(b).any(-1), np.nan, rho)


def ends_of(drawn: np.ndarray, confidence: float) -> list[float]:
    """Return the first of values [1 + resample] and the ends of the central interval of the others; NaN if few vary."""
    boot = drawn[1:][~np.isnan(drawn[1:])]
    if np.isnan(drawn[0]) or len(boot) < len(drawn) / 2:
        return [float(drawn[0]), np.nan, np.nan]
    return [float(drawn[0]), *map(float, np.quantile(boot, [(1 - confidence) / 2, (1 + confidence) / 2]))]


def trends(score: xr.DataArray, options: Params) -> xr.Dataset:
    """Return `rho` (outcome, branch, end), the rank correlation of mean score and dose, and `page_p` (outcome, branch).

    The interval of ρ is that of resampled prompts. A curve with its top at dose 1 has no single trend: over the whole range
    ρ says little, whatever its p.
    """
    doses, values = score["dose"].values, score.transpose("prompt", "outcome", "dose").values
    drawn = weighted_means(values, resamples(len(values), options))
    rho = np.full((score.sizes["outcome"], len(BRANCHES), 3), np.nan)
    page = np.full(rho.shape[:2], np.nan)
    for o in range(len(rho)):
        for b, chosen in enumerate(branch_doses(doses).values()):
            if chosen.sum() < 3:
                continue
            means = drawn[:, o][:, chosen]
            rho[o, b] = ends_of(
                spearman(means, np.broadcast_to(doses[chosen], means.shape)), options.confidence
            )
            p = [dose_stats.page_trend(values[:, o][:, chosen], rises=up).p for up in (True, False)]
            page[o, b] = min(1.0, 2 * min(p))
    coords = {"outcome": score["outcome"].values, "branch": list(BRANCHES), "end": ["mean", "low", "high"]}
    return xr.Dataset(
        {"rho": (("outcome", "branch", "end"), rho), "page_p": (("outcome", "branch"), page)}, coords
    )


def conditions(steered: xr.Dataset) -> xr.DataArray:
    """Return scores of conditions, (metric, condition, prompt): every arm, random directions of one dose averaged."""
    group, dose, arm = (steered[name].values for name in ("group", "dose", "arm"))
    names = [f"{g}_{d:g}" if g == "matched" else str(a) for g, d, a in zip(group, dose, arm)]
    metrics = [*DEFINITIONS, "incoherent"]
    score = steered["score"].sel(metric=metrics).reset_coords(drop=True).astype(float)
    score = score.assign_coords(condition=("arm", names)).groupby("condition").mean("arm")
    return score.transpose("metric", "condition", "prompt")


def agreements(score: xr.DataArray, options: Params) -> xr.Dataset:
    """Return how alike definitions rank conditions, `rank_agreement` (definition, other, kind, end), and what they rank.

    score: of `conditions`. kind "sane": without conditions of which more than `incoherent_share` of the replies are
    incoherent; "doses": those of the late direction alone.
    """
    values = score.sel(metric=list(DEFINITIONS)).transpose("prompt", "metric", "condition").values
    drawn = weighted_means(values, resamples(len(values), options))
    incoherent = score.sel(metric="incoherent", drop=True).mean("prompt")
    of_dose = np.char.startswith(score["condition"].values.astype(str), "dose_")
    sane = (incoherent <= options.incoherent_share).values
    kept = {"every": np.ones(len(incoherent), bool), "sane": sane, "doses": of_dose}
    n = len(DEFINITIONS)
    found = np.full((n, n, len(KINDS), 3), np.nan)
    for i, j, k in np.ndindex(found.shape[:3]):
        chosen = kept[KINDS[k]]
        if chosen.sum() > 2:
            found[i, j, k] = ends_of(
                spearman(drawn[:, i][:, chosen], drawn[:, j][:, chosen]), options.confidence
            )
    return xr.Dataset(
        {
            "rank_agreement": (("definition", "other", "kind", "end"), found),
            "condition_mean": (("definition", "condition"), drawn[0]),
            "condition_incoherent": incoherent,
        },
        {
            "definition": list(DEFINITIONS), "other": list(DEFINITIONS), "kind": list(KINDS), "end": ["mean", "low", "high"],
            "condition": score["condition"].values,
        },
    )  # fmt: skip


def by_state(steered: xr.Dataset) -> xr.DataArray:
    """Return each prompt's mean score over its coherent and over its incoherent replies, (definition, state, prompt).

    Over all arms. NaN where a prompt has no such reply, or a definition does not apply.
    """
    score = steered["score"].reset_coords(drop=True).astype(float)
    lost = score.sel(metric="incoherent", drop=True)
    chosen = score.sel(metric=list(DEFINITIONS))
    parts = [chosen.where(lost == flag).mean("arm") for flag in (0.0, 1.0)]
    found = xr.concat(parts, xr.IndexVariable("state", list(STATES))).rename(metric="definition")
    return found.transpose("definition", "state", "prompt")


def class_shares(steered: xr.Dataset, doses: np.ndarray) -> xr.DataArray:
    """Return the shares of classes among the units of each reply by dose, (token_class, dose, prompt); NaN for an empty
    reply.
    """
    arms = zip(steered["arm"].values.tolist(), steered["group"].values, steered["dose"].values)
    shown = set(steered["shown_arm"].values.tolist())
    of_dose = {float(dose): arm for arm, group, dose in arms if group == "dose" and arm in shown}
    found = np.full((len(CLASSES), len(doses), steered.sizes["prompt"]), np.nan)
    for k, dose in enumerate(doses):
        texts = (
            steered["text"].sel(shown_arm=of_dose[float(dose)]).values.tolist()
            if float(dose) in of_dose
            else ()
        )
        for p, text in enumerate(texts):
            units = word_classes(str(text))
            if units:
                found[:, k, p] = [units.count(name) / len(units) for name in CLASSES]
    return xr.DataArray(found, dims=("token_class", "dose", "prompt"), coords={"token_class": list(CLASSES)})


def summarise(steered: xr.Dataset, options: Params) -> xr.Dataset:
    """Return exp07_0d's dataset from the steering run's."""
    score = by_dose(steered)
    parts = [trends(score, options), agreements(conditions(steered), options)]
    sizes = {name: (("outcome", "dose"), values) for name, values in effect_sizes(score).items()}
    found = xr.Dataset({"score": score, "half_width": half_widths(score, options)} | sizes)
    shares = class_shares(steered, score["dose"].values)
    found = xr.merge([found, *parts], compat="override", join="outer").assign(
        by_state=by_state(steered), class_share=shares
    )
    return found.assign_attrs(n_layers=steered.attrs["n_layers"])
