"""Blocks of a run that has not finished: kept in `_build/unfinished` until its result is written, so that it goes on."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import blocks, params
from nbhelpers.run import versions


def folder(run: params.Run) -> Path:
    """Return the folder of a run's blocks, named by its parameters and its version: other weights or code find none."""
    inside = params.ROOT / "_build" / "unfinished" / run.profile.name / run.model.key
    return inside / f"{run.key}-{run.hash}-{versions.measure_version(run)}"


def measured(
    run: params.Run,
    parts: Sequence[range],
    measure: Callable[[range], Sequence[xr.Dataset]],
    names: Sequence[str],
    **about,
) -> dict[str, list[Path]]:
    """Return {name: files of a run's blocks}; blocks that an earlier, stopped run has left are not measured again.

    parts: the prompts of each block. measure: returns a block's datasets, those of the names: the experiment's and its
    artifacts'. about: `started` and `device` of `experiments.described`. Blocks of the same parameters by
    other code are removed; those of other parameters may be those of a longer run, and stay.
    """

    def of_block(part: range) -> dict[str, xr.Dataset]:
        found = zip(names, measure(part), strict=True)
        return {name: experiments.described(each, run, name=name, **about) for name, each in found}

    place = folder(run)
    for old in place.parent.glob(f"{run.key}-{run.hash}-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    if ready := kept(run):
        print(f"{ready} of {len(parts)} blocks of prompts lie ready from a run that was stopped")
    return blocks.written(place, parts, of_block, names)


def kept(run: params.Run) -> int:
    """Return how many blocks of a run have been written."""
    return len({path.name.split(".")[-2] for path in folder(run).glob("[!.]*.nc")})


def save(run: params.Run, result: xr.Dataset, steps: Sequence[Path] = ()) -> Path:
    """Return the path of a run's saved result, see `experiments.save`; then its blocks are no longer needed, and removed."""
    path = experiments.save(result, steps=steps)
    shutil.rmtree(folder(run), ignore_errors=True)
    return path
