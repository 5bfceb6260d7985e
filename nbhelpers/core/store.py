"""Results on disk: labelled datasets with provenance, written whole or not at all, never read when damaged.

A result is a NetCDF-4 file followed by one line, the SHA-256 of everything before it. NetCDF readers ignore the
line; `load` requires it. This module knows nothing of models, notebooks or charts.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import h5netcdf
import xarray as xr

from nbhelpers import __version__
from nbhelpers.core import params, unmeasured
from nbhelpers.core.variables import Variable, lacking

LIBRARIES = ("torch", "transformers", "tokenizers", "nnsight", "numpy", "scipy", "xarray")
PROVENANCE = (
    "experiment", "model", "profile", "parameter_hash", "code_version", "libraries", "model_revisions",
    "seed", "wall_time_s", "device", "created",
)  # fmt: skip
NOTHING: Mapping[str, Variable] = {}
_SEAL = b"\nsha256 "
_SEAL_SIZE = len(_SEAL) + 64 + 1


class ResultError(RuntimeError):
    """A result that is missing, damaged or not what was asked for; the message is one sentence."""


def result_path(profile: str, model: str, experiment: str) -> Path:
    """Return the path of one result, `_build/results/<profile>/<model>/<experiment>.nc`."""
    return params.ROOT / "_build" / "results" / profile / model / f"{experiment}.nc"


def artifact_path(run: params.Run, name: str) -> Path:
    """Return the path of a file that an experiment writes beside its dataset."""
    return result_path(run.profile.name, run.model.key, name).with_name(name)


def shown(path: Path) -> str:
    """Return a path as messages show it: relative to the repository's root if it lies inside."""
    path = Path(path)
    return path.relative_to(params.ROOT).as_posix() if path.is_relative_to(params.ROOT) else str(path)


def _again(path: Path) -> str:
    """Return the command that makes a result again."""
    key = max(
        (key for key in params.keys("experiments") if path.stem.startswith(key)), key=len, default=path.stem
    )
    return f"`nbh run {key} --model {path.parent.name} --profile {path.parent.parent.name}`"


def code_version() -> str:
    """Return `git describe` of the repository, with -dirty if files were changed; without git, the package's version."""
    command = ["git", "-C", str(params.ROOT), "describe", "--always", "--tags", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__


def provenance(run: params.Run, *, wall_time_s: float, device: str) -> dict[str, str | int | float]:
    """Return the attributes that say where a result comes from.

    `run` is what `experiments.resolve` returned; `device` is a name such as "cpu" or "NVIDIA H100".
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


def validate(dataset: xr.Dataset, expects: Mapping[str, Variable], path: Path | None = None) -> xr.Dataset:
    """Return the dataset if it holds the expected variables and all its variables have units and a long name.

    Raises ResultError that lists the problems, and names the file if `path` is given.
    """
    problems = lacking({name: variable.dims for name, variable in dataset.variables.items()}, expects)
    for name, variable in dataset.data_vars.items():
        missing = [key for key in ("units", "long_name") if key not in variable.attrs]
        if missing:
            problems.append(f"{name} has no {' and no '.join(missing)}")
    _refuse_incomplete(problems, dataset.attrs.get("experiment"), path)
    return dataset


def _refuse_incomplete(problems: list[str], experiment: str | None, path: Path | None) -> None:
    """Raise ResultError that lists the problems, if there are any."""
    if problems:
        which = shown(path) if path else f"the {experiment or 'unnamed'} dataset"
        remedy = f"; make it anew with {_again(path)}" if path else ""
        raise ResultError(f"{which} is not complete: {'; '.join(problems)}{remedy}.")


def joined(*datasets: xr.Dataset) -> xr.Dataset:
    """Return the datasets of one pair merged into one, with what any of them lacks; shared coordinates must be the same."""
    merged = xr.merge(datasets, compat="override", join="exact")
    return merged.assign_attrs(unmeasured.joint(datasets))


def save(
    dataset: xr.Dataset, path: Path, *, provenance: dict, expects: Mapping[str, Variable] = NOTHING
) -> Path:
    """Return `path` after checking the dataset and writing it with its provenance.

    The file is written beside the target, then renamed, so an interrupted write or a full disk leaves the earlier
    file unchanged. A file that already holds the same values from the same code is kept, so that results built on it
    stay up to date. A NUL in a text, which a byte-level model may write, is stored as its symbol ␀. Raises
    ResultError if a variable of `expects` is missing or the file cannot be written.
    """
    missing = [key for key in PROVENANCE if key not in provenance]
    if missing:
        raise ResultError(f"the result for {shown(path)} says nothing of {', '.join(missing)}.")
    validate(dataset.assign_attrs(provenance), expects)
    packed = {name: {"zlib": True, "complevel": 4} for name, variable in dataset.data_vars.items()
              if variable.ndim and variable.dtype.kind in "fiub"}  # fmt: skip
    dataset = _without_nul(dataset).assign_attrs(provenance)
    data = bytes(dataset.to_netcdf(engine="h5netcdf", encoding=packed))
    if not _holds(Path(path), data):
        write_whole(Path(path), data + _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n")
    return path


def _holds(path: Path, data: bytes) -> bool:
    """Return whether `path` holds an intact result that equals the NetCDF bytes, except for creation time and run time."""
    try:
        held = _checked_bytes(path)
    except (ResultError, OSError):
        return False
    try:
        with xr.open_dataset(held, engine="h5netcdf") as old, xr.open_dataset(data, engine="h5netcdf") as new:
            if _lasting(old) != _lasting(new) or old.variables.keys() != new.variables.keys():
                return False
            # Variables are read one by one, because a result may be large.
            pairs = ((old.variables[name], new.variables[name]) for name in old.variables)
            return all(ours.dtype == theirs.dtype and ours.identical(theirs) for ours, theirs in pairs)
    except (OSError, ValueError):  # sealed, but no dataset
        return False


def _lasting(dataset: xr.Dataset) -> dict:
    """Return the attributes that stay the same when a run is repeated."""
    return {name: value for name, value in dataset.attrs.items() if name not in ("created", "wall_time_s")}


def _without_nul(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with U+2400 in place of each NUL in its texts; HDF5 cannot store a NUL."""
    texts = {
        name: variable.str.replace("\0", "\u2400", regex=False)
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "OUT"
    }
    return dataset.assign({name: text.assign_attrs(dataset[name].attrs) for name, text in texts.items()})


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path`, sync it, and rename it to `path`; ResultError if that fails.

    Of two processes that write one file, the second waits. A folder that stands in the way is moved aside.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if partial.exists() and not os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                return write_whole(path, data)  # the one before has renamed it
            file.truncate(0)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if path.is_dir() and not path.is_symlink():
                path.rename(path.with_name(f"{path.name}.{os.getpid()}.aside"))
            os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> ResultError:
    """Return the error for a file that could not be written."""
    return ResultError(
        f"{shown(path)} could not be written ({error.strerror or error}); what was there is untouched: free some room or "
        "allow writing, and run it again."
    )


def _checked_bytes(path: Path) -> bytes:
    """Return the NetCDF part of a file after checking its SHA-256, because HDF5 may crash on a damaged file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ResultError(f"there is no result {shown(path)} yet; make it with {_again(path)}.") from None
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    data, seal = raw[:-_SEAL_SIZE], raw[-_SEAL_SIZE:]
    if seal != _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n":
        raise _unreadable(path, "its checksum is wrong")
    return data


def _unreadable(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{shown(path)} is damaged or was not written by this project ({why}); make it anew with {_again(path)}."
    )


def load(
    path: Path, *, experiment: str | None = None, expects: Mapping[str, Variable] = NOTHING
) -> xr.Dataset:
    """Return one result, fully loaded into memory.

    Raises ResultError, with the file and the remedy, if it is missing, truncated, not of this project or this
    experiment, or lacks a variable of `expects`.
    """
    path = Path(path)
    with xr.open_dataset(_checked_bytes(path), engine="h5netcdf") as dataset:
        _of(experiment, dataset.attrs, path)
        return validate(dataset, expects, path).load()


def attributes(
    path: Path, *, experiment: str | None = None, expects: Mapping[str, Variable] = NOTHING
) -> dict:
    """Return the attributes of the result that `load` would return, in a tenth of the time, since no values are read."""
    path = Path(path)
    data = io.BytesIO(_checked_bytes(path))
    try:
        with h5netcdf.File(data, "r") as file:
            found = dict(file.attrs)
            dims = {each: file.variables[each].dimensions for each in file.variables.keys() & expects.keys()}
    except OSError:
        raise _unreadable(path, "it is no NetCDF file") from None
    _refuse_incomplete(lacking(dims, expects), _of(experiment, found, path), path)
    found.pop("coordinates", None)  # NetCDF's own attribute, which `load` turns into coordinates
    return found


def sizes(path: Path, *, experiment: str | None = None) -> dict[str, int]:
    """Return the length of every dimension of the result that `load` would return; no values are read."""
    path = Path(path)
    try:
        with h5netcdf.File(io.BytesIO(_checked_bytes(path)), "r") as file:
            _of(experiment, dict(file.attrs), path)
            return {name: dim.size for name, dim in file.dimensions.items()}
    except OSError:
        raise _unreadable(path, "it is no NetCDF file") from None


def _of(experiment: str | None, attrs: Mapping, path: Path) -> str | None:
    """Return the experiment that a result's attributes name; ResultError if it is not the one asked for."""
    found = attrs.get("experiment")
    if experiment and found != experiment:
        raise ResultError(f"{shown(path)} holds {found}, not {experiment}; make it anew with {_again(path)}.")
    return found


def of_profile(profile: str, experiment: str, read: Callable, **options) -> dict:
    """Return {model: what `read` returns for its result} for all models of a profile; read: `load` or `attributes`."""
    models = params.profile_params(profile).models
    paths = {key: result_path(profile, key, experiment) for key in models}
    return {key: read(path, experiment=experiment, **options) for key, path in paths.items()}
