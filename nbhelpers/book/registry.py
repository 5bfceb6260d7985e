"""The tables of the page on reproducibility: where every result comes from. Each function returns MyST Markdown.

keys: the experiments, in the order of the book.
"""

import json

from nbhelpers import experiments
from nbhelpers.book.markdown import table
from nbhelpers.core import params, store


def attributes(profile: str, experiment: str) -> dict[str, dict]:
    """Return {model: attributes} of an experiment's results."""
    return store.of_profile(profile, experiment, store.attributes)


def provenance(profile: str, keys: list[str]) -> str:
    """Return one closed part for each experiment: the provenance of its results and its parameters."""
    parts = {
        f"{params.experiment(key).title} (`{key}`)": f"{_origins(profile, key)}\n\n{_parameters(profile, key)}"
        for key in keys
    }
    return "\n\n".join(f"::::{{dropdown}} {title}\n{text}\n::::" for title, text in parts.items())


def _origins(profile: str, key: str) -> str:
    """Return the table of where an experiment's results come from: one row per model."""
    rows = []
    found = store.of_profile(profile, key, store.attributes, expects=experiments.variables(key))
    sizes = store.of_profile(profile, key, store.sizes)
    for model, a in found.items():
        hashed, version = f"`{a['parameter_hash']}`", f"`{a['code_version']}`"
        rows.append([
            f"`{model}`", sizes[model].get("prompt", "–"), hashed, version, a["seed"], a["device"],
            seconds(a["wall_time_s"]), str(a["created"])[:10],
        ])  # fmt: skip
    return table(
        ["model", "prompts", "parameter hash", "code version", "seed", "device", "time, s", "made"], rows
    )


def _parameters(profile: str, key: str) -> str:
    """Return the table of an experiment's parameters in this profile: one row per parameter."""
    values = experiments.experiment_params(key, profile)
    about = type(values).model_fields
    rows = [
        [f"`{name}`", f"`{value}`", about[name].description or ""]
        for name, value in values.model_dump().items()
    ]
    return table(["parameter", "value", ""], rows) if rows else "It has no parameters of its own."


def behind(key: str) -> list[str]:
    """Return the experiments that an experiment builds on, directly or through others, each once."""
    return [name for name in params.ordered([key]) if name != key]


def times(profile: str, keys: list[str]) -> str:
    """Return the table of run times, s: of each experiment alone, and with all that it builds on; from pair to pair."""
    took = {
        key: {model: float(a["wall_time_s"]) for model, a in attributes(profile, key).items()}
        for key in params.ordered(keys)
    }
    rows = []
    for key in keys:
        needed = behind(key)
        whole = [own + sum(took[need][model] for need in needed) for model, own in took[key].items()]
        named = ", ".join(params.experiment(need).title for need in needed) or "–"
        rows.append([params.experiment(key).title, span(took[key].values()), named, span(whole)])
    every = [sum(of[model] for of in took.values()) for model in took[keys[0]]] if keys else []
    rows.append(["all experiments of a pair", "", "", span(every)])
    return table(["experiment", "alone, s", "builds on", "with these, s"], rows)


def seconds(value) -> str:
    """Return a time in whole seconds as text."""
    return f"{float(value):.0f}"


def span(values) -> str:
    """Return the least and the largest of times as text, or the one."""
    values = list(values)
    return "–".join(dict.fromkeys(seconds(value) for value in (min(values), max(values)))) if values else ""


def revisions(profile: str, keys: list[str]) -> str:
    """Return the table of measured checkpoints: one row per model; several versions if experiments differ."""
    found: dict[str, dict[str, dict]] = {}
    for key in keys:
        for model, a in attributes(profile, key).items():
            measured = json.loads(a["model_revisions"])
            for name in params.VARIANTS:
                found.setdefault(model, {}).setdefault(name, {})[f"`{measured[name]}`"] = None
    rows = [[f"`{model}`", *(", ".join(of[name]) for name in params.VARIANTS)] for model, of in found.items()]
    return table(["model", "PT", "IT"], rows)


def libraries(profile: str, keys: list[str]) -> str:
    """Return the table of the library versions behind the results; several versions if results differ."""
    found: dict[str, set[str]] = {}
    for key in keys:
        for a in attributes(profile, key).values():
            for name, version in json.loads(a["libraries"]).items():
                found.setdefault(name, set()).add(version)
    return table(["library", "version"], [[name, ", ".join(sorted(of))] for name, of in found.items()])
