"""The supplement: what it holds, that the same inputs give the same bytes, what its metadata says, and when it refuses."""

import json
import os
import re
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from rocrate.rocrate import ROCrate

from nbhelpers.book import archive
from nbhelpers.book import crate as metadata
from nbhelpers.core import params, store
from nbhelpers.run import graph, results
from tests import supplements
from tests.supplements import DATA, MODEL


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the root of a project with a supplement to write."""
    return supplements.project(tmp_path / "project", monkeypatch)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the path of a supplement, written once for the tests that only read it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        supplements.project(tmp_path_factory.mktemp("supplement") / "project", monkeypatch)
        path, left_out = archive.write("pocket")
        assert not left_out
        yield path


def result():
    """Return the path of one result."""
    return store.result_path("pocket", MODEL, "exp09")


def crate(path):
    """Return {id: entity} of a supplement's RO-Crate."""
    with zipfile.ZipFile(path) as file:
        return {entity["@id"]: entity for entity in json.loads(file.read(archive.CRATE))["@graph"]}


def test_it_holds_everything_once_with_its_checksum(written):
    assert written == params.ROOT / "_build/supplement-pocket.zip"
    with zipfile.ZipFile(written) as file:
        names = file.namelist()
        assert len(names) == len(set(names))
        sums = dict(reversed(line.split("  ")) for line in file.read(archive.SUMS).decode().splitlines())
    assert sums.keys() == set(names) - {archive.SUMS}
    expected = {"html/index.html", "CITATION.cff", ".zenodo.json", archive.CRATE, archive.ABOUT, "nbhelpers/one.py",
                "params/profiles/pocket.yml", "notebooks/exp09_convergence_gap.ipynb"}  # fmt: skip
    expected |= {f"{DATA}/{path.name}" for path in result().parent.iterdir()}
    assert expected <= set(names)
    assert not [name for name in names if "model.safetensors" in name]  # checkpoints stay in the repository


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(written):
    first = written.read_bytes()
    for path in params.ROOT.rglob("*.yml"):
        os.utime(path, (1, 1))
    written.unlink()
    assert archive.write("pocket")[0].read_bytes() == first


def test_each_dataset_names_what_made_it(written):
    found = crate(written)
    for key in supplements.KEPT:
        attributes = store.attributes(store.result_path("pocket", MODEL, key))
        action = found[f"#run/pocket/{MODEL}/{key}"]
        assert action["@type"] == "CreateAction"
        instrument = found[action["instrument"]["@id"]]
        assert instrument["@id"] == f"notebooks/{params.experiment(key).notebook}"
        assert "SoftwareSourceCode" in instrument["@type"] and re.fullmatch(
            "[0-9a-f]{64}", instrument["sha256"]
        )
        made = action["result"] if isinstance(action["result"], list) else [action["result"]]
        assert {"@id": f"{DATA}/{key}.nc"} in made
        took = datetime.fromisoformat(action["endTime"]) - datetime.fromisoformat(action["startTime"])
        assert abs(took.total_seconds() - float(attributes["wall_time_s"])) <= 1
        read = {each["@id"] for each in action["object"]}
        assert {f"{DATA}/{need}.nc" for need in params.experiment(key).needs} <= read
        values = {
            found[each]["name"]: found[each]["value"] for each in read if each.startswith("#parameter/")
        }
        assert values.keys() == json.loads(attributes["parameters"]).keys()


def test_the_crate_keeps_to_its_profiles_and_leads_nowhere_else(written):
    found, names = crate(written), zipfile.ZipFile(written).namelist()
    top = found["./"]
    assert (
        top["mainEntity"] == {"@id": "Snakefile"} and "ComputationalWorkflow" in found["Snakefile"]["@type"]
    )
    assert found["#run"]["instrument"] == {"@id": "Snakefile"}
    (cited,) = yaml.safe_load((params.ROOT / "CITATION.cff").read_text(encoding="utf-8"))["authors"]
    assert found[top["author"]["@id"]]["name"] == cited["name"]
    lists = [value for entity in found.values() for value in entity.values() if isinstance(value, list)]
    assert all(len(value) != 1 for value in lists)  # as RO-Crate recommends
    conforms = {each["@id"] for each in top["conformsTo"]}
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in conforms and conforms <= found.keys()
    for entity in found.values():  # every reference is described, every file is there
        for value in entity.values():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and not each["@id"].startswith("http"):
                    assert each["@id"] in found, each
        if "File" in entity["@type"]:
            assert entity["@id"] in names
        if entity["@type"] == "Dataset" and entity["@id"] != "./":
            assert any(name.startswith(entity["@id"]) for name in names) or entity["@id"] == "runs/pocket/"


def test_large_captures_are_left_out_last_first_and_named(root, monkeypatch):
    capture = store.result_path("pocket", MODEL, "exp00")
    monkeypatch.setattr(archive, "LIMIT", archive.MARGIN + capture.stat().st_size)
    path, left_out = archive.write("pocket")
    assert left_out.keys() == {f"{DATA}/exp00.nc"}
    assert path.stat().st_size <= archive.LIMIT
    with zipfile.ZipFile(path) as file:
        about = file.read(archive.ABOUT).decode()
        assert f"{DATA}/exp09.nc" in file.namelist() and f"{DATA}/exp00.nc" not in file.namelist()
    assert left_out[f"{DATA}/exp00.nc"] in about and "`datasets/pocket/llama_pocket/exp00.nc`" in about
    assert f"{DATA}/exp00.nc" not in crate(path)


def test_texts_that_are_too_large_are_refused_and_nothing_is_written(root, monkeypatch):
    store.write_whole(archive.archive_path("pocket"), b"an earlier one")
    monkeypatch.setattr(archive, "LIMIT", archive.MARGIN + 10)
    with pytest.raises(store.ResultError, match="alone pass 1 MB"):
        archive.write("pocket")
    assert archive.archive_path("pocket").read_bytes() == b"an earlier one"
    assert not list(Path(root, "_build").glob(".*partial"))


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda root: (root / "_build/html/index.html").unlink(), "there is no book of the profile pocket"),
        (lambda root: results.shows("laptop"), "there is no book of the profile pocket"),
        (lambda root: (root / "book/one.py").write_text("other"), "is older than its sources or notebooks"),
        (lambda root: result().unlink(), "exp09 · llama_pocket: there is no result"),
        (lambda root: result().write_text("x"), "is damaged"),
    ],
)  # fmt: skip
def test_it_refuses_what_is_missing_or_out_of_date_in_one_sentence(root, run_cli, spoil, sentence):
    spoil(root)
    with pytest.raises(store.ResultError, match=sentence) as caught:
        archive.write("pocket")
    assert "make" in str(caught.value).lower()
    assert not archive.archive_path("pocket").exists()


def test_it_refuses_outdated_notebooks(root, monkeypatch):
    monkeypatch.setattr(graph, "outdated", lambda profile: [root / "_build/runs/pocket/exp09_across.ipynb"])
    with pytest.raises(
        store.ResultError, match="1 notebooks are out of date, such as _build/runs/pocket/exp09_across.ipynb"
    ):
        archive.write("pocket")


def test_an_author_is_a_person_or_a_group():
    person = metadata.add_author(ROCrate(), 0, {"given-names": "Ada", "family-names": "Lovelace"})
    group = metadata.add_author(ROCrate(), 1, {"name": "The authors"})
    assert (person.type, person["name"]) == ("Person", "Ada Lovelace")
    assert (group.type, group["name"]) == ("Organization", "The authors")
