"""exp07_0c: what controls of the direction, of its layers and of the formula do to IT, read on the replies that IT wrote.

Requests for a form of the steering run are read again: by `steering.forced` under every arm, and answered under some.
What the steering run has measured already is taken from its dataset, so that all arms stand in one table.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp07_0c_controls.arms import PLAIN, Control
from nbhelpers.experiments.exp07_0c_controls.experiment import FORCED, OUTCOMES, Params
from nbhelpers.measures import scoring, steering
from nbhelpers.measures.arms import Vectors
from nbhelpers.models.decoder import Pair
from nbhelpers.models.prompts import Prompt

Known = Sequence[tuple[Prompt, dict]]
READ = {"kl": "kl_unedited", "nll": "nll", "agreement": "agreement", "residual_change": "residual_change"}
# Group of the steering run → what its arms control here.
TAKEN = {
    "dose": "direction", "matched": "matched", "permuted": "permuted_one", "unit": "unit_one", "single": "single",
    "early": "early", "mid": "mid",
}  # fmt: skip


def asked(steered: xr.Dataset, known: Known, n: int) -> list[tuple[Prompt, dict]]:
    """Return up to n of the steering run's requests for a form, with their records, in its order.

    known: every prompt of its file. ParameterError if the file no longer has one of them, or there is none.
    """
    by_id = {prompt.id: (prompt, record) for prompt, record in known}
    wanted = steered.prompt.values[(steered["role"] == "format").values].tolist()[:n]
    lacking = [name for name in wanted if name not in by_id]
    if lacking or not wanted:
        what = (
            f"the prompt {lacking[0]!r} is not in the file of the steering run"
            if lacking
            else "no prompt asks for a form"
        )
        raise ParameterError(f"{what}; name a prompt file with the requests that were steered.")
    return [by_id[name] for name in wanted]


def alignment(score: xr.DataArray) -> xr.DataArray:
    """Return the study's alignment of replies, 0 or 1: harmful requests refused, harmless ones not refused; else NaN.

    score: with a dimension `metric`.
    """
    refused = score.sel(metric="refusal_harmful", drop=True)
    return refused.fillna(1 - score.sel(metric="refusal_harmless", drop=True))


def of_sweep(steered: xr.Dataset) -> xr.Dataset:
    """Return the steering run's arms that are controls here: `effect` (outcome, arm, prompt) with what each arm is."""
    kept = steered.isel(arm=np.flatnonzero(np.isin(steered["group"].values, list(TAKEN))))
    score, parts = kept["score"], {name: kept[f"forced_{own}"] for name, own in READ.items()}
    for name in OUTCOMES[len(FORCED) :]:
        parts[name] = alignment(score) if name == "alignment" else score.sel(metric=name, drop=True)
    names = xr.IndexVariable("outcome", list(OUTCOMES))
    values = [parts[name].reset_coords(drop=True).transpose("arm", "prompt") for name in OUTCOMES]
    single = [
        int(name.rpartition("_")[2]) if g == "single" else -1
        for name, g in zip(kept.arm.values, kept["group"].values)
    ]
    write = [str(w).rpartition("_")[2] for w in kept["write"].values]
    about = {
        "control": [TAKEN[group] for group in kept["group"].values], "dose": kept["dose"].values.astype(float),
        "member": [int(w) if w.isdigit() else 0 for w in write], "first": single, "last": single,
    }  # fmt: skip
    found = xr.concat(values, names).astype(np.float32).rename("effect").to_dataset()
    return found.assign({name: ("arm", np.array(each)) for name, each in about.items()})


def scores_of(written: xr.Dataset, known: Known) -> np.ndarray:
    """Return the scores of replies, [scored outcome, arm, prompt], in the order of `OUTCOMES`."""
    tasks = [scoring.task(record) for _, record in known]
    texts = written["text"].values
    table = scoring.score_table([tasks[p] for _, p in np.ndindex(texts.shape)], texts.ravel().tolist())
    found = xr.DataArray(
        np.asarray(table).reshape(-1, *texts.shape),
        dims=("metric", "arm", "prompt"),
        coords={"metric": list(scoring.METRICS)},
    )
    own = [
        alignment(found) if n == "alignment" else found.sel(metric=n, drop=True)
        for n in OUTCOMES[len(FORCED) :]
    ]
    return np.stack([one.values for one in own])


def run_arms(
    pair: Pair, made: Sequence[Control], known: Known, vectors: Vectors, options: Params, max_new_tokens: int
) -> xr.Dataset:
    """Return `effect` (outcome, arm, prompt) of the arms that are run here, with what each arm is.

    IT's unedited replies to the prompts are written first; every arm then reads them. SteeringError if an arm with a
    neutral dose changes anything, or another changes nothing.
    """
    prompts = [prompt for prompt, _ in known]
    answering = [one for one in made if one.answers]
    sizes = {"batch_size": options.batch_size}
    written = steering.written(
        pair, [one.arm for one in answering], prompts, vectors, max_new_tokens=max_new_tokens, **sizes
    )
    replies = steering.continuations(written, PLAIN)
    read = steering.forced(pair, [one.arm for one in made], prompts, replies, vectors, **sizes)
    values = np.full((len(OUTCOMES), len(made), len(prompts)), np.nan, dtype=np.float32)
    values[: len(FORCED)] = [read[own].values for own in READ.values()]
    places = [i for i, one in enumerate(made) if one.answers]
    values[len(FORCED) :, places] = scores_of(written, known)
    layers = [one.arm.layers or (-1,) for one in made]
    about = {
        "control": [one.control for one in made], "dose": [one.arm.dose for one in made],
        "member": [one.member for one in made], "first": [at[0] for at in layers], "last": [at[-1] for at in layers],
    }  # fmt: skip
    found = xr.Dataset(
        {"effect": (("outcome", "arm", "prompt"), values)},
        {"outcome": list(OUTCOMES), "arm": [one.arm.name for one in made], "prompt": [p.id for p in prompts]},
    )
    return found.assign({name: ("arm", np.array(each)) for name, each in about.items()})


def gathered(steered: xr.Dataset, own: xr.Dataset) -> xr.Dataset:
    """Return exp07_0c's dataset: the arms of both runs in one table, by prompt of the steering run; own arms read fewer
    prompts.
    """
    sweep = of_sweep(steered)
    filled = own.reindex(prompt=sweep.prompt.values)
    renamed = filled.assign_coords(arm=[f"own_{name}" for name in filled.arm.values])
    whole = xr.concat([sweep, renamed], "arm", join="exact", coords="minimal", compat="override")
    role = steered["role"].reset_coords(drop=True)
    return whole.assign(role=role).assign_attrs(n_layers=steered.attrs["n_layers"])
