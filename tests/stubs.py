"""Stub notebooks and parameter files: a project in which running and failing takes seconds."""

import json
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = "profiles:\n  pocket: {n_prompts: 4, max_new_tokens: 4, batch_size: 2}\n"
MEASURE = """
import time
import numpy as np, xarray as xr
from nbhelpers import experiments
from nbhelpers.core import params, store
run = experiments.resolve("exp90", model=model, profile=profile, n_prompts=n_prompts, seed=seed)
"""
BODY = """
open(params.ROOT / "trace.txt", "a").write(model + "\\n")
while (params.ROOT / f"hold-{model}").exists():
    time.sleep(0.05)
assert not (params.ROOT / f"break-{model}").exists(), "the stub was told to break"
"""
SAVE = """
value = np.arange(float(n_prompts)) + seed
value = xr.DataArray(value, dims="prompt", attrs={"units": "1", "long_name": "v"})
attributes = store.provenance(run, wall_time_s=0.0, device="cpu")
store.save(xr.Dataset({"value": value}), store.result_path(profile, model, "exp90"), provenance=attributes)
"""
READ = """
from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.run import notebooks
run = experiments.resolve("exp91", model=model, profile=profile, seed=seed)
read = notebooks.upstream(run, "exp90")
open(params.ROOT / "trace.txt", "a").write(model + "+" + "\\n")
value = read[["value"]] * 10
value["value"].attrs = read["value"].attrs
store.save(value, store.result_path(profile, model, "exp91"),
           provenance=store.provenance(run, wall_time_s=0.0, device="cpu"))
"""
ACROSS = """
from nbhelpers.core import store
{key: float(result.value.sum()) for key, result in store.of_profile(profile, "exp90", store.load).items()}
"""


def code(source, *tags):
    """Return a code cell."""
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source.strip(), "outputs": [],
            "execution_count": None, "id": f"c{abs(hash(source)) % 10**8}"}  # fmt: skip


def markdown(source):
    """Return a Markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": source, "id": f"m{abs(hash(source)) % 10**8}"}


def write_notebook(path, *cells):
    """Write cells as a notebook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book))


def write_params(root, models):
    """Write one experiment, one profile and its models."""
    for kind in ("models", "profiles", "experiments"):
        (root / "params" / kind).mkdir(parents=True)
    for key in models:
        weights = root / "weights" / key
        weights.mkdir(parents=True)
        (weights / "model.safetensors").write_bytes(key.encode())
        (weights / "config.json").write_text("{}")
        source = f"{{path: weights/{key}}}"
        text = f"key: {key}\nfamily: llama\ntitle: {key}\npt: {source}\nit: {source}\n"
        (root / "params/models" / f"{key}.yml").write_text(text)
    (root / "params/profiles/pocket.yml").write_text(
        f"name: pocket\ntitle: Stub\nmodels: [{', '.join(models)}]\nprompts: stub\nthreads: 1\n"
    )
    (root / "params/experiments/exp90.yml").write_text(
        "key: exp90\ntitle: Stub\nnotebook: exp90_stub.ipynb\nacross: exp90_stub_across.ipynb\n" + SIZES
    )
    (root / "params/published.csv").write_text("id\n")


def resize(root, key, old, new):
    """Change how many prompts the pocket profile gives an experiment."""
    path = root / f"params/experiments/{key}.yml"
    path.write_text(path.read_text().replace(f"n_prompts: {old}", f"n_prompts: {new}"))


def write_second_experiment(root):
    """Write exp91, which needs exp90, for the first model alone, and its notebook."""
    write_notebook(
        root / "notebooks/exp91_stub.ipynb",
        code('model = "ann"\nprofile = "pocket"\nseed = 0', "parameters"), code(READ),
    )  # fmt: skip
    (root / "params/experiments/exp91.yml").write_text(
        "key: exp91\ntitle: Second\nnotebook: exp91_stub.ipynb\nneeds: [exp90]\n" + SIZES
    )
    profile = root / "params/profiles/pocket.yml"
    profile.write_text(profile.read_text().replace(", bob, cid", ""))
