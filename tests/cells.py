"""A notebook's code cells, run in this process on given results and parameters, and nothing saved."""

import ast
import json

import altair as alt

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.run import notebooks


def code(key):
    """The sources of the code cells of an experiment's notebook."""
    path = params.ROOT / "notebooks" / params.experiment(key).notebook
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(monkeypatch, key, upstream, *, model="llama_pocket", **given):
    """What the cells define, with parameters as given; upstream: {name: dataset} of what the experiment reads."""
    resolve, cells = experiments.resolve, code(key)
    with_given = lambda name, **known: resolve(name, **(known | given if name == key else known))  # noqa: E731
    monkeypatch.setattr(experiments, "resolve", with_given)
    monkeypatch.setattr(experiments, "load", lambda profile, model, name: upstream[name])
    monkeypatch.setattr(experiments, "save", lambda dataset: params.ROOT / "_build" / "nothing.nc")
    monkeypatch.setattr(notebooks, "upstream", lambda run, name: upstream[name])
    scope = {}
    exec(cells[0], scope)
    scope |= {"model": model} | {name: value for name, value in given.items() if name in scope}
    for cell in cells[1:]:
        tree = ast.parse(cell)
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, key, "exec"), scope)
        if shown:
            value = eval(compile(ast.Expression(shown.value), key, "eval"), scope)
            if isinstance(value, alt.TopLevelMixin):
                value.to_dict()  # a chart that cannot be drawn fails only when it is shown
    return scope
