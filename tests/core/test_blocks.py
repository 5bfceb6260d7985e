"""Blocks of prompts: their sizes, their rounding, a joined file beside one written at once, and a run that is stopped."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers.core import blocks, sealed, store

LENGTHS = (3, 0, 2, 4, 1)  # steps of each prompt


def made(part, seed=0):
    """Made-up steps of some prompts, each prompt's values drawn for itself, on two histories."""
    index = np.array([i for _ in "ab" for i in part for _ in range(LENGTHS[i])], dtype=np.int64)
    values = [np.random.default_rng([seed, i]).normal(size=(2, 3, 2 * LENGTHS[i])) for i in part]
    halves = [np.split(each, 2, axis=-1) for each in values]
    steps = np.concatenate([half[h] for h in (0, 1) for half in halves], axis=-1).astype(np.float32)
    return xr.Dataset(
        {
            "kl": (("lens", "layer", "step"), steps, {"units": "nats", "long_name": "kl"}),
            "top1": (("layer", "step"), (steps[0] * 10).astype(np.int32), {"units": "1", "long_name": "t"}),
            "near": (("step",), steps[0, 0] > 0, {"units": "1", "long_name": "n"}),
            "text": (
                ("prompt",),
                np.array([f"says {i}\0" for i in part], object),
                {"units": "1", "long_name": "w"},
            ),
            "mass": (("layer",), np.full(3, float(len(part))), {"units": "1", "long_name": "m"}),
        },
        {
            "history": ("step", np.repeat(["a", "b"], len(index) // 2)),
            "prompt_index": ("step", index),
            "prompt": [f"p{10**i}" for i in part],
            "lens": ["raw", "tuned"],
            "layer": np.arange(3),
        },
    )


def saved(tmp_path, parts, name="exp90"):
    """Return the file of made-up steps that were written in blocks, and what it should hold."""
    files = blocks.written(tmp_path / "unfinished", parts, lambda part: {"exp": made(part)}, ["exp"])["exp"]
    about = dict.fromkeys(store.PROVENANCE, "x") | {"experiment": name, "block_prompts": len(parts[0])}
    rest = blocks.small(files).assign_attrs(about)
    return store.save(rest, tmp_path / f"{name}.nc", provenance=about, steps=files)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_blocks_joined_are_what_one_block_gives(tmp_path, size):
    parts = [range(first, min(first + size, 5)) for first in range(0, 5, size)]
    found, whole = store.load(saved(tmp_path, parts)), made(range(5))
    # Blocks keep their histories together, so only the order of the steps differs.
    order = np.lexsort((found.prompt_index.values, found.history.values))
    steps = found.isel(step=order)
    for name in ("kl", "top1", "near"):
        np.testing.assert_array_equal(steps[name], whole[name])
        assert found[name].dtype == whole[name].dtype and found[name].attrs["units"] == whole[name].units
    assert found.text.values.tolist() == [f"says {i}␀" for i in range(5)]
    for name in ("prompt", "lens", "layer"):
        assert found[name].values.tolist() == whole[name].values.tolist() and name in found.indexes
    assert (found.mass == 5).all()  # what has no prompt is added up


@pytest.mark.parametrize("large", [0, 1 << 40], ids=["on disk", "in memory"])
def test_blocks_are_read_as_they_were_written(tmp_path, monkeypatch, large):
    monkeypatch.setattr(store, "LARGE", large)
    path = saved(tmp_path, [range(2), range(2, 4), range(4, 5)])
    found = store.load(path)
    parts = list(blocks.each(found))
    assert [part.sizes["prompt"] for part in parts] == [2, 2, 1]
    assert [sorted(set(part.prompt_index.values.tolist())) for part in parts] == [[0], [0, 1], [0]]
    for part, prompts in zip(parts, (range(2), range(2, 4), range(4, 5))):
        np.testing.assert_array_equal(part.kl, made(prompts).kl)
        assert "mass" not in part

    def counts(block):
        by_prompt = np.bincount(block.prompt_index, minlength=block.sizes["prompt"])
        return xr.Dataset({"n": ("prompt", by_prompt), "all": block.sizes["step"]})

    means = blocks.over(found, counts)
    assert means.n.values.tolist() == [2 * n for n in LENGTHS] and int(means["all"]) == 2 * sum(LENGTHS)


def test_steps_without_prompts_keep_their_numbers(tmp_path):
    steps = made(range(4))[["kl", "top1"]].assign_attrs(block_prompts=2)
    order = np.lexsort((steps.history.values, steps.prompt_index.values // 2))
    parts = list(blocks.each(steps.isel(step=order)))
    assert [sorted(set(part.prompt_index.values.tolist())) for part in parts] == [[0], [2, 3]]


def test_sums_are_aligned():
    one = xr.Dataset({"n": ("token", [1.0, 2.0]), "x": ("prompt", [1])}, {"token": [0, 1]})
    two = xr.Dataset({"n": ("token", [5.0, 6.0, 7.0]), "x": ("prompt", [2])}, {"token": [0, 1, 2]})
    found = blocks.combined([one, two])
    assert found.n.values.tolist() == [6, 8, 7] and found.x.values.tolist() == [1, 2]


def test_a_stopped_run_goes_on_at_its_block(tmp_path):
    """The third block stops the run; the same call then measures only what is not there, a damaged block included."""
    parts, seen = [range(2), range(2, 4), range(4, 5)], []

    def stopping(part):
        if part.start == 4 and len(seen) < 3:
            seen.append("stop")
            raise KeyboardInterrupt
        seen.append(part.start)
        return {"exp": made(part)}

    with pytest.raises(KeyboardInterrupt):
        blocks.written(tmp_path, parts, stopping, ["exp"])
    assert seen == [0, 2, "stop"]
    damaged = tmp_path / "exp.00001.nc"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    files = blocks.written(tmp_path, parts, stopping, ["exp"])["exp"]
    assert seen[3:] == [2, 4] and all(map(sealed.is_whole, files))


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40),
    st.integers(6, 22),
)
def test_rounding_stays_within_its_bound(values, bits):
    values = np.array(values, dtype=np.float32)
    found = blocks.rounded(xr.Dataset({"x": ("step", values)}), bits).x.values
    some = np.isfinite(values) & (np.abs(values) > 1e-37) & (np.abs(values) < 3e38)
    exact = values[some].astype(float)
    assert (np.abs(found[some] - exact) <= 2.0 ** -(bits + 1) * np.abs(exact)).all()
    np.testing.assert_array_equal(found[~np.isfinite(values)], values[~np.isfinite(values)])
    raw = found[some].view(np.uint32)
    assert not (raw & ((1 << (23 - bits)) - 1)).any()


def test_rounding_is_without_bias():
    values = np.random.default_rng(0).lognormal(size=200_000).astype(np.float32)
    found = blocks.rounded(xr.Dataset({"x": ("step", values)}), 6).x.values
    assert abs(found.mean(dtype=float) / values.mean(dtype=float) - 1) < 1e-4
    np.testing.assert_array_equal(blocks.rounded(xr.Dataset({"x": ("step", values)}), 23).x, values)


@pytest.mark.parametrize("n, a_prompt, batch, expected", [
    (10, blocks.LARGEST / 4, 1, [4, 4, 2]), (10, blocks.LARGEST / 7, 3, [6, 4]), (3, 10 * blocks.LARGEST, 2, [2, 1]),
    (96, 1000, 32, [96]),
])  # fmt: skip
def test_spans_hold_whole_batches(n, a_prompt, batch, expected):
    assert [len(part) for part in blocks.spans(n, a_prompt, batch)] == expected
