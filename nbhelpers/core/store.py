"""Results on disk: labelled datasets with provenance, written whole or not at all, never read when damaged.

A result is a NetCDF-4 file with one line behind it, the SHA-256 of all that stands before; NetCDF readers
ignore the line, `load` insists on it. This module knows nothing of models, notebooks or charts.
"""

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import h5netcdf
import xarray as xr

from nbhelpers import __version__
from nbhelpers.core import params
from nbhelpers.core.variables import REQUIRED

LIBRARIES = ("torch", "transformers", "tokenizers", "nnsight", "numpy", "scipy", "xarray")
PROVENANCE = (
    "experiment", "model", "profile", "parameter_hash", "code_version", "libraries", "model_revisions",
    "seed", "wall_time_s", "device", "created",
)  # fmt: skip
_SEAL = b"\nsha256 "
_SEAL_SIZE = len(_SEAL) + 64 + 1


class ResultError(RuntimeError):
    """A result that is missing, damaged or not what was asked for; the message is one sentence."""


def result_path(profile: str, model: str, experiment: str) -> Path:
    """Return the path of one result, `_build/results/<profile>/<model>/<experiment>.nc`."""
    return params.ROOT / "_build" / "results" / profile / model / f"{experiment}.nc"


def artifact_path(run: params.Run, name: str) -> Path:
    """Return the path of a file that an experiment leaves beside its dataset."""
    return result_path(run.profile.name, run.model.key, name).with_name(name)


def shown(path: Path) -> str:
    """Return a path as messages name it, from the repository's root where it lies inside."""
    path = Path(path)
    return path.relative_to(params.ROOT).as_posix() if path.is_relative_to(params.ROOT) else str(path)


def _again(path: Path) -> str:
    """Return the command that makes a result anew."""
    return f"`nbh run {path.stem.removesuffix('_steps')} --model {path.parent.name}`"


def code_version() -> str:
    """Return `git describe` of the repository, with -dirty where files differ, else the package's version."""
    command = ["git", "-C", str(params.ROOT), "describe", "--always", "--tags", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__


def provenance(run: params.Run, *, wall_time_s: float, device: str) -> dict[str, str | int | float]:
    """Return the attributes that say where a result comes from.

    `run` is what `params.resolve` returned; `device` is a name such as "cpu" or "NVIDIA H100".
    """
    revisions = {variant: getattr(run.model, variant).version for variant in params.VARIANTS}
    return {
        "experiment": run.key,
        "model": run.model.key,
        "profile": run.profile.name,
        "parameter_hash": run.hash,
        "parameters": run.experiment.model_dump_json(),
        "code_version": code_version(),
        "libraries": json.dumps({name: metadata.version(name) for name in LIBRARIES}),
        "model_revisions": json.dumps(revisions),
        "seed": run.experiment.seed,
        "wall_time_s": round(wall_time_s, 1),
        "device": device,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def validate(dataset: xr.Dataset, experiment: str, path: Path | None = None) -> xr.Dataset:
    """Return the dataset if it holds what the experiment promises, all with units and a long name.

    Raises ResultError that lists what is wrong, and names the file if it is given. Experiments without a schema
    are only asked for units and names.
    """
    problems = _lacking({name: variable.dims for name, variable in dataset.variables.items()}, experiment)
    for name, variable in dataset.data_vars.items():
        missing = [key for key in ("units", "long_name") if key not in variable.attrs]
        if missing:
            problems.append(f"{name} has no {' and no '.join(missing)}")
    _refuse_incomplete(problems, experiment, path)
    return dataset


def _lacking(dims: Mapping[str, tuple[str, ...]], experiment: str) -> list[str]:
    """Return what an experiment promises that variables of these dims lack, a clause each."""
    problems = []
    for name, wanted in REQUIRED.get(experiment, {}).items():
        if name not in dims:
            problems.append(f"no {name}")
        elif set(dims[name]) != set(wanted):
            problems.append(f"{name} has dims {dims[name]}, not {wanted}")
    return problems


def _refuse_incomplete(problems: list[str], experiment: str, path: Path | None) -> None:
    """Raise ResultError where there are problems."""
    if problems:
        which = shown(path) if path else f"the {experiment} dataset"
        remedy = f"; make it anew with {_again(path)}" if path else ""
        raise ResultError(f"{which} is not complete: {'; '.join(problems)}{remedy}.")


def joined(*datasets: xr.Dataset) -> xr.Dataset:
    """Return datasets of one pair as one; their shared coordinates must be the same."""
    return xr.merge(datasets, compat="override", join="exact")


def described(dataset: xr.Dataset, units: Mapping[str, tuple[str, str]]) -> xr.Dataset:
    """Return a dataset whose variables carry the units and long names given by name."""
    for name, (unit, long_name) in units.items():
        if name in dataset:
            dataset[name].attrs |= {"units": unit, "long_name": long_name}
    return dataset


def save(dataset: xr.Dataset, path: Path, *, provenance: dict) -> Path:
    """Return `path` once the checked dataset and its provenance are on disk, whole.

    Written beside the target, then renamed: an interrupted write or a full disk leaves the earlier file as it
    was. A file that already holds the same values from the same code stays as it is, so that what was built on it
    is not out of date. A NUL in a text, which a byte-level model may write, is stored as its symbol ␀. Raises
    ResultError where the schema of its experiment is not met or the file cannot be written.
    """
    missing = [key for key in PROVENANCE if key not in provenance]
    if missing:
        raise ResultError(f"the result for {shown(path)} says nothing of {', '.join(missing)}.")
    validate(dataset, provenance["experiment"])
    packed = {name: {"zlib": True, "complevel": 4} for name, variable in dataset.data_vars.items()
              if variable.ndim and variable.dtype.kind in "fiub"}  # fmt: skip
    dataset = _without_nul(dataset).assign_attrs(provenance)
    data = bytes(dataset.to_netcdf(engine="h5netcdf", encoding=packed))
    if not _holds(Path(path), data):
        write_whole(Path(path), data + _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n")
    return path


def _holds(path: Path, data: bytes) -> bool:
    """Return whether a whole result differs from NetCDF bytes in nothing but when it was made and how long it took."""
    try:
        held = _checked_bytes(path)
    except (ResultError, OSError):
        return False
    with xr.open_dataset(held, engine="h5netcdf") as old, xr.open_dataset(data, engine="h5netcdf") as new:
        if _lasting(old) != _lasting(new) or old.variables.keys() != new.variables.keys():
            return False
        # Read one by one: a result may be large.
        pairs = ((old.variables[name], new.variables[name]) for name in old.variables)
        return all(ours.dtype == theirs.dtype and ours.identical(theirs) for ours, theirs in pairs)


def _lasting(dataset: xr.Dataset) -> dict:
    """Return the attributes that the same run has again."""
    return {name: value for name, value in dataset.attrs.items() if name not in ("created", "wall_time_s")}


def _without_nul(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with U+2400 for each NUL in its texts, which HDF5 cannot hold."""
    texts = {
        name: variable.str.replace("\0", "\u2400", regex=False)
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "OUT"
    }
    return dataset.assign({name: text.assign_attrs(dataset[name].attrs) for name, text in texts.items()})


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` by way of a synced file beside it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResultError(
            f"{shown(path)} could not be written ({error.strerror or error}); an earlier result there is "
            "untouched: free some room and run it again."
        ) from None


def _checked_bytes(path: Path) -> bytes:
    """Return the NetCDF part of a file whose seal holds; HDF5 itself may crash on a damaged file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ResultError(f"there is no result {shown(path)} yet; make it with {_again(path)}.") from None
    data, seal = raw[:-_SEAL_SIZE], raw[-_SEAL_SIZE:]
    if seal != _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n":
        raise ResultError(
            f"{shown(path)} is damaged or was not written by this project; make it anew with {_again(path)}."
        )
    return data


def load(path: Path, *, experiment: str | None = None) -> xr.Dataset:
    """Return one result, wholly in memory.

    Raises ResultError with the file and the remedy where it is missing, truncated, foreign, of another
    experiment, or without a variable that its experiment's schema promises.
    """
    path = Path(path)
    with xr.open_dataset(_checked_bytes(path), engine="h5netcdf") as dataset:
        return validate(dataset, _of(experiment, dataset.attrs, path), path).load()


def attributes(path: Path, *, experiment: str | None = None) -> dict:
    """Return the attributes of one result that `load` would return, in a tenth of its time: no values are read."""
    path = Path(path)
    with h5netcdf.File(io.BytesIO(_checked_bytes(path)), "r") as file:
        found = dict(file.attrs)
        name = _of(experiment, found, path)
        promised = file.variables.keys() & REQUIRED.get(name, {}).keys()
        _refuse_incomplete(
            _lacking({each: file.variables[each].dimensions for each in promised}, name), name, path
        )
    found.pop("coordinates", None)  # NetCDF's own, which `load` reads as such
    return found


def _of(experiment: str | None, attrs: Mapping, path: Path) -> str | None:
    """Return the experiment whose result this is; ResultError where it is not the one asked for."""
    found = attrs.get("experiment")
    if experiment and found != experiment:
        raise ResultError(f"{shown(path)} holds {found}, not {experiment}; make it anew with {_again(path)}.")
    return found


def load_profile(profile: str, experiment: str) -> dict[str, xr.Dataset]:
    """Return the results of all models of a profile, by model key, in the profile's order."""
    models = params.profile_params(profile).models
    return {key: load(result_path(profile, key, experiment), experiment=experiment) for key in models}


def profile_attributes(profile: str, experiment: str) -> dict[str, dict]:
    """Return the attributes of the results of all models of a profile, by model key, in the profile's order."""
    models = params.profile_params(profile).models
    return {key: attributes(result_path(profile, key, experiment), experiment=experiment) for key in models}


def is_current(path: Path, parameter_hash: str) -> bool:
    """Return whether `path` holds a whole result that was made with these parameters."""
    try:
        return attributes(path).get("parameter_hash") == parameter_hash
    except ResultError:
        return False
