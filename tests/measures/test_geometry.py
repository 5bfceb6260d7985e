"""Cosines and norms of updates against float64 loops and worked cases."""

import pytest
import torch

from nbhelpers.measures import delta_cosine


def stream(layers=4, tokens=6, d=16, dtype=torch.float32):
    """A stream whose residuals are the running sum of its updates."""
    torch.manual_seed(0)
    embedding = torch.randn(tokens, d, dtype=dtype)
    attention, mlp = torch.randn(2, layers, tokens, d, dtype=dtype)
    residual, h = [], embedding
    for layer in range(layers):
        h = h + attention[layer] + mlp[layer]
        residual.append(h)
    return embedding, residual, list(attention), list(mlp)


def slow_cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())


def test_cosine_by_hand():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(
        delta_cosine.cosine(a, b), torch.tensor([0.96, -1.0, torch.nan]), equal_nan=True
    )


def test_cosine_is_nan_below_the_smallest_norm():
    tiny = torch.full((1, 4), 1e-6)
    assert delta_cosine.cosine(tiny, tiny).isnan() and delta_cosine.cosine(tiny, 1e4 * tiny).isfinite()


def test_geometry_equals_a_slow_loop():
    embedding, residual, attention, mlp = stream()
    got = delta_cosine.stream_geometry(embedding, residual, attention, mlp)
    for layer in range(4):
        before = residual[layer - 1] if layer else embedding
        for t in range(6):
            pairs = [
                (residual[layer][t] - before[t], before[t]),
                (attention[layer][t], before[t]),
                (mlp[layer][t], before[t] + attention[layer][t]),
            ]
            for component, (update, base) in enumerate(pairs):
                at = component, layer, t
                assert got["delta_cosine"][at].item() == pytest.approx(slow_cosine(update, base), abs=1e-6)
                assert got["update_norm"][at].item() == pytest.approx(update.double().norm().item(), rel=1e-6)
            final = slow_cosine(residual[layer][t], residual[-1][t])
            assert got["cosine_to_final"][layer, t].item() == pytest.approx(final, abs=1e-6)
            norm = residual[layer][t].double().norm().item()
            assert got["residual_norm"][layer, t].item() == pytest.approx(norm, rel=1e-6)


def test_stacked_tensors_and_lists_are_the_same():
    embedding, *parts = stream()
    lists = delta_cosine.stream_geometry(embedding, *parts)
    stacked = delta_cosine.stream_geometry(embedding, *map(torch.stack, parts))
    assert all(torch.equal(lists[name], stacked[name]) for name in lists)
    assert lists["delta_cosine"].shape == (3, 4, 6) and lists["cosine_to_final"].shape == (4, 6)


def test_updates_along_and_against_the_stream():
    h = torch.randn(5, 8)
    got = delta_cosine.stream_geometry(h, [1.5 * h, 0.75 * h], [h, -1.0 * h], [-0.5 * h, 0.25 * h])
    expected = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    torch.testing.assert_close(got["delta_cosine"], expected[..., None].expand(3, 2, 5))


def test_bfloat16_states_are_compared_in_float32():
    parts = stream(dtype=torch.bfloat16)
    got = delta_cosine.stream_geometry(*parts)
    exact = delta_cosine.stream_geometry(parts[0].float(), *([t.float() for t in part] for part in parts[1:]))
    assert all(torch.equal(got[name], exact[name]) and got[name].dtype == torch.float32 for name in got)


def test_an_update_of_nothing_has_no_direction():
    h = torch.randn(2, 8)
    got = delta_cosine.stream_geometry(h, [h], [0 * h], [0 * h])
    assert got["delta_cosine"].isnan().all() and (got["update_norm"] == 0).all()


def test_mismatched_layers_are_named():
    embedding, residual, attention, mlp = stream()
    with pytest.raises(ValueError, match="4 layers of residuals, 4 of attention updates and 3 of MLP"):
        delta_cosine.stream_geometry(embedding, residual, attention, mlp[:-1])
