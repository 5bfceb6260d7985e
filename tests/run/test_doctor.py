"""Health checks: each kind of trouble is found, with a remedy beside it."""

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from nbhelpers.core import params
from nbhelpers.run import doctor
from tests.stubs import REPOSITORY, code, write_notebook

SHIPPED = "pocket/checkpoints/ann/pt"


@pytest.fixture
def healthy(project):
    """Return a project whose one model has real checkpoints with recorded sums."""
    shutil.copy(REPOSITORY / "environment.yml", project)
    lines = []
    for variant in params.VARIANTS:
        folder = project / f"pocket/checkpoints/ann/{variant}"
        folder.mkdir(parents=True)
        save_file({"w": np.arange(4.0)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 12, "hidden_size": 96}))
        for path in folder.iterdir():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{digest}  {path.relative_to(project / 'pocket/checkpoints')}")
    (project / "pocket/checkpoints/SHA256SUMS").write_text("\n".join(lines) + "\n")
    model = project / "params/models/ann.yml"
    sources = "".join(f"{v}: {{path: pocket/checkpoints/ann/{v}}}\n" for v in params.VARIANTS)
    model.write_text(f"key: ann\nfamily: llama\ntitle: Ann\n{sources}")
    profile = project / "params/profiles/pocket.yml"
    profile.write_text(profile.read_text().replace("[ann, bob, cid]", "[ann]"))
    return project


def failures(checks):
    """Return the texts of failed checks, every one of which has a remedy."""
    failed = [check for check in checks if check.well is False]
    assert all(check.remedy for check in failed)
    return [check.text for check in failed]


def test_whole_checkpoints_are_well(healthy):
    assert failures(doctor.check_checkpoints("pocket")) == []


def damage_missing(folder):
    shutil.rmtree(folder)


def damage_truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def damage_retrained(folder):
    save_file({"w": np.ones(4)}, folder / "model.safetensors")


def damage_lacking(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (damage_missing, "is missing"),
        (damage_truncated, "is damaged"),
        (damage_retrained, "differs from SHA256SUMS"),
        (damage_lacking, "lacks config.json"),
    ],
)
def test_a_damaged_checkpoint_is_found(healthy, damage, sentence):
    damage(healthy / SHIPPED)
    found = failures(doctor.check_checkpoints("pocket"))
    assert len(found) == 1 and SHIPPED in found[0] and sentence in found[0]


def test_a_hub_model_needs_a_pinned_revision(healthy):
    model = healthy / "params/models/ann.yml"
    pinned = "0123456789abcdef" * 2 + "01234567"
    text = "key: ann\nfamily: llama\ntitle: Ann\npt: {{hub: a/b, revision: main}}\nit: {{hub: a/c, revision: {}}}\n"
    model.write_text(text.format(pinned))
    checks = list(doctor.check_checkpoints("pocket"))
    assert failures(checks) == ["checkpoint a/b has no pinned revision"]
    assert checks[1].well is None and "not downloaded yet" in checks[1].text


def test_every_revision_of_the_repository_is_pinned():
    for name in ("paper", "laptop"):
        assert failures(doctor.check_checkpoints(name)) == []


def test_the_installed_versions_are_the_pinned_ones():
    assert failures(doctor.check_versions()) == []


def test_a_wrong_version_is_named(healthy):
    path = healthy / "environment.yml"
    path.write_text(path.read_text().replace("numpy==", "numpy==9").replace("torch==", "torsch=="))
    (found,) = failures(doctor.check_versions())
    assert "numpy" in found and "torsch not installed" in found


def test_the_kernel_must_be_this_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "KERNEL", "of-this-test")
    assert failures(doctor.check_kernel()) == ["Jupyter kernel of-this-test is not registered"]
    folder = tmp_path / "kernels/of-this-test"
    folder.mkdir(parents=True)
    for python, well in ((sys.executable, True), ("/elsewhere/python", False)):
        spec = {"argv": [python, "-m", "ipykernel"], "display_name": "t", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))
        (check,) = doctor.check_kernel()
        assert check.well is well


def test_a_wrong_parameter_file_is_found(healthy):
    assert failures(doctor.check_params()) == []
    (healthy / "params/profiles/extra.yml").write_text("name: extra\ntitle: t\nmodels: [annn]\nprompts: p\n")
    (found,) = failures(doctor.check_params())
    assert "params/profiles/extra.yml" in found and "did you mean 'ann'" in found


def test_a_notebook_without_its_parameters_cell_is_found(healthy):
    assert failures(doctor.check_notebooks()) == []
    write_notebook(healthy / "notebooks/exp91.ipynb", code("a = 1"))
    (found,) = failures(doctor.check_notebooks())
    assert "exp91.ipynb" in found and "0 cells" in found


def test_little_room_is_found(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "MEMORY_GB", 1e9)
    monkeypatch.setattr(doctor, "gpu_names", list)
    assert len(failures(doctor.check_machine("pocket"))) == 2


def test_a_profile_that_wants_a_gpu_says_so(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "gpu_names", list)
    profile = healthy / "params/profiles/pocket.yml"
    assert not any("GPU" in text for text in failures(doctor.check_machine("pocket")))
    profile.write_text(profile.read_text() + "gpus: 1\n")
    assert any("no GPU" in text for text in failures(doctor.check_machine("pocket")))


def test_the_status_tells_whether_all_is_well(healthy, monkeypatch, run_cli):
    monkeypatch.setattr(doctor, "check_versions", lambda: iter(()))
    monkeypatch.setattr(doctor, "check_kernel", lambda: iter(()))
    status, said, _ = run_cli("doctor")
    assert status == 0 and said.splitlines()[-1] == "all is well"
    damage_missing(healthy / SHIPPED)
    status, said, _ = run_cli("doctor")
    assert status == 1 and "1 to mend" in said and "make pocket" in said


def test_the_table_of_models_has_sizes_and_states(healthy, run_cli):
    damage_missing(healthy / "pocket/checkpoints/ann/it")
    _, said, _ = run_cli("models", "--profile", "pocket")
    header, row = said.splitlines()
    assert header.split() == ["profile", "model", "family", "L", "d", "PT", "IT"]
    assert row.split() == ["pocket", "ann", "llama", "12", "96", "here", "missing"]
    for text in ("{", "[]", "{}"):
        (healthy / SHIPPED / "config.json").write_text(text)
        assert run_cli("models", "--profile", "pocket")[1].splitlines()[1].split()[3:5] == ["?", "?"]
