"""Projections in closed form against backward passes, and their signs by hand."""

import pytest
import torch
from torch import nn

from nbhelpers.core.params import FAMILIES
from nbhelpers.measures import graft_shifts, lens, update_directions
from nbhelpers.models import unembedding
from tests.models.test_interventions import pair

families = pytest.mark.parametrize("family", FAMILIES)


def autograd(h, u, final, of, row):
    """{name: [axis]} of one update at one state, by backward passes in float32."""
    found = {name: [] for name in graft_shifts.PROJECTIONS}
    leaf = h.clone().requires_grad_(True)
    z = of.norm(leaf[None])[0] @ of.weight.T
    p_final = (of.norm(final[None])[0] @ of.weight.T).softmax(-1).detach()
    wanted = z[row], -z.max(), nn.functional.kl_div(z.log_softmax(-1), p_final, reduction="sum")
    for value in wanted:
        (g,) = torch.autograd.grad(value, leaf, retain_graph=True)
        found["effect"].append(u @ g)
        found["projection"].append(u @ g / g.norm())
        found["cosine"].append(u @ g / g.norm() / u.norm())
    return {name: torch.stack(values) for name, values in found.items()}


@families
@pytest.mark.parametrize("cells", [1, 1 << 23])
def test_closed_form_equals_autograd(family, cells):
    """With each family's own norm and unembedding, on random states; tokens apart or together."""
    of, g = pair(family).it.unembedding, torch.Generator().manual_seed(4)
    width, tokens, layers = of.weight.shape[1], 5, 3
    residual = [3 * torch.randn(tokens, width, generator=g) for _ in range(layers)]
    update = [torch.randn(tokens, width, generator=g) for _ in range(layers)]
    rows = torch.randint(len(of.weight), (tokens,), generator=g)
    found = update_directions.projections(residual, update, of, rows, layers=[0, 2], cells=cells)
    for column, layer in enumerate((0, 2)):
        for t in range(tokens):
            expected = autograd(residual[layer][t], update[layer][t], residual[-1][t], of, rows[t])
            for name, values in expected.items():
                axes = 2 if layer == 2 else 3  # the last layer has no distance from itself
                torch.testing.assert_close(found[name][:axes, column, t], values[:axes], rtol=1e-3, atol=1e-4)
    assert all((found[name][2, 1] == 0).all() for name in graft_shifts.PROJECTIONS)
    assert (found["cosine"].abs() <= 1).all() and found["effect"].shape == (3, 2, tokens)


def test_kl_axis_keeps_its_digits_where_predictions_almost_agree():
    of, g = pair("llama").it.unembedding, torch.Generator().manual_seed(1)
    final = 3 * torch.randn(6, of.weight.shape[1], generator=g)
    near, u = final + 1e-3 * torch.randn(final.shape, generator=g), torch.randn(final.shape, generator=g)
    rows = torch.zeros(6, dtype=torch.long)
    found = update_directions.projections([near, final], [u, u], of, rows, layers=[0])
    weight, norm = of.weight.double(), of.norm
    leaf = near.double().requires_grad_(True)

    def logits(h):
        gain = norm.weight.double()
        return gain * h / (h.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() @ weight.T

    p = logits(final.double()).softmax(-1)
    (p * (p.log() - logits(leaf).log_softmax(-1))).sum().backward()
    cosine = torch.nn.functional.cosine_similarity(u.double(), leaf.grad, dim=-1)
    torch.testing.assert_close(found["cosine"][2, 0], cosine.float(), rtol=1e-2, atol=2e-3)


def flat():
    """Three tokens on three axes of a space of three, with a norm that keeps the length of (1, 1, 1) × anything."""
    norm = nn.RMSNorm(3, eps=0.0, elementwise_affine=True)
    return unembedding.Unembedding(norm.requires_grad_(False), torch.eye(3), torch.arange(3))


def test_signs_in_words():
    """At (3, 2, 1) the first token leads. Updates along the second and against the first support a teacher of the second."""
    state, final = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1.0, 3.0, 1.0]])
    rows = torch.tensor([1])

    def cosine(*update):
        found = update_directions.projections(
            [state, final], [torch.tensor([update])] * 2, flat(), rows, layers=[0]
        )
        return found["cosine"][:, 0, 0].tolist()

    teacher, top, kl = cosine(0.0, 1.0, 0.0)
    assert teacher > 0 and top > 0 and kl < 0  # towards the final prediction, which is the second
    teacher, top, kl = cosine(1.0, 0.0, 0.0)
    assert teacher < 0 and top < 0 and kl > 0
    assert max(map(abs, cosine(3.0, 2.0, 1.0)[:2])) < 1e-6  # along the state the norm undoes it


def test_where_the_teachers_token_leads_two_axes_mirror_each_other():
    g = torch.Generator().manual_seed(0)
    state, update = torch.randn(5, 3, generator=g), torch.randn(5, 3, generator=g)
    rows = flat().norm(state).argmax(-1)
    found = update_directions.projections([state, state], [update] * 2, flat(), rows, layers=[0, 1])
    for name in graft_shifts.PROJECTIONS:
        torch.testing.assert_close(found[name][0], -found[name][1])


def test_pullback_of_a_norm_by_hand():
    """At h = (1, 1), r = 1: Jᵀa takes out the mean of a."""
    norm = nn.RMSNorm(2, eps=0.0).requires_grad_(False)
    got = update_directions.norm_pullback(norm, torch.ones(1, 2), torch.tensor([[3.0, 1.0]]))
    assert got.tolist() == [[1.0, -1.0]]


def test_pullback_of_a_layer_norm_is_its_backward_pass():
    g = torch.Generator().manual_seed(0)
    norm, h, a = nn.LayerNorm(5).requires_grad_(False), *(torch.randn(4, 5, generator=g) for _ in range(2))
    norm.weight.copy_(torch.randn(5, generator=g)), norm.bias.copy_(torch.randn(5, generator=g))
    jacobian = torch.stack([torch.autograd.functional.jacobian(norm, row) for row in h])
    wanted = torch.einsum("tij,ti->tj", jacobian, a)
    torch.testing.assert_close(update_directions.norm_pullback(norm, h, a), wanted, rtol=1e-4, atol=1e-5)


def test_projections_under_a_soft_cap_are_those_of_a_backward_pass():
    """Each axis is the gradient at h of log-odds that PyTorch differentiates itself, cap included."""
    of, g = flat(), torch.Generator().manual_seed(3)
    capped = unembedding.Unembedding(of.norm, of.weight, of.token_ids, softcap=2.0)
    states, updates = ([torch.randn(6, 3, generator=g) for _ in range(2)] for _ in range(2))
    rows = torch.arange(6) % len(of.weight)
    found = update_directions.projections(states, updates, capped, rows, layers=[0])["effect"][:, 0]
    final = lens.lens_logits(states[1], capped).log_softmax(-1)
    for token in range(6):
        h = states[0][token : token + 1].clone().requires_grad_()
        z = 2 * torch.tanh(of.norm(h)[0] @ of.weight.T / 2)
        kl_gradient_by_logits = (z.softmax(-1) - final[token].exp()).detach()
        scores = z[rows[token]], -z[z.argmax()], (kl_gradient_by_logits * z).sum()
        for axis, score in enumerate(scores):
            (gradient,) = torch.autograd.grad(score, h, retain_graph=True)
            wanted = (gradient[0] @ updates[0][token]).item()
            assert found[axis, token].item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_weighted_rows_in_blocks():
    g = torch.Generator().manual_seed(0)
    weights, rows = torch.randn(2, 70_000, generator=g), torch.randn(70_000, 4, generator=g)
    torch.testing.assert_close(
        update_directions.weighted_rows(weights, rows),
        (weights.double() @ rows.double()).float(),
        rtol=1e-3,
        atol=1e-3,
    )


def test_effect_projection_and_cosine_by_hand():
    """An update of length 5 along an axis of length 2, and one across an axis of length 0."""
    gradients = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]]])
    found = update_directions._along(torch.tensor([[3.0, 4.0]]), gradients)
    by_name = {name: values[:, 0].tolist() for name, values in found.items()}
    assert by_name == {"effect": [6, 0], "projection": [3, 0], "cosine": pytest.approx([0.6, 0])}


def test_the_last_layer_has_no_kl_axis_whatever_its_rounding():
    of = unembedding.Unembedding(lambda h: h, torch.eye(3), torch.arange(3))
    h, u = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    rounded = h.softmax(-1) + 1e-7
    for last in (True, False):
        found = update_directions._pushed(h, u, rounded, of, torch.tensor([0]), last)["projection"][2]
        assert bool(found.abs().sum() == 0) is last
