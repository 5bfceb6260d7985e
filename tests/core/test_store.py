"""Results on disk: whole or not at all, and never read when damaged or of something else."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, sealed, store
from nbhelpers.core.variables import Variable
from tests import synthetic
from tests.specs import complete


@pytest.fixture
def written(project):
    """Return the path of a result, the dataset in it and its provenance."""
    attributes = {"units": "nats", "long_name": "value"}
    values = np.random.default_rng(0).normal(size=(3, 4))
    dataset = xr.Dataset({"value": (("prompt", "layer"), values, attributes)}, {"prompt": ["a", "b", "ç"]})
    run = experiments.resolve("exp90", model="ann")
    provenance = store.provenance(run, wall_time_s=1.25, device="cpu")
    path = store.result_path("pocket", "ann", "exp90")
    return store.save(dataset, path, provenance=provenance), dataset, provenance


def test_a_result_comes_back_as_it_was(written):
    path, dataset, provenance = written
    found = store.load(path, experiment="exp90")
    xr.testing.assert_identical(found.drop_attrs(deep=False), dataset)
    assert found.attrs == provenance
    assert set(store.PROVENANCE) <= set(found.attrs)


def test_attributes_are_those_of_the_whole_result(written):
    path, _, provenance = written
    found, whole = store.attributes(path, experiment="exp90"), store.load(path).attrs
    assert found == whole == provenance
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in whole.items()}
    with pytest.raises(store.ResultError, match="holds exp90, not exp91; make it anew with `nbh run exp90"):
        store.attributes(path, experiment="exp91")


@pytest.mark.parametrize("read", [store.load, store.attributes])
@pytest.mark.parametrize(
    "promised, says",
    [
        (
            {"value": Variable(("prompt", "layer"), "1", "v"), "other": Variable(("prompt",), "1", "o")},
            "not complete: no other",
        ),
        (
            {"value": Variable(("prompt",), "1", "v")},
            "not complete: value has dims ('prompt', 'layer'), not ('prompt',)",
        ),
    ],
)
def test_a_result_of_an_earlier_declaration_is_refused(written, read, promised, says):
    with pytest.raises(store.ResultError) as error:
        read(written[0], expects=promised)
    shown, remedy = (
        "_build/results/pocket/ann/exp90.nc",
        "make it anew with `nbh run exp90 --model ann --profile pocket`.",
    )
    assert str(error.value) == f"{shown} is {says}; {remedy}"


@pytest.mark.parametrize(
    ("value", "changed", "rewritten"),
    [
        (1.0, {}, False),
        (1.0, {"created": "2030-01-01T00:00:00+00:00", "wall_time_s": 9.0}, False),
        (1.0, {"code_version": "other"}, True),
        (1.0, {"parameter_hash": "other"}, True),
        (np.nextafter(1.0, 2.0), {}, True),
        (np.float32(1.0), {}, True),
        (np.nan, {}, True),
    ],
)
def test_the_same_result_of_the_same_code_stays_as_it_is(written, value, changed, rewritten):
    path, dataset, provenance = written
    ones = xr.full_like(dataset, 1.0)
    ones["none"] = ones.value * np.nan
    ones["none"].attrs = ones.value.attrs
    store.save(ones, path, provenance=provenance)
    os.utime(path, (1, 1))
    again = ones.assign(value=xr.full_like(ones.value, value, dtype=np.asarray(value).dtype))
    assert store.save(again, path, provenance=provenance | changed) == path
    assert (path.stat().st_mtime > 1) == rewritten
    assert store.load(path).attrs == provenance | (changed if rewritten else {})


def test_a_damaged_result_is_written_anew(written):
    path, dataset, provenance = written
    path.write_bytes(path.read_bytes()[:-9])
    store.save(dataset, path, provenance=provenance)
    xr.testing.assert_identical(store.load(path).drop_attrs(deep=False), dataset)


def test_a_nul_in_a_text_is_stored_as_its_symbol(written):
    path, dataset, provenance = written
    texts = ("prompt", ["plain", "a\0b", ""], {"units": "1", "long_name": "text"})
    store.save(dataset.assign(text=texts), path, provenance=provenance)
    assert store.load(path)["text"].values.tolist() == ["plain", "a␀b", ""]
    assert dataset.assign(text=texts)["text"].values[1] == "a\0b"


def test_other_readers_of_netcdf_can_open_it(written):
    path, dataset, _ = written
    with xr.open_dataset(path, engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["value"], dataset["value"])


@pytest.mark.parametrize("keep", [0, 1, 50, -1, -80])
def test_a_truncated_file_is_refused(written, keep):
    path, _, _ = written
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(store.ResultError, match=r"exp90.nc is damaged.*nbh run exp90 --model ann"):
        store.load(path)


def test_a_changed_byte_is_refused(written):
    path, _, _ = written
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(store.ResultError, match="damaged"):
        store.load(path)


def test_a_foreign_file_is_refused(written):
    path, dataset, _ = written
    dataset.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(store.ResultError, match="was not written by this project"):
        store.load(path)


def test_a_result_of_another_experiment_is_refused(written):
    path, _, _ = written
    with pytest.raises(store.ResultError, match="holds exp90, not exp09"):
        store.load(path, experiment="exp09")


def test_a_missing_result_says_how_to_make_it(project):
    with pytest.raises(store.ResultError, match="there is no result .*bob/exp90.nc yet; .*nbh run exp90"):
        store.load(store.result_path("pocket", "bob", "exp90"))


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_result(written, monkeypatch, failing):
    path, dataset, provenance = written
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "write":
        monkeypatch.setattr("builtins.open", full)
    else:
        monkeypatch.setattr(sealed.os, failing, full)
    with pytest.raises(store.ResultError, match="could not be written .No space left on device"):
        store.save(dataset * 2, path, provenance=provenance)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_killed_write_leaves_the_old_result(written, monkeypatch):
    path, dataset, provenance = written
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sealed.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(dataset * 2, path, provenance=provenance)
    assert path.read_bytes() == before


def test_incomplete_provenance_is_refused(written):
    path, dataset, provenance = written
    del provenance["seed"]
    with pytest.raises(store.ResultError, match="says nothing of seed"):
        store.save(dataset, path, provenance=provenance)


def test_the_schema_of_exp09_is_checked():
    dataset = synthetic.dataset("llama")
    assert complete(dataset, "exp09") is dataset
    wrong = dataset.drop_vars("kl_adjacent").transpose()
    wrong["entropy"] = wrong["entropy"].isel(layer=0)
    with pytest.raises(store.ResultError) as error:
        complete(wrong, "exp09")
    for part in ("no kl_adjacent", "entropy has dims"):
        assert part in str(error.value)


def test_a_variable_without_units_is_named():
    wrong = synthetic.dataset("llama")
    del wrong["category"].attrs["units"]
    with pytest.raises(store.ResultError, match="category has no units"):
        store.validate(wrong, {})


def test_every_experiment_says_what_its_result_holds():
    assert set(params.keys("experiments")) == set(experiments.slices())
    assert all(experiments.variables(key) for key in params.keys("experiments"))


def test_artifacts_lie_beside_their_dataset(project):
    run = experiments.resolve("exp90", model="ann")
    path = store.artifact_path(run, "tuned_lens_pt.safetensors")
    assert path == store.result_path("pocket", "ann", "exp90").with_name("tuned_lens_pt.safetensors")


def test_a_result_records_its_artifacts_which_come_first(written):
    path, dataset, provenance = written
    file = params.ROOT / "params/experiments/exp90.yml"
    file.write_text(file.read_text() + "artifacts: [beside.bin]\n")
    with pytest.raises(store.ResultError, match="ann/beside.bin is missing; write it before the dataset"):
        experiments.save(dataset.assign_attrs(provenance))
    path.with_name("beside.bin").write_bytes(b"beside")
    experiments.save(dataset.assign_attrs(provenance))
    recorded = json.loads(store.attributes(path)["artifacts"])
    assert recorded == {"beside.bin": hashlib.sha256(b"beside").hexdigest()}


def test_a_folder_in_a_results_place_is_moved_aside(written):
    path, dataset, provenance = written
    path.unlink()
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(store.ResultError, match="exp90.nc is damaged .*directory"):
        store.load(path)
    store.save(dataset, path, provenance=provenance)
    assert store.load(path).sizes["prompt"] == 3 and list(path.parent.glob("exp90.nc.*.aside/kept"))


def test_a_profile_is_loaded_in_its_order(project, written):
    _, dataset, provenance = written
    for model in ("cid", "bob"):
        path = store.result_path("pocket", model, "exp90")
        store.save(dataset, path, provenance=provenance | {"model": model})
    assert list(store.of_profile("pocket", "exp90", store.load)) == ["ann", "bob", "cid"]
