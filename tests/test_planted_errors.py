"""The committed notebook, executed by nbval, catches gross errors and passes on another processor's rounding."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import xarray as xr

from nbhelpers.core import params, store
from nbhelpers.experiments import resolve
from nbhelpers.run import results, warm
from tests import planted
from tests.stubs import REPOSITORY

pytestmark = pytest.mark.slow


def nbval(folder, notebooks, **environment) -> dict[str, list[str]]:
    """Return {folder of the notebook's project: reports of its failed cells} of notebooks that nbval executed."""
    report = folder / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.outputs", "-p", "no:cacheprovider", "--rootdir", folder,
        "-c", os.devnull, "--nbval", "--nbval-sanitize-with", REPOSITORY / "tests/nbval.cfg",
        "--nbval-kernel-name", "python3", f"--junitxml={report}", *notebooks,
    ]  # fmt: skip
    own = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "JUPYTER_PATH": "",
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    done = subprocess.run(
        warm.with_server([str(part) for part in command]), cwd=folder, env=os.environ | own | environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found, executed = {path.parents[1].name: [] for path in notebooks}, set()
    for case in ElementTree.parse(report).iter("testcase"):
        (name,) = [each for each in found if f"{each}.notebooks" in case.get("classname")]
        executed.add(name)
        found[name] += [
            fault.text or fault.get("message") for kind in ("failure", "error") for fault in case.iter(kind)
        ]
    assert executed == set(found)
    return found


def _result(key):
    return store.result_path("pocket", "llama_pocket", key)


OTHER_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem",
    "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def measured():
    """Have the dataset that the copies read, measured where it is missing."""
    if results.fault(resolve(planted.READ, model="llama_pocket")):
        command = [sys.executable, "-m", "nbhelpers", "run", planted.READ, "--model", "llama_pocket"]
        subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """Return {error: reports of the cells that nbval failed}, of one run over a copy for each error."""
    folder = tmp_path_factory.mktemp("planted")
    return nbval(
        folder, [copy for error in planted.ERRORS for copy in planted.project(folder / error, error)]
    )


@pytest.mark.parametrize("error", planted.ERRORS)
def test_nbval_catches_a_gross_error(failures, error):
    if error == "none":
        assert not failures[error], "\n".join(failures[error])
        return
    compared = [report for report in failures[error] if "Cell outputs differ" in report]
    assert compared and len(compared) == len(failures[error]), f"{planted.ERRORS[error]}: {failures[error]}"


def test_other_rounding_passes(tmp_path):
    """Texts are generated and observed anew, with other vector instructions and two threads; the next notebook reads them."""
    names = params.experiment(planted.READ).notebook, planted.NOTEBOOK
    (need,) = params.experiment(planted.READ).needs
    copies = planted.project(tmp_path / "processor", "processor", names, read=need)
    found = nbval(tmp_path, copies, **OTHER_PROCESSOR)
    assert found == {"processor": []}, "\n".join(found["processor"])
    written = [
        tmp_path / "processor" / path.relative_to(params.ROOT)
        for path in map(_result, (planted.READ, "exp09"))
    ]
    assert all(path.exists() and not path.is_symlink() for path in written)
    fresh, here = (xr.open_dataset(path)["kl_final_layer"].values for path in (written[1], _result("exp09")))
    assert (fresh != here).any(), (
        "the other processor's numbers are the same to the last bit: nothing was tested"
    )
