"""What tests ask of a chart's specification: its data, its encodings, its controls."""

import inspect

import altair as alt
import pandas as pd

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.core.variables import described


def spec_of(chart):
    """Return the specification of a chart, or what is one."""
    return chart if isinstance(chart, dict) else chart.to_dict()


def rows(chart):
    """Return the data of a chart, a row for each entry of a list."""
    (data,) = spec_of(chart)["datasets"].values()
    table = pd.DataFrame(data)
    lists = [name for name in table if isinstance(table[name].iloc[0], list)]
    return table.explode(lists, ignore_index=True).infer_objects() if lists else table


def encodings(node):
    """Yield every encoding of a specification."""
    if isinstance(node, dict):
        if "encoding" in node:
            yield node["encoding"]
        for inner in node.values():
            yield from encodings(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from encodings(inner)


def controls(chart):
    """Return what a reader chooses: field → values, of which one is shown first."""
    found = {}
    for control in spec_of(chart).get("params", []):
        field, values = control["name"].removeprefix("shown_"), control["bind"]["options"]
        assert control["value"] in values
        found[field] = values
    return found


def shown_first(chart):
    """Return what a chart shows before a reader chooses: field → value."""
    return {p["name"].removeprefix("shown_"): p["value"] for p in spec_of(chart).get("params", [])}


def pairs_of(chart):
    """Return the titles of the pairs in the order of their panels or rows."""
    facet = spec_of(chart).get("facet", {})
    if facet.get("field") == "panel":
        return facet["sort"]
    return next(e["y"]["sort"] for e in encodings(spec_of(chart)) if e.get("y", {}).get("field") == "panel")


def nodes(spec):
    """Yield every object inside a specification, its data aside."""
    inner = [spec] if isinstance(spec, dict) else []
    while inner:
        node = inner.pop()
        yield node
        for name, child in node.items():
            if name not in ("datasets", "data"):
                inner += [
                    one for one in (child if isinstance(child, list) else [child]) if isinstance(one, dict)
                ]


def filters(chart):
    """Return the filters that the controls set, as text."""
    return [step["filter"] for step in spec_of(chart).get("transform", []) if "filter" in step]


def complete(found, key):
    """Return a dataset with its units and long names once it holds what an experiment declares; ResultError otherwise."""
    declared = experiments.variables(key)
    return store.validate(described(found, declared), declared)


def chart_makers(*modules):
    """Return the names of the public functions of modules that return a chart."""
    return {
        name
        for module in modules
        for name, member in vars(module).items()
        if inspect.isfunction(member) and member.__module__ == module.__name__ and not name.startswith("_")
        and inspect.signature(member).return_annotation is alt.Chart
    }  # fmt: skip
