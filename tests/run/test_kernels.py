"""Kernels start this environment's own Python; GPUs are those that the driver would show."""

import json
import sys

import pytest

from nbhelpers.run import doctor, kernels, locks, notebooks, warm
from tests.stubs import code, write_notebook

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
VISIBLE = {
    "": [], "-1": [], "none": [], "NoDevFiles": [], ",": [], "0": ["0"], "0,1": ["0", "1"], "0, 1": ["0", "1"], " 1 ": ["1"],
    "0,-1,1": ["0"], "0,,1": ["0"], "1,none,0": ["1"], "0,0": [], "1,0,1": [], "2,1gpu": ["2", "1"], UUID: [UUID],
    f"{UUID}, GPU-1": [UUID, "GPU-1"], f"{UUID},0": [UUID], f"0,{UUID}": ["0"], "MIG-1b2c": ["MIG-1b2c"],
    "MIG-GPU-8/1/0,MIG-GPU-8/2/0": ["MIG-GPU-8/1/0", "MIG-GPU-8/2/0"], f"MIG-1,{UUID}": ["MIG-1"],
}  # fmt: skip


@pytest.mark.parametrize("visible, found", VISIBLE.items(), ids=map(repr, VISIBLE))
def test_the_list_of_gpus_is_read_as_the_driver_reads_it(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    assert kernels.gpus() == found


def test_a_number_beyond_the_last_gpu_ends_the_list():
    assert kernels.listed("0,2,1", count=2) == ["0"]
    assert kernels.listed("1,0", count=2) == ["1", "0"]


def test_locks_of_gpus_lie_in_one_folder_whatever_their_names(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-../../a/1,MIG-../../a/2")
    with kernels.gpu_slots(1) as first, kernels.gpu_slots(1) as second:
        assert [first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]] == [
            "MIG-../../a/1",
            "MIG-../../a/2",
        ]
    assert len(list((project / "_build/gpu").iterdir())) == 2


def test_a_left_over_lock_file_of_a_gpu_holds_nothing(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (project / "_build/gpu").mkdir(parents=True)
    (project / "_build/gpu/0").write_bytes(b"\xff garbage")
    with kernels.gpu_slots(1) as slots:
        assert slots == {"CUDA_VISIBLE_DEVICES": "0"}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Put a kernel python3 of another Python where Jupyter looks first."""
    folder = tmp_path / "elsewhere/kernels/python3"
    folder.mkdir(parents=True)
    argv = ["/nowhere/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Mine", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "elsewhere"))


def test_runs_start_this_python_whatever_jupyter_finds(project, foreign):
    source, output = project / "notebooks/which.ipynb", project / "_build/which.ipynb"
    write_notebook(source, code("seed = 0", "parameters"), code("import sys\nprint(sys.executable)"))
    notebooks.execute(source, output, {}, label="which", version="1")
    assert sys.executable in output.read_text()
    assert sys.executable in notebooks.refresh(source).read_text()


def test_the_doctor_says_what_jupyterlab_would_start(foreign):
    (check,) = doctor.check_lab()
    assert check.well is False and check.text == "Jupyter kernel python3 starts /nowhere/bin/python"
    assert "unset JUPYTER_PATH" in check.remedy


def test_a_kernel_starts_warm_where_a_server_runs(monkeypatch):
    monkeypatch.setenv(warm.ADDRESS, "/tmp/socket")
    assert kernels.OwnPython().get_kernel_spec("any").argv[:4] == [sys.executable, "-I", "-S", warm.__file__]
    for off in ("", "0"):
        monkeypatch.setenv(warm.ADDRESS, off)
        assert kernels.OwnPython().get_kernel_spec("any").argv[:3] == [
            sys.executable,
            "-m",
            "ipykernel_launcher",
        ]


def test_a_lock_is_held_by_its_process_and_not_by_its_file(project, capsys):
    path = project / "_build/locks/pocket.ann.exp90"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff left over")
    with locks.alone("exp90 · ann", "pocket", "ann", "exp90") as waited:
        assert not waited and locks.taken(path) is None
    with locks.taken(path):
        pass
    assert capsys.readouterr().out == ""
