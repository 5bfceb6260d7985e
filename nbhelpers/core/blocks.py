"""Datasets of steps in blocks of prompts: measured and written one by one, joined into one result, read one by one.

The steps of every prompt at every layer do not fit into memory at the size of a paper. Each block lies whole in a file of
its own until all are there, so a run that was stopped goes on at the block where it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr

from nbhelpers.core import sealed

LARGEST = 640 * 2**20  # bytes of one block in memory; some copies of it are held while it is made
CHUNK = 8192  # steps in one chunk of a file
ALL_BITS = 23  # of a float32's mantissa


def spans(n_prompts: int, bytes_per_prompt: float, batch_size: int = 1) -> list[range]:
    """Return the blocks of n prompts: whole batches, as many as `LARGEST` bytes hold, at least one."""
    fitting = max(1, int(LARGEST / max(bytes_per_prompt, 1)) // batch_size) * batch_size
    return [range(first, min(first + fitting, n_prompts)) for first in range(0, n_prompts, fitting)]


def rounded(dataset: xr.Dataset, bits: int, dim: str = "step") -> xr.Dataset:
    """Return the dataset with the float32 values along `dim` rounded to `bits` bits of mantissa, which compress better.

    |rounded(x) − x| ≤ 2^−(bits + 1) · |x|; ties go to even. This is the bit rounding of the CF conventions (Klöwer et al.
    2021, doi:10.1038/s43588-021-00156-2). NaN and infinities stay; 23 bits change nothing.
    """
    names = [name for name, v in dataset.data_vars.items() if dim in v.dims and v.dtype == np.float32]
    if bits >= ALL_BITS or not names:
        return dataset
    return dataset.assign(
        {name: dataset[name].copy(data=_rounded(dataset[name].values, bits)) for name in names}
    )


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    drop = ALL_BITS - bits
    raw = np.ascontiguousarray(values).view(np.uint32)
    half = np.uint32((1 << (drop - 1)) - 1) + ((raw >> np.uint32(drop)) & np.uint32(1))
    found = ((raw + half) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)
    return np.where(np.isfinite(values), found, values)


def without_nul(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with U+2400 in place of each NUL in its texts; HDF5 cannot store a NUL."""
    texts = {
        name: variable.str.replace("\0", "\u2400", regex=False)
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "OUT"
    }
    return dataset.assign({name: text.assign_attrs(dataset[name].attrs) for name, text in texts.items()})


def packing(dataset: xr.Dataset, level: int = 4) -> dict[str, dict]:
    """Return how xarray packs the variables of a dataset."""
    return {
        name: {"zlib": True, "complevel": level, "shuffle": True}
        for name, variable in dataset.variables.items()
        if variable.ndim and variable.dtype.kind in "fiub" and name in dataset.data_vars
    }


def written(
    folder: Path,
    parts: Sequence[range],
    measure: Callable[[range], Mapping[str, xr.Dataset]],
    names: Sequence[str],
) -> dict[str, list[Path]]:
    """Return {name: files of its blocks, in order}, after measuring the blocks that do not lie whole in `folder`.

    measure: takes the indices of a block's prompts and returns a dataset of each name.
    """
    paths = {name: [folder / f"{name}.{i:05d}.nc" for i in range(len(parts))] for name in names}
    for i, part in enumerate(parts):
        if all(sealed.is_whole(paths[name][i]) for name in names):
            continue
        for name, dataset in measure(part).items():
            with sealed.replacing(paths[name][i]) as partial:
                with open(partial, "r+b") as file:
                    without_nul(dataset).to_netcdf(
                        file, engine="h5netcdf", encoding=packing(dataset, level=1)
                    )
                sealed.seal(partial)
    return paths


def small(paths: Sequence[Path], dim: str = "step") -> xr.Dataset:
    """Return what blocks hold beside their steps, joined over the prompts; what has no prompt is added up."""
    parts = []
    for path in paths:
        with sealed.opened(path) as file, xr.open_dataset(file, engine="h5netcdf") as block:
            parts.append(block.drop_dims(dim, errors="ignore").load())
    return combined(parts)


def combined(parts: Sequence):
    """Return the datasets (or arrays) of consecutive blocks as one: what has a dim `prompt` joined, all else added up.

    Sums are aligned by their coordinates, with 0 where a block has no value.
    """
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], xr.DataArray):
        name = parts[0].name or "only"
        return combined([part.to_dataset(name=name) for part in parts])[name].rename(parts[0].name)
    if not parts[0].data_vars:
        return parts[0]
    along = [name for name, v in parts[0].data_vars.items() if "prompt" in v.dims]
    how = dict(data_vars="all", coords="minimal", compat="override", join="exact", combine_attrs="override")
    found = xr.concat([part[along] for part in parts], "prompt", **how)
    rest = [part.drop_vars(along).drop_dims("prompt", errors="ignore") for part in parts]
    aligned = xr.align(*rest, join="outer", fill_value=0)
    with xr.set_options(keep_attrs=True):
        total = sum(aligned[1:], start=aligned[0])
    # Coordinates that only steps have, such as the names of lenses, come with the rest.
    found = xr.merge([found, total], compat="override", join="outer")
    # Concatenation keeps the first block's width of text, and would cut longer names.
    if "prompt" in parts[0].coords:
        found = found.assign_coords(prompt=np.concatenate([part.prompt.values for part in parts]))
    return found.assign_attrs(parts[0].attrs)


def append(target: Path, paths: Sequence[Path], dim: str = "step") -> None:
    """Add to a NetCDF file the variables along `dim` of all blocks, block after block; one block is in memory at a time."""
    lengths = [_length(path, dim) for path in paths]
    with open(target, "r+b") as file, h5netcdf.File(file, "r+") as whole:
        whole.dimensions[dim], start = sum(lengths), 0
        for path, length in zip(paths, lengths):
            with sealed.opened(path) as opened, h5netcdf.File(opened, "r") as block:
                for name, variable in block.variables.items():
                    if dim in variable.dimensions:
                        _copy(whole, name, variable, dim, slice(start, start + length))
            start += length


def _length(path: Path, dim: str) -> int:
    with sealed.opened(path) as opened, h5netcdf.File(opened, "r") as block:
        return block.dimensions[dim].size


def _copy(whole, name, variable, dim, where):
    """Copy one block's variable to its place in the whole file."""
    if name not in whole.variables:
        _create(whole, name, variable, dim)
    place = tuple(where if each == dim else slice(None) for each in variable.dimensions)
    if where.stop > where.start:
        whole.variables[name][place] = variable[...]


def _create(whole, name, variable, dim):
    """Create in the whole file a variable like that of a block, packed in chunks."""
    for each in variable.dimensions:
        if each not in whole.dimensions:
            whole.dimensions[each] = variable.shape[variable.dimensions.index(each)]
    shape = [whole.dimensions[each].size for each in variable.dimensions]
    packed = {}
    if all(shape):
        chunks = [min(CHUNK, n) if each == dim else n for each, n in zip(variable.dimensions, shape)]
        # A chunk holds all layers of one lens of one model, so that a reader of another skips it.
        chunks[:-2] = [1] * len(chunks[:-2])
        packed = dict(chunks=tuple(chunks), compression="gzip", compression_opts=4, shuffle=True)
    made = whole.create_variable(name, variable.dimensions, variable.dtype, **packed)
    for key, value in variable.attrs.items():
        made.attrs[key] = value


def each(dataset: xr.Dataset, dim: str = "step") -> Iterator[xr.Dataset]:
    """Yield the steps of consecutive blocks of prompts, loaded, in the blocks in which they were written.

    `prompt_index` counts from the block's first prompt if the dataset has a dim `prompt`, which is cut as well. A dataset
    without an attribute `block_prompts` is one block.
    """
    about = [name for name, v in dataset.data_vars.items() if {dim, "prompt"} & set(v.dims)]
    index, steps = dataset.prompt_index.values, dataset[about]
    n = dataset.sizes.get("prompt", int(index.max(initial=0)) + 1)
    size = int(dataset.attrs.get("block_prompts", 0)) or max(n, 1)
    for first in range(0, n, size):
        start, stop = np.searchsorted(index // size, [first // size, first // size + 1])
        part = steps.isel({dim: slice(start, stop)})
        if "prompt" in dataset.sizes:
            part = part.isel(prompt=slice(first, first + size))
            part = part.assign_coords(prompt_index=(dim, index[start:stop] - index.dtype.type(first)))
        yield part.load()


def over(dataset: xr.Dataset, measure: Callable, *options):
    """Return `measure(block, *options)` of all blocks of a dataset, `combined`."""
    return combined([measure(block, *options) for block in each(dataset)])
