"""Parts of exp00 without a model: turnover, the other model's lens, near-ties."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.experiments.exp00_observations import measure as exp00_measure
from nbhelpers.measures.lens import LensError


def test_turnover_is_against_the_layer_before_and_candidates_against_the_last():
    top5 = torch.tensor([[[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 9]], [[6, 7, 8, 0, 9]]])
    found = exp00_measure.lens_arrays({"top5": top5})
    assert found["turnover"][0].isnan().all() and found["turnover"][1:, 0].tolist() == pytest.approx(
        [4 / 6, 1 / 9]
    )
    assert found["candidates_final"][:, 0].tolist() == pytest.approx([0, 1 / 9, 1])


class Reader:
    """A reader all of whose metrics are one number."""

    unembedding = SimpleNamespace(weight=torch.zeros(1))

    def __init__(self, value):
        self.value = value

    def __call__(self, residual, *, metrics, **_):
        shape = len(residual), len(residual[0])
        found = {name: torch.full(shape, self.value) for name in metrics}
        found |= {"top5": torch.zeros(*shape, 5).long()} if "top5" in metrics else {}
        return {"raw": found, "tuned": {name: values + 1 for name, values in found.items()}}


def test_the_cross_lens_is_the_other_models():
    parts = [torch.randn(2, 4) for _ in range(3)]
    stream = SimpleNamespace(embedding=parts[0], residual=parts, attention_update=parts, mlp_update=parts)
    batch = SimpleNamespace(targets=torch.zeros(2, dtype=torch.long))
    found = exp00_measure.measure(stream, batch, Reader(1.0), Reader(5.0))
    assert (found.kl_final_layer.sel(lens="raw") == 1).all() and (
        found.kl_final_layer.sel(lens="tuned") == 2
    ).all()
    assert (found.kl_final_layer_cross.sel(lens="raw") == 5).all()
    assert (found.kl_layer_final_cross.sel(lens="tuned") == 6).all()


def end(top1, own, best=0.5, behind=0.004):
    """The last layer of one step: its best token, its own, and how far that lies behind, nats."""
    dims, values = ("lens", "layer", "step"), np.ones((1, 1, 1))
    data = {"top1": top1, "top1_probability": best, "target_log_probability": np.log(best) - behind}
    found = {name: (dims, value * values) for name, value in data.items()}
    return xr.Dataset(found | {"token_id": ("step", [own])}, {"lens": ["raw"]})


def test_a_near_tie_is_measured_in_logarithms():
    decoder = SimpleNamespace(module=SimpleNamespace(dtype=torch.float32), name="made up")
    assert exp00_measure.ties(decoder, end(3, 4)).tolist() == [True]
    assert exp00_measure.ties(decoder, end(4, 4)).tolist() == [False]
    with pytest.raises(LensError, match="less likely than the best one"):
        exp00_measure.ties(decoder, end(3, 4, behind=0.02))


def test_near_ties_are_counted_by_prompt():
    steps = xr.Dataset(
        {"near_tie": ("step", [True, False, True, True])}, {"prompt_index": ("step", [0, 0, 2, 2])}
    )
    assert exp00_measure.near_ties(steps, 4).tolist() == [1, 0, 2, 0]
