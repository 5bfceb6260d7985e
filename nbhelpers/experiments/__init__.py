"""The experiments: one folder each, found by its name, and the parameters of a run of one.

A slice is a folder `expNN_name/` of this package. Its modules, each imported only when it is asked for:

    experiment.py   `Params`, what it takes; `VARIABLES`, what its dataset holds; `cost`, where that is more than
                    generation or reading; `ARTIFACTS`, further datasets by name
    measure.py      what its notebook calls; loads PyTorch where it needs a model
    quantities.py   `quantities(result)`: what a page or the ledger says of one pair, by name
    report.py       tables, figures and `verdict(results)`, the sentences that a page opens with; where figures are
                    many they have a `figures.py`

Slices never import each other. An experiment of `params/experiments/` without a slice takes `GenerationParams`.
"""

import importlib
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import xarray as xr

from nbhelpers.core import store
from nbhelpers.core.cost import Cost, generation_cost, reading_cost
from nbhelpers.core.params import (
    ParameterError,
    Run,
    checked,
    experiment,
    model_params,
    ordered,
    profile_of,
    profile_params,
    suggestion,
)
from nbhelpers.core.schemas import ExperimentParams, GenerationParams, PromptSet, Size, Texts
from nbhelpers.core.variables import Variable
from nbhelpers.core.variables import described as variable_texts
from nbhelpers.report.families import family_titles

FOLDER = Path(__file__).parent


@cache
def slices() -> dict[str, str]:
    """Return the name of each experiment's folder by its key: {"expNN": "expNN_name"}."""
    keys = sorted(path.stem for path in FOLDER.glob("exp*") if (path / "experiment.py").exists())
    return {key_of(name): name for name in keys}


def key_of(name: str) -> str:
    """Return the key that a folder's or notebook's name begins with: expNN of expNN_name, expNN_0a of expNN_0a_name."""
    first, second = name.split("_")[:2]
    return f"{first}_{second}" if second[0].isdigit() else first


def part(key: str, module: str) -> ModuleType:
    """Return a module of an experiment's slice; ParameterError where there is none."""
    if key not in slices():
        raise ParameterError(f"nbhelpers/experiments has no folder of {key}; {suggestion(key, slices())}.")
    return importlib.import_module(f"{__name__}.{slices()[key]}.{module}")


def schema(key: str) -> type[ExperimentParams]:
    """Return the class of an experiment's parameters."""
    return part(key, "experiment").Params if key in slices() else GenerationParams


def variables(name: str) -> dict[str, Variable]:
    """Return what the dataset of an experiment, or an artifact such as "expNN_steps", must hold; nothing without a slice."""
    if name in slices():
        return part(name, "experiment").VARIABLES
    owner = name.rpartition("_")[0]
    return part(owner, "experiment").ARTIFACTS[name] if owner in slices() else {}


def described(
    dataset: xr.Dataset, run: Run, *, started: float, device: str, name: str | None = None
) -> xr.Dataset:
    """Return a run's dataset with units and long names, and attributes that say where it comes from.

    started: `time.time()` at the start of the run; device: what it ran on. name: an artifact's, for a dataset beside the
    experiment's own.
    """
    attributes = store.provenance(run, wall_time_s=time.time() - started, device=device)
    whole = variable_texts(dataset, variables(name or run.key))
    return whole.assign_attrs(attributes | {"experiment": name or run.key})


def save(dataset: xr.Dataset) -> Path:
    """Return the path of a described dataset once it is checked and on disk, whole; ResultError where it is not complete."""
    a = dataset.attrs
    path = store.result_path(a["profile"], a["model"], a["experiment"])
    return store.save(dataset, path, provenance=a, expects=variables(a["experiment"]))


def load(profile: str, model: str, name: str) -> xr.Dataset:
    """Return the checked dataset of an experiment or artifact; ResultError with the remedy where there is none."""
    return store.load(store.result_path(profile, model, name), experiment=name, expects=variables(name))


def open_results(profile: str, key: str) -> dict[str, xr.Dataset]:
    """Return panel title → dataset for every model of a profile; ResultError names one that is missing."""
    return {title: load(profile, model, key) for model, title in family_titles(profile).items()}


def experiment_params(key: str, profile: str = "pocket", **overrides) -> ExperimentParams:
    """Return an experiment's parameters: its own, then the sizes of a profile, then `overrides`."""
    kind, own, file = schema(key), experiment(key), f"params/experiments/{key}.yml"
    layers = [
        (own.parameters, file),
        (own.profiles.get(profile_params(profile).name, {}), f"{file}, profiles: {profile}"),
        (overrides, f"the parameters given for {key}"),
    ]
    merged = {}
    for values, source in layers:
        for name in values:
            if name not in kind.model_fields:
                known = suggestion(name, kind.model_fields)
                raise ParameterError(f"{source}: unknown parameter {name!r}; {known}.")
        merged |= values
        checked(kind, _complete(kind) | merged, source)
    return checked(kind, merged, f"{file}, profiles: {profile}")


def _complete(kind: type[ExperimentParams]) -> dict:
    """Return stand-ins for the values that only a profile gives, so that each layer is checked by itself."""
    stand_ins = {int: 64, str: "none", str | PromptSet: "none", float: 1.0, Texts: {"path": "none"}}
    return {name: stand_ins[f.annotation] for name, f in kind.model_fields.items() if f.is_required()}


def resolve(key: str, *, model: str, profile: str | None = None, **notebook_parameters) -> Run:
    """Return everything one run needs, checked: `.model`, `.profile`, `.experiment`, `.hash`.

    A model's own cap on new tokens wins over the experiment's. Raises ParameterError with one sentence.
    """
    profile = profile or profile_of(model)
    pair, chosen = model_params(model), profile_params(profile)
    ordered([key])  # refuses experiments that need each other
    if model not in chosen.models:
        known = suggestion(model, chosen.models)
        raise ParameterError(f"the model {model!r} is not in the profile {profile!r}; {known}.")
    values = experiment_params(key, profile, **notebook_parameters)
    if pair.max_new_tokens and getattr(values, "max_new_tokens", 0) > pair.max_new_tokens:
        values = values.model_copy(update={"max_new_tokens": pair.max_new_tokens})
    upstream = {need: resolve(need, model=model, profile=profile).hash for need in experiment(key).needs}
    return Run(key=key, model=pair, profile=chosen, experiment=values, upstream=upstream)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what one run takes: as its slice counts, or as one that generates, or that only reads, does.

    needs: the runs that it builds on, with what they take.
    """
    own = getattr(part(run.key, "experiment"), "cost", None) if run.key in slices() else None
    if own:
        return own(run, size, needs)
    generates = isinstance(run.experiment, GenerationParams)
    return generation_cost(run, size, conditions=2) if generates else reading_cost(needs)
