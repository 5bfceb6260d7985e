"""The experiments: one folder each, found by its name, and the parameters of their runs.

A slice is a folder `expNN_name/` of this package. Each of its modules is imported only when it is needed:

    experiment.py   `Params`, its parameters; `VARIABLES`, the variables of its dataset; `cost`, if neither
                    `generation_cost` nor `reading_cost` fits; `ARTIFACTS`, the variables of further datasets
    measure.py      the functions that its notebook calls; loads PyTorch if it needs a model
    quantities.py   `quantities(result)`: the quantities of one pair by name, for pages and the ledger
    report.py       tables, figures and `verdict(results)`, the sentences that a page opens with; a slice with many
                    figures has a `figures.py`
    published.py    if the study stored values for it: the files that hold them, and what is drawn of them

Slices never import each other. An experiment of `params/experiments/` without a slice takes `GenerationParams`.
"""

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import xarray as xr

from nbhelpers.core import digests, params, store
from nbhelpers.core.cost import TOKENS, Cost, generation_cost, reading_cost
from nbhelpers.core.params import (
    ParameterError,
    Run,
    checked,
    experiment,
    keys,
    model_params,
    ordered,
    profile_of,
    profile_params,
    suggestion,
)
from nbhelpers.core.schemas import ExperimentParams, GenerationParams, Size
from nbhelpers.core.variables import Variable
from nbhelpers.core.variables import described as variable_texts
from nbhelpers.report.families import family_titles

FOLDER = Path(__file__).parent


@cache
def slices() -> dict[str, str]:
    """Return {key: name of the experiment's folder}, such as {"expNN": "expNN_name"}."""
    found: dict[str, str] = {}
    for name in sorted(path.stem for path in FOLDER.glob("exp*") if (path / "experiment.py").exists()):
        if key_of(name) in found:
            both = f"{found[key_of(name)]} and {name}"
            raise ParameterError(
                f"nbhelpers/experiments has two folders of {key_of(name)}: {both}; rename one."
            )
        found[key_of(name)] = name
    return found


def key_of(name: str) -> str:
    """Return the key that starts a folder's or notebook's name: expNN for expNN_name, expNN_0a for expNN_0a_name."""
    first, *rest = name.split("_")
    if not rest or not rest[0]:
        raise ParameterError(f"{name} must be named by a key and a word, such as exp90_word.")
    return f"{first}_{rest[0]}" if rest[0][0].isdigit() else first


def part(key: str, module: str) -> ModuleType:
    """Return a module of an experiment's slice; ParameterError if there is no slice."""
    if key not in slices():
        raise ParameterError(f"nbhelpers/experiments has no folder of {key}; {suggestion(key, slices())}.")
    return importlib.import_module(f"{__name__}.{slices()[key]}.{module}")


def schema(key: str) -> type[ExperimentParams]:
    """Return the class of an experiment's parameters."""
    return part(key, "experiment").Params if key in slices() else GenerationParams


def variables(name: str) -> dict[str, Variable]:
    """Return the variables that the dataset of an experiment or artifact ("expNN_steps") must hold; none without a slice."""
    if name in slices():
        return part(name, "experiment").VARIABLES
    owner = max((key for key in slices() if name.startswith(f"{key}_")), key=len, default=None)
    artifacts = getattr(part(owner, "experiment"), "ARTIFACTS", {}) if owner else {}
    if owner and name not in artifacts:
        raise ParameterError(f"{owner} declares no dataset {name!r}; {suggestion(name, artifacts)}.")
    return artifacts.get(name, {})


def described(
    dataset: xr.Dataset, run: Run, *, started: float, device: str, name: str | None = None
) -> xr.Dataset:
    """Return a run's dataset with units and long names, and attributes that say where it comes from.

    started: `time.time()` at the start of the run. device: what it ran on. name: the artifact's name, if the dataset is
    not the experiment's own.
    """
    attributes = store.provenance(run, wall_time_s=time.time() - started, device=device)
    whole = variable_texts(dataset, variables(name or run.key))
    return whole.assign_attrs(attributes | {"experiment": name or run.key})


def save(dataset: xr.Dataset, *, steps: Sequence[Path] = ()) -> Path:
    """Return the path of a described dataset after checking and saving it; ResultError if it is not complete.

    An experiment's artifacts are written before its dataset, which records their digests. steps: files of blocks, whose
    steps the file will hold as well.
    """
    a = dict(dataset.attrs)
    path = store.result_path(a["profile"], a["model"], a["experiment"])
    if a["experiment"] in keys("experiments") and (names := experiment(a["experiment"]).artifacts):
        a["artifacts"] = json.dumps(artifact_digests(path.parent, names))
    return store.save(dataset, path, provenance=a, expects=variables(a["experiment"]), steps=steps)


def artifact_digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Return {name: SHA-256} of artifacts in a folder; ResultError if one is missing or cannot be read."""
    try:
        return {name: digests.sha256(folder / name, params.ROOT / "_build" / "digests") for name in names}
    except OSError as error:
        missing = store.shown(Path(error.filename))
        raise store.ResultError(f"the artifact {missing} is missing; write it before the dataset.") from None


def load(profile: str, model: str, name: str) -> xr.Dataset:
    """Return the checked dataset of an experiment or artifact; ResultError with the remedy if there is none."""
    return store.load(store.result_path(profile, model, name), experiment=name, expects=variables(name))


def open_results(profile: str, key: str) -> dict[str, xr.Dataset]:
    """Return {panel title: dataset} for every model of a profile; ResultError names one that is missing."""
    return {title: load(profile, model, key) for model, title in family_titles(profile).items()}


def experiment_params(key: str, profile: str = "pocket", **overrides) -> ExperimentParams:
    """Return an experiment's parameters: its own, overridden by a profile's sizes, overridden by `overrides`.

    A profile that names another as `sizes_of` has its sizes, under its own.
    """
    kind, own, file = schema(key), experiment(key), f"params/experiments/{key}.yml"
    names = [name for name in (profile_params(profile).sizes_of, profile) if name]
    layers = [
        (own.parameters, file),
        *((own.profiles.get(name, {}), f"{file}, profiles: {name}") for name in names),
        (overrides, f"the parameters given for {key}"),
    ]
    merged = {}
    for values, source in layers:
        for name in values:
            if name not in kind.model_fields:
                known = suggestion(name, kind.model_fields)
                raise ParameterError(f"{source}: unknown parameter {name!r}; {known}.")
        merged |= values
        checked(kind, merged, source, whole=False)
    return checked(kind, merged, f"{file}, profiles: {profile}")


def resolve(key: str, *, model: str, profile: str | None = None, **notebook_parameters) -> Run:
    """Return everything one run needs, checked: `.model`, `.profile`, `.experiment`, `.hash`.

    A model's own cap on new tokens applies if it is lower than the experiment's. Raises ParameterError with one sentence.
    """
    profile = profile or profile_of(model)
    pair, chosen = model_params(model), profile_params(profile)
    ordered([key])  # raises ParameterError for experiments that need each other
    if model not in chosen.models:
        known = suggestion(model, chosen.models)
        raise ParameterError(f"the model {model!r} is not in the profile {profile!r}; {known}.")
    values = experiment_params(key, profile, **notebook_parameters)
    if pair.max_new_tokens and getattr(values, "max_new_tokens", 0) > pair.max_new_tokens:
        values = values.model_copy(update={"max_new_tokens": pair.max_new_tokens})
    upstream = {need: resolve(need, model=model, profile=profile).hash for need in experiment(key).needs}
    return Run(key=key, model=pair, profile=chosen, experiment=values, upstream=upstream)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of one run: by its slice's own count, else by `generation_cost` or `reading_cost`.

    needs: the runs that it builds on, with their costs. The tokenizers of a run with models are counted here.
    """
    own = getattr(part(run.key, "experiment"), "cost", None) if run.key in slices() else None
    if own:
        found = own(run, size, needs)
    else:
        generates = isinstance(run.experiment, GenerationParams)
        found = generation_cost(run, size, conditions=2) if generates else reading_cost(needs)
    return replace(found, host=found.host + TOKENS * size.vocabulary) if found.memory else found
