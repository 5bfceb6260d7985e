"""Results on disk: labelled datasets with provenance, written whole or not at all, never read when damaged.

A result is a NetCDF-4 file followed by one line, the SHA-256 of everything before it. NetCDF readers ignore the
line; `load` requires it. This module knows nothing of models, notebooks or charts.
"""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import h5netcdf
import xarray as xr

from nbhelpers import __version__
from nbhelpers.core import blocks, params, sealed, unmeasured
from nbhelpers.core.sealed import ResultError, shown, unwritable, write_whole
from nbhelpers.core.variables import Variable, lacking

LIBRARIES = ("torch", "transformers", "tokenizers", "nnsight", "numpy", "scipy", "xarray")
PROVENANCE = (
    "experiment", "model", "profile", "parameter_hash", "code_version", "libraries", "model_revisions",
    "seed", "wall_time_s", "device", "created",
)  # fmt: skip
NOTHING: Mapping[str, Variable] = {}
LARGE = 256 * 2**20  # bytes; the values of a larger file stay on disk until they are read
__all__ = ["ResultError", "shown", "unwritable", "write_whole"]  # of files, beside what is defined here


def result_path(profile: str, model: str, experiment: str) -> Path:
    """Return the path of one result, `_build/results/<profile>/<model>/<experiment>.nc`."""
    return params.ROOT / "_build" / "results" / profile / model / f"{experiment}.nc"


def artifact_path(run: params.Run, name: str) -> Path:
    """Return the path of a file that an experiment writes beside its dataset."""
    return result_path(run.profile.name, run.model.key, name).with_name(name)


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
    dataset: xr.Dataset,
    path: Path,
    *,
    provenance: dict,
    expects: Mapping[str, Variable] = NOTHING,
    steps: Sequence[Path] = (),
) -> Path:
    """Return `path` after checking the dataset and writing it with its provenance.

    The file is written beside the target, then renamed, so an interrupted write or a full disk leaves the earlier
    file unchanged. A file that already holds the same values from the same code is kept, so that results built on it
    stay up to date. A NUL in a text, which a byte-level model may write, is stored as its symbol ␀. steps: the files of
    `blocks.written`, whose steps are added. Raises ResultError if a variable of `expects` is missing or the file cannot
    be written.
    """
    path, missing = Path(path), [key for key in PROVENANCE if key not in provenance]
    if missing:
        raise ResultError(f"the result for {shown(path)} says nothing of {', '.join(missing)}.")
    dataset = dataset.assign_attrs(provenance)
    validate(dataset, {name: of for name, of in expects.items() if not steps or "step" not in of.dims})
    with sealed.replacing(path) as partial:
        with open(partial, "r+b") as file:
            blocks.without_nul(dataset).to_netcdf(file, engine="h5netcdf", encoding=blocks.packing(dataset))
        if steps:
            blocks.append(partial, steps)
        with open(partial, "rb") as file, xr.open_dataset(file, engine="h5netcdf") as whole:
            same = _holds(path, validate(whole, expects))
        if same:
            partial.unlink()
        else:
            sealed.seal(partial)
    return path


def _holds(path: Path, new: xr.Dataset) -> bool:
    """Return whether `path` holds an intact result that equals the dataset, except for creation time and run time."""
    try:
        with sealed.opened(path) as file, xr.open_dataset(file, engine="h5netcdf") as old:
            if _lasting(old) != _lasting(new) or old.variables.keys() != new.variables.keys():
                return False
            return all(_identical(old.variables[name], new.variables[name]) for name in old.variables)
    except (sealed.DamagedError, OSError, ValueError):  # damaged, missing, or sealed but no dataset
        return False


def _identical(ours: xr.Variable, theirs: xr.Variable) -> bool:
    """Return whether two variables are equal; they are read in pieces along their last dim, because they may be large."""
    if ours.dtype != theirs.dtype or ours.sizes != theirs.sizes or not ours.ndim:
        return ours.dtype == theirs.dtype and ours.identical(theirs)
    last, width = ours.dims[-1], 64 * blocks.CHUNK
    pieces = [slice(first, first + width) for first in range(0, max(ours.shape[-1], 1), width)]
    return all(ours.isel({last: at}).identical(theirs.isel({last: at})) for at in pieces)


def _lasting(dataset: xr.Dataset) -> dict:
    """Return the attributes that stay the same when a run is repeated."""
    return {name: value for name, value in dataset.attrs.items() if name not in ("created", "wall_time_s")}


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[BinaryIO]:
    """Yield the checked file of a result; ResultError if it is missing, damaged or no NetCDF file."""
    try:
        file = sealed.opened(path)
    except FileNotFoundError:
        raise ResultError(f"there is no result {shown(path)} yet; make it with {_again(path)}.") from None
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except sealed.DamagedError as error:
        raise _unreadable(path, str(error)) from None
    try:
        yield file
    except OSError:
        raise _unreadable(path, "it is no NetCDF file") from None
    finally:
        file.close()


def _unreadable(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{shown(path)} is damaged or was not written by this project ({why}); make it anew with {_again(path)}."
    )


def load(
    path: Path, *, experiment: str | None = None, expects: Mapping[str, Variable] = NOTHING
) -> xr.Dataset:
    """Return one result, in memory unless its file is `LARGE`: then its values are read when they are used.

    Raises ResultError, with the file and the remedy, if it is missing, truncated, not of this project or this
    experiment, or lacks a variable of `expects`.
    """
    path = Path(path)
    with _checked(path) as file:
        if path.stat().st_size > LARGE:
            dataset = xr.open_dataset(path, engine="h5netcdf")
        else:
            with xr.open_dataset(file, engine="h5netcdf") as opened:
                dataset = opened.load()
        _of(experiment, dataset.attrs, path)
        return validate(dataset, expects, path)


def attributes(
    path: Path, *, experiment: str | None = None, expects: Mapping[str, Variable] = NOTHING
) -> dict:
    """Return the attributes of the result that `load` would return, in a tenth of the time, since no values are read."""
    path = Path(path)
    with _checked(path) as data, h5netcdf.File(data, "r") as file:
        found = dict(file.attrs)
        dims = {each: file.variables[each].dimensions for each in file.variables.keys() & expects.keys()}
    _refuse_incomplete(lacking(dims, expects), _of(experiment, found, path), path)
    found.pop("coordinates", None)  # NetCDF's own attribute, which `load` turns into coordinates
    return found


def sizes(path: Path, *, experiment: str | None = None) -> dict[str, int]:
    """Return the length of every dimension of the result that `load` would return; no values are read."""
    path = Path(path)
    with _checked(path) as data, h5netcdf.File(data, "r") as file:
        _of(experiment, dict(file.attrs), path)
        return {name: dim.size for name, dim in file.dimensions.items()}


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
