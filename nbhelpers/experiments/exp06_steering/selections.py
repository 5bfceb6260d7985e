"""Selections from exp06's dataset: the scores of an arm, its shift from its host, the random band, a reader's distance."""

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.depths import late_half
from nbhelpers.report.quantities import over

BASE = {"raw": "it_raw", "inject": "pt"}  # group → its unedited arm; that of the others is IT in its chat


def label(dose: float) -> str:
    """Return a dose as names of quantities have it: 0_25 for 0.25, m1 for −1."""
    return f"{dose:g}".replace("-", "m").replace(".", "_")


def option(result: xr.Dataset, name: str, otherwise: float) -> float:
    """Return a parameter of the run that made a dataset."""
    return json.loads(result.attrs.get("parameters", "{}")).get(name, otherwise)


def values_of(result: xr.Dataset, metric: str, arms: Sequence[str]) -> np.ndarray:
    """Return the scores of some arms' replies, float [arm, prompt]."""
    place = {name: i for i, name in enumerate(result.variables["arm"].values.tolist())}
    row = result.variables["metric"].values.tolist().index(metric)
    table = result.variables["score"].transpose("metric", "arm", "prompt").values
    return table[row, [place[name] for name in arms]].astype(float)


def by_prompt(result: xr.Dataset, values: np.ndarray) -> xr.DataArray:
    """Return values as an array by prompt; two dimensions are (control, prompt)."""
    dims = ("control", "prompt")[-values.ndim :]
    return xr.DataArray(values, {"prompt": result.variables["prompt"].values}, dims)


def score(result: xr.Dataset, metric: str, arm: str) -> xr.DataArray:
    """Return the scores of one arm's replies, [prompt]; NaN where the metric does not apply."""
    return by_prompt(result, values_of(result, metric, [arm])[0])


def of_group(result: xr.Dataset, group: str) -> dict[float, list[str]]:
    """Return {dose: names of the arms} of a group, in the order of the doses; a single arm without a dose has NaN."""
    mine, doses = result.variables["group"].values == group, result.variables["dose"].values
    names, found = result.variables["arm"].values, {}
    for i in sorted(np.flatnonzero(mine), key=lambda i: doses[i]):
        found.setdefault(float(doses[i]), []).append(str(names[i]))
    return found


def shift(result: xr.Dataset, metric: str, arm: str, group: str = "dose") -> xr.DataArray:
    """Return the score of an arm of a group less that of its host as it is, [prompt]."""
    own, base = values_of(result, metric, [arm, BASE.get(group, "it")])
    return by_prompt(result, own - base)


def band(result: xr.Dataset, metric: str, dose: float) -> xr.DataArray:
    """Return the shifts under the matched random directions at a dose, (control, prompt); no control without any."""
    names = of_group(result, "matched").get(dose, [])
    values = values_of(result, metric, [*names, "it"])
    return by_prompt(result, values[:-1] - values[-1])


def band_doses(result: xr.Dataset) -> list[float]:
    """Return the doses that have a random band, without the identity."""
    return [dose for dose in of_group(result, "matched") if dose != 1]


def dose_table(result: xr.Dataset, metric: str) -> xr.DataArray:
    """Return a metric's scores under every dose, (prompt, dose)."""
    arms = {dose: arms[0] for dose, arms in of_group(result, "dose").items()}
    table = xr.concat([score(result, metric, arm) for arm in arms.values()], "dose")
    return table.assign_coords(dose=list(arms)).transpose("prompt", "dose")


def gap_of(result: xr.Dataset, lens: str, reader: str, name: str = "kl_layer_final") -> xr.DataArray:
    """Return the mean over the late half of the layers of a reader's KL(layer ‖ end), nats [prompt]."""
    values = result[name].sel(lens=lens, reader=reader, drop=True).reset_coords(drop=True).astype(float)
    return over(values, late_half(result.attrs["n_layers"]))
