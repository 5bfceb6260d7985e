"""A folded dose is the edit by hook and by nnsight, on all six architectures and more; W + BA is the same change."""

import copy

import pytest
import torch

from nbhelpers.models import folding
from nbhelpers.models.decoder import wrap
from nbhelpers.models.decoding import decode
from nbhelpers.models.edits import InterventionError, along, steer
from nbhelpers.models.folding import folded, last_maps, rank_one, rescaled
from nbhelpers.models.forward import forward
from nbhelpers.models.generation import generate
from nbhelpers.models.row_edits import as_edits
from tests import shapes
from tests.models.test_decoding_rows import chat_rows
from tests.models.test_interventions import blocks, families, logits, pair
from tests.models.test_row_edits import LATE, directions, doses, edited_logits, rows

DOSES = (-1.0, 0.0, 0.5, 3.0)
EVERY = pytest.mark.parametrize("name", list(shapes.SUPPORTED))


def weights(decoder):
    return {name: p.clone() for name, p in decoder.module.named_parameters()}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


@families
def test_fold_equals_hook_equals_nnsight(family):
    """|Δlogit| ≤ 1e-4 on padded rows, and the weights come back bit for bit."""
    decoder, given, d = pair(family).it, rows(3), directions(pair(family).it)
    plain, before = logits(decoder.module, given), weights(decoder)
    for alpha in DOSES:
        edits = doses(decoder, [alpha] * 3)
        hooked = edited_logits(decoder, given, edits)
        traced = forward(decoder, given, as_edits(edits)).last_logits
        steered = forward(decoder, given, [
            edit for i in LATE for edit in steer([i], along(d[i], alpha), place="mlp_output")
        ]).last_logits  # fmt: skip
        with folded(decoder, LATE, 5 * d, alpha) as n:
            got = logits(decoder.module, given)
        for other in (hooked, traced, steered):
            torch.testing.assert_close(got, other, rtol=0, atol=1e-4)
        assert (got - plain).abs().max() > 1e-2
        assert n == (2 * len(LATE) if family == "deepseek" else len(LATE))
    assert same(before, weights(decoder)) and torch.equal(logits(decoder.module, given), plain)


@families
def test_a_folded_model_writes_what_edited_rows_do(family):
    decoder = pair(family).it
    prompts, alpha = chat_rows(decoder), -2.0
    edited = decode(decoder, prompts, doses(decoder, [alpha] * 4), max_new_tokens=16).continuations
    with folded(decoder, LATE, directions(decoder), alpha):
        assert generate(decoder, prompts, max_new_tokens=16) == edited
        assert decode(decoder, prompts, max_new_tokens=16).continuations == edited


@EVERY
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 3.0])
def test_other_architectures_too(name, alpha):
    """Biases are folded with their weights, and every expert of a mixture."""
    decoder, given = shapes.pair(name).it, rows(3)
    layers, before = range(decoder.n_layers), weights(decoder)
    edits = doses(decoder, [alpha] * 3, layers)
    plain, expected = (forward(decoder, given, e).residual[-1] for e in ((), as_edits(edits)))
    with folded(decoder, layers, directions(decoder), alpha) as n:
        got = forward(decoder, given).residual[-1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-4)
    assert (got - plain).abs().max() > 1e-2
    assert n == decoder.n_layers * (2 if "bias" in str(shapes.SUPPORTED[name]) and name != "stablelm" else 1)
    assert same(before, weights(decoder))


class Listed(torch.nn.Module):
    """A mixture with a list of experts, each a dense MLP with its own bias, and a shared one, as older code has it."""

    def __init__(self, dense, n=3):
        super().__init__()
        self.experts = torch.nn.ModuleList(copy.deepcopy(dense) for _ in range(n))
        self.shared_experts = dense
        self.gate = torch.nn.Linear(64, n, bias=False)

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return self.shared_experts(x) + sum(
            weights[..., i : i + 1] * e(x) for i, e in enumerate(self.experts)
        )


def listed(hide=()):
    """A Llama with such a mixture at layer 2; hide: indices of experts whose last map has a name that is not known."""
    decoder = shapes.decoder("llama_mlp_bias")
    torch.manual_seed(0)
    mixture = Listed(blocks(decoder)[2].mlp)
    with torch.no_grad():
        for expert in mixture.experts:
            for p in expert.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    for i in hide:
        inner = mixture.experts[i].down_proj
        mixture.experts[i].down_proj = torch.nn.Sequential(inner)
    blocks(decoder)[2].mlp = mixture.eval().requires_grad_(False)
    return wrap(decoder.module, decoder.tokenizer)


def test_every_expert_of_a_list_is_folded():
    decoder, given = listed(), rows(3)
    expected = edited_logits(decoder, given, doses(decoder, [-1.0] * 3, [2]))
    with folded(decoder, [2], directions(decoder), -1.0) as n:
        torch.testing.assert_close(logits(decoder.module, given), expected, rtol=0, atol=1e-4)
    assert n == 2 * 4


def test_an_expert_that_would_be_forgotten_is_noticed():
    """The change is tried on random input; what was written before is taken back, in other layers too."""
    decoder = listed(hide=[1])
    before = weights(decoder)
    with pytest.raises(
        InterventionError, match="Folding into the MLP of layer 2 does not rescale its output"
    ):
        with folded(decoder, [1, 2], directions(decoder), -1.0):
            pass
    assert same(before, weights(decoder))


def test_an_mlp_without_a_known_last_map_is_refused(monkeypatch):
    decoder = pair("llama").it
    monkeypatch.setattr(folding, "LAST_MAPS", ("other",))
    with pytest.raises(InterventionError, match="The MLP of layer 7 has no last map of a known name"):
        with folded(decoder, LATE, directions(decoder), 0.0):
            pass


@families
def test_a_dose_of_one_changes_no_bit(family):
    decoder = pair(family).pt
    before = weights(decoder)
    with folded(decoder, LATE, directions(decoder), 1.0) as n:
        assert n and same(before, weights(decoder))


def test_weights_come_back_after_an_exception_and_inside_another_fold():
    decoder, d = pair("gemma").it, directions(pair("gemma").it)
    before = weights(decoder)
    with pytest.raises(KeyError), folded(decoder, LATE, d, 0.0):
        outer = weights(decoder)
        with folded(decoder, [7], directions(decoder, seed=1), 3.0):
            assert not same(outer, weights(decoder))
        assert same(outer, weights(decoder)) and not same(before, outer)
        raise KeyError
    assert same(before, weights(decoder))


@pytest.mark.parametrize(
    ("layers", "change", "message"),
    [
        ([12], lambda d: d, "There is no layer 12: this model's are 0 to 11"),
        ([], lambda d: d, "No layer is named"),
        ([7], lambda d: d[:5], r"Directions have the shape \(5, 96\); this model's are \(12, 96\)"),
        ([7], lambda d: d[0], r"Directions have the shape \(96,\)"),
        ([7], lambda d: 0 * d, "The direction of layer 7 has length 0"),
        ([7], lambda d: d / 0, "The direction of layer 7 has length"),
    ],
)
def test_what_cannot_be_folded(layers, change, message):
    decoder = pair("llama").it
    before = weights(decoder)
    with pytest.raises(InterventionError, match=message) as error:
        with folded(decoder, layers, change(directions(decoder)), 0.0):
            pass
    assert "\n" not in str(error.value) and same(before, weights(decoder))


def test_rescaling_by_hand():
    """W = [[1, 2], [3, 4]], d = (1, 0): α = 0 empties the first row, α = 3 triples it; d = (0.6, 0.8) by NumPy's outer."""
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rescaled(w, torch.tensor([1.0, 0.0]), 0.0).tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert rescaled(w, torch.tensor([1.0, 0.0]), 3.0).tolist() == [[3.0, 6.0], [3.0, 4.0]]
    d = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(rescaled(w, d, 0.0), w - torch.outer(d, d) @ w)
    stacked = rescaled(torch.stack([w, 2 * w]), d, -1.0)
    torch.testing.assert_close(
        stacked, torch.stack([w, 2 * w]) - 2 * torch.outer(d, d) @ torch.stack([w, 2 * w])
    )
    assert rescaled(w.bfloat16(), d, 0.3).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "gemma", "deepseek"])
def test_half_precision_folds_up_to_its_rounding(family):
    """Fold and hook round at different places: few other choices, a small KL, weights back bit for bit."""
    decoder = wrap(copy.deepcopy(pair(family).it.module).bfloat16(), pair(family).it.tokenizer, variant="it")
    given, before = rows(8), weights(decoder)
    hooked = edited_logits(decoder, given, doses(decoder, [-1.0] * 8)).float().log_softmax(-1)
    with folded(decoder, LATE, directions(decoder), -1.0):
        got = logits(decoder.module, given).float().log_softmax(-1)
    assert ((got.exp() * (got - hooked)).sum(-1)).mean() < 0.005
    assert (got.argmax(-1) == hooked.argmax(-1)).float().mean() >= 0.75
    assert same(before, weights(decoder))


@families
def test_base_plus_the_product_is_the_fold(family):
    """W + BA by path of the module; a mixture is refused in one sentence."""
    decoder, d = pair(family).it, directions(pair(family).it)
    if family == "deepseek":
        with pytest.raises(InterventionError, match="The MLP of layer 7 is a mixture of experts"):
            rank_one(decoder, LATE, d, -1.0)
        assert list(rank_one(decoder, [0], d, -1.0)) == ["model.layers.0.mlp.down_proj"]  # its dense layer
        return
    products, plain = rank_one(decoder, LATE, 3 * d, -1.0), weights(decoder)
    assert list(products) == [f"model.layers.{i}.mlp.down_proj" for i in LATE]
    with folded(decoder, LATE, d, -1.0):
        changed = weights(decoder)
    for path, (a, b) in products.items():
        assert a.shape == (1, decoder.config.intermediate_size) and b.shape == (decoder.config.hidden_size, 1)
        name = f"{path}.weight"
        torch.testing.assert_close(plain[name] + b @ a, changed.pop(name), rtol=0, atol=1e-6)
        del plain[name]
    assert same(plain, changed), "nothing else was folded"


def test_a_bias_along_the_direction_is_refused():
    decoder = shapes.pair("llama_mlp_bias").it
    d = directions(decoder)
    with pytest.raises(InterventionError, match="layer 1 has a bias, which a LoRA cannot rescale"):
        rank_one(decoder, [1], d, 0.0)


def test_the_last_maps_are_those_of_their_width():
    """Nothing of a router, a gate or an up-projection; of pocket DeepSeek eight fused experts and the shared MLP."""
    decoder = pair("deepseek").it
    found = last_maps(blocks(decoder)[7].mlp, 96)
    assert sorted(tuple(p.shape) for p in found) == [(8, 96, 32), (96, 64)]
    assert [tuple(p.shape) for p in last_maps(blocks(decoder)[0].mlp, 96)] == [(96, 256)]
