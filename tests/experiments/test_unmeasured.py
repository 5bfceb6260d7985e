"""Architectures that lack neurons, attention or known weights: every experiment runs to its end and says what is missing."""

import inspect

import altair as alt
import numpy as np
import pandas as pd
import pytest

from nbhelpers import experiments
from nbhelpers.core import params, unmeasured
from nbhelpers.measures import prompt_end
from nbhelpers.report import geometry_charts, ledger
from tests import cells, synthetic

WHY = {
    "neurons": "ann: no neurons",
    "attention": "ann: no weights of attention",
    "weights": "ann: odd tensors",
}
# The variables of each part, by the beginning of their names, and the experiments whose datasets hold them.
VARIABLES = {
    "neurons": ("neuron", "gini", "n50", "n90", "sample_", "fit"),
    "attention": ("attention_",),
    "weights": ("weight_", "outside_"),
}
PARTS = {
    "exp01": ("neurons",), "exp02": ("weights",), "exp03": ("neurons",), "exp04": ("attention",),
    "exp09": ("attention", "weights"), "exp00": ("neurons", "attention", "weights"),
}  # fmt: skip
every = pytest.mark.parametrize("key", PARTS)


def lacking(dataset, parts):
    """A dataset in which the variables of parts are NaN, with the notes that exp00 makes."""
    for part in parts:
        names = [n for n in dataset if n.startswith(VARIABLES[part]) and dataset[n].dtype.kind in "fi"]
        assert names
        dataset = dataset.assign({name: dataset[name] * np.nan for name in names})
        dataset = unmeasured.noted(dataset, part, WHY[part])
    if "attention" in parts and "profile" in dataset.dims:  # exp04's tests of a profile that was not measured
        at = dataset["profile"].str.startswith("|attention")
        dataset = dataset.assign({n: dataset[n].where(~at) for n in ("statistic", "p_permuted", "p_window")})
    return dataset


def drawn(key, results):
    """Every figure and table of an experiment's report, by name."""
    modules = [experiments.part(key, "report"), geometry_charts if key in ("exp02", "exp04") else None]
    found = {}
    for module in filter(None, modules):
        for name, make in vars(module).items():
            shown = inspect.isfunction(make) and make.__module__ == module.__name__
            kind = inspect.signature(make).return_annotation if shown else None
            first = list(inspect.signature(make).parameters.values()) if shown else []
            rest = all(p.default is not p.empty for p in first[1:]) and first and first[0].name == "results"
            only = {"dimension_profile": "exp04", "attention_shift": "exp04", "weight_change": "exp02"}.get(
                name, key
            )
            if kind in (alt.Chart, pd.DataFrame) and rest and only == key:
                found[name] = make(results)
                if kind is alt.Chart:
                    found[name].to_dict()
    return found


@every
def test_a_pair_that_lacks_parts_has_every_page(key):
    made = lacking(synthetic.dataset("llama", key, n_prompts=24), PARTS[key])
    results = {"Ann": made}
    found = drawn(key, results)
    charts = [chart for chart in found.values() if isinstance(chart, alt.Chart)]
    said = [" ".join(np.atleast_1d(chart.title)) for chart in charts if isinstance(chart.title, str | list)]
    assert all(chart.description.endswith(".") for chart in charts)
    expected = {"exp00": 0, "exp01": 3, "exp09": 0}.get(key, 1)
    assert sum(title.startswith("not measured: ") for title in said) == expected
    verdict = str(experiments.part(key, "report").verdict(results))
    for part in PARTS[key]:
        assert f"Not measured: {part} ({WHY[part]})." in verdict
    assert "nan" not in verdict


@every
def test_a_pair_that_lacks_parts_is_named_beside_others(key):
    results = {t: d for t, d in synthetic.results(key, n_prompts=24).items() if t in ("Gemma", "Qwen")}
    results["Ann"] = lacking(synthetic.dataset("llama", key, n_prompts=24), PARTS[key])
    found = drawn(key, results)
    said = [
        chart.to_dict()["title"] for chart in found.values() if isinstance(chart, (alt.Chart, alt.FacetChart))
    ]
    titles = [title["subtitle"] for title in said if isinstance(title, dict) and "subtitle" in title]
    named = [title if isinstance(title, str) else " ".join(title) for title in titles]  # a long one in lines
    assert all("Ann: ann:" in title for title in named)
    assert len(named) == {"exp00": 0, "exp01": 3, "exp09": 0}.get(key, 1)
    verdict = str(experiments.part(key, "report").verdict(results))
    for part in PARTS[key]:
        assert f"Not measured: {part} (Ann: {WHY[part]})." in verdict


@every
def test_no_quantity_is_made_of_what_was_not_measured(key):
    source = experiments.part(key, "quantities")
    made = synthetic.dataset("llama", key, n_prompts=24)
    before, after = (
        ledger.measured(source.quantities(d), n_resamples=100)["value"]
        for d in (made, lacking(made, PARTS[key]))
    )
    assert list(before.index) == list(after.index)
    known = after.notna()
    # Of exp04's profiles, those that were measured are counted.
    for name, fewer in {"profiles": 1, "third_by_chance": 0.1}.items():
        if name in before:
            before[name] -= fewer
    np.testing.assert_allclose(after[known], before[known])
    words = {
        "neurons": ("gini", "n50", "n90", "neuron", "attribution"),
        "attention": ("attention",),
        "weights": ("weight",),
    }
    for part in PARTS[key]:
        assert not known[[name for name in after.index if name.startswith(words[part])]].any()


def observed():
    """exp00's made-up dataset, with clouds that have neighbours."""
    made = synthetic.dataset("llama", "exp00", n_prompts=12)
    states = np.random.default_rng(0).normal(size=(20, made.sizes["layer"], 24)).astype("float32")
    cloud = prompt_end.cloud(states, 32)
    whole = {"template": made["template"], "variant": made["variant"]}
    return made.drop_dims(["neighbour", "axis"]).assign({
        name: cloud[name].expand_dims(whole) for name in ("neighbour_distance", "neighbour_index", "spectrum")
    })  # fmt: skip


@pytest.mark.parametrize("key", ["exp03", "exp04", "exp09", "exp07_0j"])
def test_a_notebook_runs_to_its_end_on_what_exp00_left_out(key, monkeypatch):
    parts = ("neurons", "attention", "weights")
    scope = cells.run(monkeypatch, key, {"exp00": lacking(observed(), parts)}, n_resamples=100)
    noted = unmeasured.reasons(scope["result"])
    assert {part: noted.get(part) for part in PARTS.get(key, ())} == {
        part: WHY[part] for part in PARTS.get(key, ())
    }
    assert params.ROOT / "_build" / "nothing.nc" == scope["path"]
