"""Order and titles of models on pages, and which of them stand beside published figures."""

import json

import pandas as pd
import pytest
import xarray as xr

from nbhelpers.core import params
from nbhelpers.report import families, ledger, text
from tests import synthetic


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Return a function that writes models, {key: lines of YAML}, into a profile of a project of their own."""
    monkeypatch.setattr(params, "ROOT", tmp_path)
    for kind in ("models", "profiles"):
        (tmp_path / "params" / kind).mkdir(parents=True)
    (tmp_path / "params/published.csv").symlink_to(synthetic.REPOSITORY / "params/published.csv")

    def write(**found):
        for key, lines in found.items():
            text = f"key: {key}\npt: {{hub: a/b}}\nit: {{hub: a/c}}\n{lines}\n"
            (tmp_path / f"params/models/{key}.yml").write_text(text)
        keys = ", ".join(found)
        text = f"name: mine\ntitle: Mine\nmodels: [{keys}]\nprompts: p.jsonl\n"
        (tmp_path / "params/profiles/mine.yml").write_text(text)
        return families.family_titles("mine")

    return write


def test_one_model_is_called_by_its_title(models):
    assert models(a="family: llama\npublished_as: llama\ntitle: My model") == {"a": "My model"}


def test_families_of_the_study_come_first_and_the_others_by_name(models):
    found = models(
        z="family: zephyr\ntitle: Z",
        q="family: qwen\npublished_as: qwen\ntitle: My Qwen",
        s="family: smol lm\ntitle: S",
        l="family: llama\ntitle: Of another size",
    )
    assert list(found.items()) == [("l", "Of another size"), ("q", "My Qwen"), ("s", "S"), ("z", "Z")]


def test_two_models_of_one_title_are_told_apart(models):
    assert models(a="family: x\ntitle: T", b="family: y\ntitle: T") == {"a": "T (a)", "b": "T (b)"}


def test_only_a_pair_that_says_so_stands_beside_a_familys_figures(models):
    models(a="family: llama\ntitle: A", b="family: own\npublished_as: llama\ntitle: B")
    made = synthetic.dataset("llama", n_prompts=24)
    results = {key: made.assign_attrs(model=key) for key in ("a", "b")}
    table = ledger.ledger("exp09", results, synthetic.experiments.part("exp09", "quantities"))
    assert set(table.loc[table["run"].notna(), "title"]) == {"b"}
    alone = ledger.beside("exp09", {"a": results["a"]}, synthetic.experiments.part("exp09", "quantities"))
    assert alone.table.loc["a", "published"].startswith("the study has no figures of this pair")


def test_every_notebook_shows_its_ledger_for_a_pair_without_published_figures(models):
    models(a="family: own\ntitle: A")
    results = {"A": xr.Dataset(attrs={"model": "a"})}
    shown = {}
    for path in sorted((synthetic.REPOSITORY / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "ledger.beside(" in source:
                shown[path.stem] = eval(source, {"ledger": ledger, "results": results, "quantities": None})
    assert len(shown) > 10
    for found in shown.values():
        assert found.table.loc["A", "published"].startswith("the study has no figures of this pair")


def test_a_mixture_of_experts_is_in_no_dense_pool(models):
    models(a="family: llama\ntitle: A\nmixture: true", b="family: deepseek\ntitle: B")
    assert [families.is_dense(xr.Dataset(attrs={"model": key})) for key in "ab"] == [False, True]


def test_a_model_beside_the_six_changes_no_mean_of_theirs(models):
    written = {f"{f}_pocket": f"family: {f}\npublished_as: {f}\ntitle: {f}" for f in params.FAMILIES}
    models(**written, other="family: other\ntitle: Other")
    results = {f: synthetic.dataset(f, n_prompts=24) for f in params.FAMILIES}
    source = synthetic.experiments.part("exp09", "quantities")
    six = ledger.ledger("exp09", results, source, n_resamples=100)
    more = results | {"Other": synthetic.dataset("llama", seed=7, n_prompts=24).assign_attrs(model="other")}
    seven = ledger.ledger("exp09", more, source, n_resamples=100)
    assert six["run"].equals(seven["run"])


def test_the_confidence_of_stored_intervals_is_the_runs():
    made = synthetic.dataset("llama", "exp01", n_prompts=24)
    assert text.level({"A": made}) == "95 %"
    other = {"A": made.assign_attrs(parameters='{"confidence": 0.9}')}
    assert text.level(other) == "90 %"
    table = synthetic.experiments.part("exp01", "report").fit_table(other)
    assert table.columns.name == "90 % intervals over prompts"


def test_a_table_of_one_pair_stands_on_its_side_without_its_title():
    table = pd.DataFrame({"a": ["1", "3"], "b": ["2", "4"]}, index=["Ann", "Bob"])
    assert families.turned(table, {"Ann": None, "Bob": None}).equals(table)
    one = families.turned(table.iloc[:1], {"Ann": None})
    assert one.to_dict() == {"this pair": {"a": "1", "b": "2"}}
