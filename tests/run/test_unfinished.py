"""A run that is killed between blocks: what it has written is kept, found again, and removed when the result is there."""

import signal

import numpy as np
import pytest

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.run import notebooks, unfinished, versions
from tests.run.test_batch import alive, trace, wait_for
from tests.run.test_outside import start
from tests.stubs import MEASURE, code, write_notebook

BLOCKS = """
import shutil
from nbhelpers.core import blocks
from nbhelpers.run import unfinished


def block(part):
    open(params.ROOT / "trace.txt", "a").write(f"{part.start}\\n")
    while part.start == 2 and (params.ROOT / "hold-ann").exists():
        time.sleep(0.05)
    index = np.repeat(np.array(part), 3)
    return [xr.Dataset({"value": ("step", index + 0.5, about)}, {"prompt_index": ("step", index)})]


about = {"units": "1", "long_name": "v"}
files = unfinished.measured(run, [range(2), range(2, 4)], block, ["exp90"], started=0.0, device="cpu")["exp90"]
attributes = store.provenance(run, wall_time_s=0.0, device="cpu")
whole = blocks.small(files).assign(n=((), 1.0, about))
store.save(whole, store.result_path(profile, model, "exp90"), provenance=attributes, steps=files)
shutil.rmtree(unfinished.folder(run))
"""


@pytest.fixture
def in_blocks(project):
    """Return the root of a project whose experiment writes two blocks, and holds in the second."""
    parameters = code('model = "ann"\nprofile = "pocket"\nn_prompts = 4\nseed = 0', "parameters")
    write_notebook(project / "notebooks/exp90_stub.ipynb", parameters, code(MEASURE), code(BLOCKS))
    (project / "hold-ann").touch()
    return project


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_loses_one_block(in_blocks, number):
    run = start("run", "exp90", "--model", "ann")
    wait_for(lambda: trace(in_blocks) == ["0", "2"])
    run.send_signal(number)
    said = run.communicate(timeout=60)[0]
    if number == signal.SIGTERM:
        assert run.returncode == 0
        assert "exp90 · ann: blocks of prompts that are kept: 1; the same command goes on after them." in said
    wait_for(lambda: not alive(in_blocks))
    resolved = experiments.resolve("exp90", model="ann")
    assert unfinished.kept(resolved) == 1
    assert not store.result_path("pocket", "ann", "exp90").exists()
    (in_blocks / "hold-ann").unlink()
    path = notebooks.measure(resolved, version=versions.measure_version(resolved))
    assert trace(in_blocks) == ["0", "2", "2"]  # the first block was not measured again
    found = store.load(path)
    np.testing.assert_array_equal(found.value, np.repeat(np.arange(4), 3) + 0.5)
    assert not unfinished.folder(resolved).exists()


def test_only_blocks_of_the_same_parameters_by_other_code_are_removed(in_blocks):
    """A short run in between must not cost the blocks of a long one."""
    resolved = experiments.resolve("exp90", model="ann")
    place, other = (
        unfinished.folder(resolved),
        unfinished.folder(experiments.resolve("exp90", model="ann", seed=1)),
    )
    old = place.with_name(f"exp90-{resolved.hash}-000000000000")
    for each in (old, other):
        each.mkdir(parents=True)
        (each / "exp90.00000.nc").write_bytes(b"whatever")
    (in_blocks / "hold-ann").unlink()
    notebooks.measure(resolved, version=versions.measure_version(resolved))
    assert trace(in_blocks) == ["0", "2"]
    assert other.exists() and not old.exists() and not place.exists()
