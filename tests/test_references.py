"""A fresh result of pocket Llama says what the committed reference says, variable by variable."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.experiments import resolve
from nbhelpers.run import references, results

SHARE = 0.05  # of an entry, and of a tenth of its variable's largest one
P_VALUE = 0.05  # by which a p-value may differ
KEYS = list(experiments.slices())


def changed(reference: xr.Dataset, fresh: xr.Dataset, key: str) -> list[str]:
    """Return one sentence for each variable of a fresh result that differs from its reference."""
    names = sorted(set(reference.data_vars) ^ set(fresh.data_vars))
    found = [
        f"{key}: {name} is in {'the reference' if name in reference else 'the result'} alone"
        for name in names
    ]
    for name in sorted(set(reference.data_vars) & set(fresh.data_vars)):
        wanted, now = reference[name], fresh[name]
        if set(wanted.dims) != set(now.dims) or dict(wanted.sizes) != dict(now.sizes):
            found.append(f"{key}: {name} was {dict(wanted.sizes)}, is {dict(now.sizes)}")
            continue
        where = _first_difference(wanted, now.transpose(*wanted.dims))
        found += [f"{key}: {name}{where}"] if where else []
    return found


def _first_difference(wanted: xr.DataArray, now: xr.DataArray) -> str:
    """Return how many entries of a variable differ and which one most, or nothing."""
    one, other = wanted.values.astype(float), now.values.astype(float)
    size = np.nanmax(np.abs(one), initial=0.0) if one.size else 0.0
    room = SHARE * np.fmax(np.fmax(np.abs(one), np.abs(other)), size / 10) + 1e-12
    room = np.fmax(room, P_VALUE) if wanted.name == "p" or str(wanted.name).startswith("p_") else room
    room = np.fmax(room, 1.0) if wanted.attrs.get("whole") else room
    apart = np.where(np.isnan(one) & np.isnan(other), 0.0, np.abs(one - other) / room)
    apart = np.where(np.isnan(apart), np.inf, apart)
    if not (apart > 1).any():
        return ""
    place = np.unravel_index(np.argmax(apart), apart.shape)
    labels = [
        f"{dim}={wanted[dim].values[i] if dim in wanted.coords else i}" for dim, i in zip(wanted.dims, place)
    ]
    entry = f"[{', '.join(labels)}]" if labels else ""
    return f"{entry}: reference {one[place]:.4g}, now {other[place]:.4g} ({(apart > 1).sum()} of {apart.size} entries differ)"


def accept(key: str) -> str:
    notebook = params.experiment(key).notebook
    return f"if the change is wanted, `nbh refresh {notebook}` writes the reference anew; commit it"


def reference_of(key: str) -> xr.Dataset:
    path = references.path(key)
    assert path.exists(), f"{key} has no reference {path.name}; {accept(key)}"
    with xr.open_dataset(path, engine="scipy") as found:
        return found.load()


@pytest.mark.parametrize("key", KEYS)
def test_a_fresh_result_is_that_of_the_reference(key):
    reference = reference_of(key)
    profile, model = reference.attrs["profile"], reference.attrs["model"]
    if results.fault(resolve(key, model=model, profile=profile)):
        command = [sys.executable, "-m", "nbhelpers", "run", key, "--model", model, "--profile", profile]
        subprocess.run(command, check=True)
    found = changed(reference, references.reduced(experiments.load(profile, model, key)), key)
    assert not found, "\n".join([*found, accept(key)])


def test_no_reference_is_left_of_an_experiment_that_is_gone():
    assert {path.stem for path in references.path("").parent.glob("*.nc")} <= set(KEYS)


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    shape = {"prompt": 40, "variant": 2, "layer": 12}
    values = xr.DataArray(rng.exponential(size=tuple(shape.values())), dims=list(shape), name="kl")
    return xr.Dataset(
        {
            "kl": values.assign_coords(variant=["pt", "it"]),
            "p_layers": ("layer", np.linspace(0, 1, 12)),
            "lowest_layer": ("variant", [3, 5]),
            "text": ("prompt", [f"reply {i}" for i in range(40)]),
        },
        attrs={"experiment": "exp99", "model": "ann", "profile": "pocket"},
    )


def test_a_reference_holds_means_over_prompts_and_the_length_of_texts(result):
    small = references.reduced(result)
    assert small.kl.dims == ("variant", "layer") and small.kl.dtype == np.float32
    np.testing.assert_allclose(small.kl, result.kl.mean("prompt"), rtol=1e-6)
    assert float(small.text) == pytest.approx((10 * 7 + 30 * 8) / 40)
    assert small.lowest_layer.attrs == {"whole": 1} and not small.kl.attrs


@pytest.mark.parametrize(
    "fault, named",
    [
        (lambda d: d.assign(kl=d.kl * 1.1), "kl"),
        (lambda d: d.assign(kl=d.kl.isel(variant=[1, 0]).assign_coords(variant=["pt", "it"])), "kl"),
        (lambda d: d.assign(kl=d.kl.roll(layer=2)), "kl"),
        (lambda d: d.assign(kl=d.kl.where(d.variant == "it")), "kl"),
        (lambda d: d.assign(p_layers=d.p_layers + 0.1), "p_layers"),
        (lambda d: d.assign(lowest_layer=d.lowest_layer + 2), "lowest_layer"),
        (lambda d: d.drop_vars("kl"), "kl"),
        (lambda d: d.isel(layer=slice(11)), "kl"),
        (lambda d: d.assign(text=d.text + " and more"), "text"),
    ],
)
def test_a_gross_error_is_named(result, fault, named):
    found = changed(references.reduced(result), references.reduced(fault(result)), "exp99")
    assert any(line.startswith(f"exp99: {named}") for line in found)


def test_what_rounding_changes_passes(result):
    moved = result.assign(
        kl=result.kl * 1.001, p_layers=result.p_layers + 0.01, lowest_layer=result.lowest_layer + 1
    )
    assert not changed(references.reduced(result), references.reduced(moved), "exp99")
