"""A made-up finished result with replies by condition, to be labelled."""

import json

import numpy as np
import xarray as xr

from nbhelpers.core import store
from nbhelpers.models import evaluation
from tests.stubs import REPOSITORY

SOURCE = str(REPOSITORY / "pocket/evaluation.jsonl")
CONDITIONS = ["A", "B_late", "C", "B_late_scrambled"]
OF_EACH = {"conversation": 8, "register": 8, "harmless": 8, "harmful": 8}


def pairs():
    """Return eight records of each kind that people read, with their prompts."""
    return evaluation.core_subset(evaluation.read_evaluation(SOURCE), OF_EACH, seed=0)


def replies():
    """Return a reply of each condition to each record, (condition, prompt): each names its own place."""
    ids = [prompt.id for prompt, _ in pairs()]
    text = np.array(
        [[f"<b>{condition}</b> says {name}" for name in ids] for condition in CONDITIONS], dtype=object
    )
    return xr.DataArray(text, coords={"condition": CONDITIONS, "prompt": ids}, dims=("condition", "prompt"),
                        attrs={"units": "1", "long_name": "reply"})  # fmt: skip


def write(model="ann", experiment="exp90"):
    """Return the path of a result that holds these replies, written into the project of this process."""
    missing = dict.fromkeys(store.PROVENANCE, "made up")
    attributes = missing | {
        "experiment": experiment,
        "model": model,
        "profile": "pocket",
        "seed": 0,
        "wall_time_s": 0.0,
    }
    attributes["parameters"] = json.dumps({"prompts": SOURCE})
    path = store.result_path("pocket", model, experiment)
    return store.save(xr.Dataset({"text": replies()}), path, provenance=attributes)
