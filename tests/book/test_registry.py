"""The registry and the levels of checking: one entry an experiment, from parameters, notebooks and what results record."""

import json
import re
from collections import Counter

import pytest

from nbhelpers.book import catalogue, levels, markdown, pages
from nbhelpers.core import params
from nbhelpers.report.charts import VEGALITE
from tests.stubs import REPOSITORY

KEYS = params.ordered()


@pytest.fixture
def timed(monkeypatch):
    """Make every experiment take 3 s on one pair and 5.4 s on another."""
    made = {"one": {"wall_time_s": 3.0}, "two": {"wall_time_s": 5.4}}
    for module in (catalogue, levels):
        monkeypatch.setattr(module, "attributes", lambda profile, key: made)


@pytest.fixture
def ran(project):
    """Return the root of a project of three stub models, every notebook of which has been run by some version."""
    for path in ("ann/exp90_stub", "bob/exp90_stub", "cid/exp90_stub", "exp90_stub_across"):
        place = project / f"_build/runs/pocket/{path}.ipynb"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    return project


def test_claims_are_counted_by_verdict(monkeypatch):
    counts = {"exp09": Counter(supported=2, contradicted=1)}
    monkeypatch.setattr(catalogue, "audits", lambda key: counts.get(key, Counter()))
    assert catalogue.claims("exp09") == (
        '<a href="runs/exp09_across.html#published">2 supported, 1 contradicted</a>'
    )
    assert catalogue.claims("exp01") == "none"
    counts["exp09"] = Counter({"artifact value": 1})
    assert ">1 artifact value<" in catalogue.claims("exp09")
    counts["exp09"] = Counter({"artifact value": 2, "supported": 2})
    assert ">2 supported, 2 artifact values<" in catalogue.claims("exp09")


def test_the_counts_are_those_of_the_published_figures():
    rows = (REPOSITORY / "params/published.csv").read_text(encoding="utf-8").splitlines()
    found = [
        catalogue.audits(key) for key in (*params.keys("experiments"), "study")
    ]  # facts about the study too
    assert sum(counts.total() for counts in found) == len(rows) - 1
    assert {name for counts in found for name in counts} <= set(catalogue.VERDICTS)


@pytest.mark.parametrize("old", [[], ["ann/exp90_stub"], ["ann/exp90_stub", "exp90_stub_across"]])
def test_the_status_counts_what_is_out_of_date(ran, monkeypatch, old):
    paths = [ran / f"_build/runs/pocket/{name}.ipynb" for name in old]
    monkeypatch.setattr(catalogue.graph, "outdated", lambda profile: paths)
    wanted = f"out of date: {len(old)} of 4 notebooks" if old else "current"
    assert catalogue.states("pocket") == {"exp90": wanted}


def test_a_notebook_that_was_not_run_is_missing(ran, monkeypatch):
    path = ran / "_build/runs/pocket/bob/exp90_stub.ipynb"
    path.unlink()
    monkeypatch.setattr(catalogue.graph, "outdated", lambda profile: [path])
    assert catalogue.states("pocket") == {"exp90": "missing: 1 of 4 notebooks"}


def test_an_experiment_has_one_row_with_its_question_time_and_status(timed, monkeypatch):
    monkeypatch.setattr(catalogue, "states", lambda profile: dict.fromkeys(KEYS, "current"))
    keys = pages.in_order()
    rows = re.findall(r'<tr><th scope="row">(.+?)</th>(.+?)</tr>', catalogue.entries("pocket", keys))
    assert [re.search(r">(exp\w+)</a>", first)[1] for first, _ in rows] == keys
    for key, (_, rest) in zip(keys, rows):
        cells = re.findall(r'data-of="([^"]+)">(.*?)</td>', rest)
        assert dict(cells)["time, s"] == "3–5" and dict(cells)["status"] == "current"
        assert markdown.inline(catalogue.question(key).replace("*", "")) in rest
        assert f'href="runs/{params.experiment(key).across.removesuffix(".ipynb")}.html"' in rest


def test_an_entry_names_inputs_figures_code_and_variables():
    text = catalogue.details("pocket", ["exp09"])
    assert text.startswith("(exp09)=\n### exp09: ")
    assert '<li>Reads the results of: <a href="#exp00">exp00</a>.</li>' in text
    assert "<li>Figures: " in text and '<a href="runs/exp09_across.html#main-figure">main figure</a>' in text
    assert "exp09_convergence_gap/measure.html" in text
    assert "| `kl_final_layer` | variant, lens, prompt, layer | nats | KL(final ‖ layer) |" in text
    first = catalogue.details("pocket", ["exp00"])
    assert "<li>Texts: <code>pocket/prompts.jsonl</code>.</li>" in first
    assert "<li>Sizes in the profile paper: <code>n_prompts: " in first
    assert '<a href="runs/llama_pocket/exp00_observations.html">Pocket Llama</a>' in first


def test_an_entry_lists_the_variables_of_artifacts():
    text = catalogue.details("pocket", ["exp11"])
    assert "`exp11.nc`, `exp11_steps.nc`" in text


def test_cells_are_figures_or_tables_by_what_they_show(tmp_path):
    def cell(name, kind):
        outputs = [{"data": {kind: ""}}] if kind else []
        return {"cell_type": "code", "metadata": {"name": name}, "source": "", "outputs": outputs}

    cells = [
        cell("a", VEGALITE), cell("b", "text/html"), cell("verdict", "text/markdown"), cell("c", None),
    ]  # fmt: skip
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert catalogue.shown(path) == (["a"], ["b"])


def test_every_level_has_its_command_cost_and_meaning(timed, monkeypatch, tmp_path):
    monkeypatch.setattr(levels, "durations", lambda profile, keys: [60.0, 30.0])
    monkeypatch.setattr(levels, "kept", lambda profile: 2**29)
    text = levels.levels("pocket", ["exp00", "exp09"])
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.+?)</tr>', text)
    assert [name for name, _ in rows] == ["read", "redraw", "rerun", "laptop", "paper"]
    cells = {name: dict(re.findall(r'data-of="([^"]+)">(.*?)</td>', rest)) for name, rest in rows}
    assert all(set(of) == set(levels.HEADER[1:]) and all(of.values()) for of in cells.values())
    assert cells["redraw"]["time"].startswith("90 s") and cells["rerun"]["time"].startswith("17 s")
    assert cells["rerun"]["disk"] == "0.5 GiB" and "on the GPU" in cells["paper"]["memory"]
    assert "at 300 TFLOPS" in cells["paper"]["time"]


def test_a_profile_that_is_shown_is_not_planned_too(timed, monkeypatch):
    monkeypatch.setattr(levels, "durations", lambda profile, keys: [1.0])
    monkeypatch.setattr(levels, "kept", lambda profile: 1)
    text = levels.levels("laptop", ["exp00"])
    assert "make book PROFILE=paper" in text and text.count("make book PROFILE=laptop") == 1


def test_sizes_that_are_not_known_are_a_dash(project):
    assert levels.costs("pocket", ["exp90"]) == [] and levels.memory("pocket", []) == levels.UNKNOWN


def test_checksums_are_those_of_the_files(project):
    folder = project / "_build/results/pocket/ann"
    for name in ("ann", "bob", "cid"):
        (folder.parent / name).mkdir(parents=True)
    (folder / "exp90.nc").write_bytes(b"abc")
    (folder / "notes.txt").write_bytes(b"no result")
    text = levels.checksums("pocket")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert f"| `ann/exp90.nc` | 3 | `{digest}` |" in text and "1 files" in text and "notes" not in text
    assert levels.kept("pocket") == 3
