"""Peak host memory of writing and reading a capture at the paper's shapes, by number of prompts: it must not grow.

    python tests/bench/bench_blocks.py [--prompts 100 1000 10000] [--tokens 32]

Made-up steps of 34 layers, two lenses, two models, two histories are written in blocks, joined, and read by the experiments
that read steps. Each phase runs in a process of its own, whose peak resident memory is printed beside that of a process
that has only imported the same modules. Bound: 4 GiB beside that.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import blocks, depths, store
from nbhelpers.experiments.exp00_observations import experiment as exp00_experiment
from nbhelpers.experiments.exp03_corrective_stage import measure as exp03_measure
from nbhelpers.experiments.exp07_0j_onset import measure as exp07_0j_measure
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from nbhelpers.models.token_classes import CLASSES

LAYERS, BITS, BOUND = 34, 5, 4.0  # GiB
LENSES, VARIANTS, HISTORIES = ["raw", "tuned"], ["pt", "it"], ["pt", "it"]


def made(part: range, tokens: int) -> xr.Dataset:
    """Return made-up steps of some prompts, with the variables of exp00 that have steps."""
    rng = np.random.default_rng(part.start)
    sizes = {"variant": 2, "lens": 2, "component": 3, "layer": LAYERS, "step": 2 * len(part) * tokens}
    found = {}
    for name, variable in exp00_experiment.VARIABLES.items():
        if "step" in variable.dims and len(variable.dims) > 1:
            shape = [sizes[dim] for dim in variable.dims]
            values = rng.standard_normal(shape, dtype=np.float32)
            whole = name in ("top1", "target_rank")
            found[name] = (
                variable.dims,
                (np.abs(values) * 1e4 + 1).astype(np.int32) if whole else np.exp(values - 2),
            )
    index = np.tile(np.repeat(np.array(part, dtype=np.int64), tokens), 2)
    found["token_id"] = "step", rng.integers(0, 262_144, len(index)).astype(np.int32)
    found["token_class"] = "step", rng.integers(0, len(CLASSES), len(index)).astype(np.int8)
    per_prompt = np.full((2, len(part)), tokens)
    found |= {
        "n_tokens": (("variant", "prompt"), per_prompt),
        "stopped": (("variant", "prompt"), per_prompt > 0),
    }
    found["category"] = "prompt", np.array(["all"] * len(part), dtype=object)
    coords = {"variant": VARIANTS, "lens": LENSES, "component": ["block", "attention", "mlp"],
              "layer": np.arange(LAYERS), "depth": ("layer", depths.depth(LAYERS)), "prompt_index": ("step", index),
              "token": ("step", np.tile(np.arange(tokens), 2 * len(part))), "prompt": [f"p{i}" for i in part],
              "history": ("step", np.repeat(HISTORIES, len(part) * tokens))}  # fmt: skip
    return blocks.rounded(xr.Dataset(found, coords), BITS)


def write(folder: Path, n: int, tokens: int) -> None:
    """Write a capture in blocks and join them."""
    parts = blocks.spans(n, 2 * tokens * exp00_experiment.step_bytes(LAYERS), 32)
    files = blocks.written(
        folder / "blocks", parts, lambda part: {"exp": described(made(part, tokens))}, ["exp"]
    )["exp"]
    about = dict.fromkeys(store.PROVENANCE, "x") | {"block_prompts": len(parts[0])}
    store.save(blocks.small(files), folder / "exp00.nc", provenance=about, steps=files)


def described(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose variables have units and a long name."""
    return dataset.assign({k: v.assign_attrs(units="1", long_name=k) for k, v in dataset.data_vars.items()})


def read(folder: Path, n: int, tokens: int) -> None:
    """Read a capture as the experiments do that read its steps."""
    observed = store.load(folder / "exp00.nc")
    options = experiments.experiment_params("exp09", n_resamples=100)
    exp09_measure.summarise(observed, options)
    exp03_measure.summarise(observed, options)
    blocks.over(observed, exp07_0j_measure.differences)


PHASES = {"imports": lambda *_: None, "write": write, "read": read}


def peak(phase: str, folder: Path, n: int, tokens: int) -> tuple[float, float]:
    """Return the peak resident memory, GiB, and the seconds of one phase in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--phase", phase, "--folder", str(folder), "--prompts", str(n)]
    done = subprocess.run([*command, "--tokens", str(tokens)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) / 2**20, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--phase", choices=PHASES)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.phase:
        PHASES[given.phase](given.folder, given.prompts[0], given.tokens)
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        return
    print(
        f"peak host memory beside imports, GiB (bound {BOUND}); {LAYERS} layers, {given.tokens} tokens a text"
    )
    worst = 0.0
    for n in given.prompts:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            base = peak("imports", folder, n, given.tokens)[0]
            (wrote, slow), (took, slower) = (
                peak(phase, folder, n, given.tokens) for phase in ("write", "read")
            )
            size = (folder / "exp00.nc").stat().st_size
            numbers = 2 * n * given.tokens * exp00_experiment.step_bytes(LAYERS) / 4
            worst = max(worst, wrote - base, took - base)
            print(f"{n:7,} prompts: write {wrote - base:4.1f} ({slow:.0f} s), read {took - base:4.1f} ({slower:.0f} s); "
                  f"file {size / 2**30:.2f} GiB, {size / numbers:.2f} bytes a number", flush=True)  # fmt: skip
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
