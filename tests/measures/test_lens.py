"""The streamed lens against float64 log-softmaxes of the full logits, and against a model's own logits."""

import os
import subprocess
import sys
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from nbhelpers.measures import lens
from nbhelpers.models.unembedding import Unembedding
from tests.stubs import REPOSITORY

KL = ("kl_final_layer", "kl_layer_final", "kl_adjacent")


def case(layers=5, tokens=7, d=16, vocabulary=300, *, scale=3.0, dtype=torch.float32, seed=0):
    """Random residuals [layer, token, d] that grow towards a final state, with an unembedding of its own ids."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.randn(layers, tokens, d, generator=g)
    norm = torch.nn.RMSNorm(d)
    norm.weight.data.uniform_(0.5, 1.5, generator=g)
    weight = scale * torch.randn(vocabulary, d, generator=g) / d**0.5
    ids = torch.randperm(10 * vocabulary, generator=g)[:vocabulary]
    return steps.cumsum(0).to(dtype), Unembedding(norm.to(dtype), weight.to(dtype), ids)


def slow_logits(residuals, unembedding):
    """Every logit in float64, from the normed state in the model's dtype."""
    with torch.no_grad():
        z = torch.stack([unembedding.norm(h).double() for h in residuals]) @ unembedding.weight.double().T
    cap = unembedding.softcap
    return torch.tanh(z / cap) * cap if cap else z


def slow(z, token_ids):
    """Every metric [layer, token] from full float64 logits [layer, token, vocabulary]; -inf is a masked token."""

    def kl(p, q):
        return (p.exp() * torch.where(p.isneginf(), 0.0, p - q)).sum(-1)

    p = z.log_softmax(-1)
    adjacent = torch.full(z.shape[:2], torch.nan, dtype=torch.float64)
    adjacent[1:] = kl(p[:-1], p[1:])
    return {
        "kl_final_layer": kl(p[-1:], p),
        "kl_layer_final": kl(p, p[-1:].expand_as(p)),
        "kl_adjacent": adjacent,
        "entropy": -(p.exp() * p.clamp(min=-1e4)).sum(-1),
        "top1": token_ids[z.argmax(-1)],
    }


def assert_same(got, expected, atol=2e-5, rtol=1e-5):
    for name, values in got.items():
        if name == "top1":
            assert torch.equal(values, expected[name])
        else:
            torch.testing.assert_close(values.double(), expected[name], atol=atol, rtol=rtol, equal_nan=True)


@pytest.mark.parametrize(("rows", "columns"), [(512, None), (3, None), (1, 64), (4, 128), (7, 299), (5, 1)])
def test_equals_float64_whatever_the_tile(rows, columns):
    residuals, unembedding = case()
    got = lens.lens_metrics(residuals, unembedding, rows=rows, columns=columns)
    assert list(got) == list(lens.METRICS)
    assert_same(got, slow(slow_logits(residuals, unembedding), unembedding.token_ids))


@settings(max_examples=40)
@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(1, 500), st.integers(1, 8), st.integers(1, 600),
    st.floats(0.01, 60), st.integers(0, 99),
)  # fmt: skip
def test_equals_float64_for_any_shape_and_sharpness(layers, tokens, vocabulary, rows, columns, scale, seed):
    residuals, unembedding = case(layers, tokens, 8, vocabulary, scale=scale, seed=seed)
    got = lens.lens_metrics(residuals, unembedding, rows=rows, columns=columns)
    assert_same(got, slow(slow_logits(residuals, unembedding), unembedding.token_ids), atol=5e-5)
    assert all((got[name].nan_to_num() >= 0).all() for name in (*KL, "entropy"))


def test_a_realistic_size_is_within_2e_5_nats():
    residuals, unembedding = case(4, 40, 256, 9000, scale=4.0)
    expected = slow(slow_logits(residuals, unembedding), unembedding.token_ids)
    got = lens.lens_metrics(residuals, unembedding, rows=16)
    assert_same(got, expected, atol=2e-5, rtol=0)


def test_definitions_at_the_ends():
    residuals, unembedding = case()
    got = lens.lens_metrics(residuals, unembedding)
    assert (got["kl_final_layer"][-1] == 0).all() and (got["kl_layer_final"][-1] == 0).all()
    assert got["kl_adjacent"][0].isnan().all() and got["kl_adjacent"][1:].isfinite().all()
    torch.testing.assert_close(got["kl_adjacent"][-1], got["kl_layer_final"][-2], atol=1e-6, rtol=1e-6)


def test_kl_directions_by_hand():
    """Layer (¾, ¼), final (½, ½): KL(final ‖ layer) = ½ ln ⅔ + ½ ln 2, KL(layer ‖ final) = ¾ ln 3⁄2 + ¼ ln ½."""
    residuals = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]]).log()
    plain = Unembedding(torch.nn.Identity(), torch.eye(2), torch.arange(2))
    got = {name: values[0].item() for name, values in lens.lens_metrics(residuals, plain).items()}
    assert got["kl_final_layer"] == pytest.approx(0.5 * log(2 / 3) + 0.5 * log(2), abs=1e-6)
    assert got["kl_layer_final"] == pytest.approx(0.75 * log(3 / 2) + 0.25 * log(1 / 2), abs=1e-6)
    assert got["entropy"] == pytest.approx(-0.75 * log(3 / 4) - 0.25 * log(1 / 4), abs=1e-6)


@pytest.mark.parametrize("gap", [50.0, 400.0, 3000.0])
def test_large_kl_is_not_clipped(gap):
    """Two certain, different predictions: log(p + ε) would stop at 27.6 nats."""
    residuals = gap * torch.eye(3)[:2, None]
    plain = Unembedding(torch.nn.Identity(), torch.eye(3), torch.arange(3))
    for columns in (1, 3):
        got = lens.lens_metrics(residuals, plain, columns=columns)
        for name in ("kl_final_layer", "kl_layer_final"):
            assert got[name][0].item() == pytest.approx(gap, rel=1e-6)
        assert got["kl_adjacent"][1].item() == pytest.approx(gap, rel=1e-6)
        assert got["entropy"].abs().max() < 1e-12


def test_dropped_rows_equal_logits_of_minus_infinity():
    residuals, whole = case(vocabulary=200)
    real = torch.rand(200, generator=torch.Generator().manual_seed(3)) < 0.7
    masked = slow_logits(residuals, whole).masked_fill(~real, -torch.inf)
    part = Unembedding(whole.norm, whole.weight[real], whole.token_ids[real])
    assert_same(lens.lens_metrics(residuals, part, columns=64), slow(masked, whole.token_ids))


def test_top1_of_equal_logits_is_the_first():
    flat = Unembedding(torch.nn.Identity(), torch.zeros(300, 4), torch.arange(7, 307))
    for columns in (128, 256, 300):
        assert (lens.lens_metrics(torch.ones(2, 3, 4), flat, columns=columns)["top1"] == 7).all()


def test_soft_cap():
    residuals, plain = case()
    capped = replace(plain, softcap=5.0)
    expected = slow(slow_logits(residuals, capped), capped.token_ids)
    assert_same(lens.lens_metrics(residuals, capped, columns=128), expected)
    assert not torch.allclose(
        expected["entropy"], slow(slow_logits(residuals, plain), plain.token_ids)["entropy"]
    )


def test_bfloat16_models_get_float32_logits():
    residuals, unembedding = case(dtype=torch.bfloat16, d=64, scale=6.0)
    got = lens.lens_metrics(residuals, unembedding, columns=128)
    assert got["entropy"].dtype == torch.float32
    assert_same(got, slow(slow_logits(residuals, unembedding), unembedding.token_ids))


def test_chosen_metrics_are_the_same_numbers():
    residuals, unembedding = case()
    whole = lens.lens_metrics(residuals, unembedding, columns=128)
    for chosen in [(name,) for name in lens.METRICS] + [
        ("top1", "kl_final_layer"),
        ("entropy", "kl_adjacent"),
    ]:
        part = lens.lens_metrics(list(residuals), unembedding, metrics=chosen, columns=128)
        assert list(part) == list(chosen)
        for name in chosen:
            torch.testing.assert_close(part[name], whole[name], atol=0, rtol=0, equal_nan=True)


def test_single_layer_and_no_tokens():
    residuals, unembedding = case(layers=1)
    got = lens.lens_metrics(residuals, unembedding)
    assert (got["kl_final_layer"] == 0).all() and got["kl_adjacent"].isnan().all()
    assert lens.lens_metrics(residuals[:, :0], unembedding)["entropy"].shape == (1, 0)


MORE = (*lens.METRICS, *lens.MORE_METRICS)


def slow_more(z, token_ids, targets):
    """The metrics of single tokens [layer, token] from full float64 logits, ids looked up one by one."""
    p, row = z.log_softmax(-1), [token_ids.tolist().index(target) for target in targets.tolist()]
    own = z[:, range(len(row)), row][..., None]
    order = z.argsort(dim=-1, descending=True, stable=True)
    return {
        "top1_probability": p.exp().amax(-1),
        "target_log_probability": p[:, range(len(row)), row],
        "target_rank": 1 + (z > own).sum(-1),
        "top5": token_ids[order[..., :5]],
    }


def assert_same_more(got, z, token_ids, targets, atol=2e-5):
    for name, expected in slow_more(z, token_ids, targets).items():
        if expected.is_floating_point():
            torch.testing.assert_close(got[name].double(), expected, atol=atol, rtol=1e-5)
        else:
            assert got[name].dtype == torch.int64 and torch.equal(got[name], expected)


def some_of(unembedding, tokens, seed=0):
    """A target id for each token, any of the real vocabulary."""
    g = torch.Generator().manual_seed(seed)
    return unembedding.token_ids[torch.randint(len(unembedding.token_ids), (tokens,), generator=g)]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(512, None), (3, 64), (1, 128), (7, 299), (5, 1), (2, 3)])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_single_tokens_equal_a_full_softmax_whatever_the_tile(rows, columns, softcap):
    residuals, unembedding = case()
    unembedding = replace(unembedding, softcap=softcap)
    targets = some_of(unembedding, 7)
    got = lens.lens_metrics(residuals, unembedding, metrics=MORE, targets=targets, rows=rows, columns=columns)
    assert list(got) == list(MORE) and got["top5"].shape == (5, 7, 5)
    z = slow_logits(residuals, unembedding)
    assert_same_more(got, z, unembedding.token_ids, targets)
    assert_same({name: got[name] for name in lens.METRICS}, slow(z, unembedding.token_ids))


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(1, 6),
    st.integers(1, 400),
    st.integers(0, 99),
)
def test_ties_rank_alike_and_the_lower_row_comes_first(layers, tokens, vocabulary, rows, columns, seed):
    """Small integers: every product is exact, and most logits have equals."""
    g = torch.Generator().manual_seed(seed)
    residuals = torch.randint(-2, 3, (layers, tokens, 3), generator=g).float()
    weight = torch.randint(-2, 3, (vocabulary, 3), generator=g).float()
    ids = torch.randperm(2 * vocabulary, generator=g)[:vocabulary]
    unembedding = Unembedding(torch.nn.Identity(), weight, ids)
    targets = some_of(unembedding, tokens, seed)
    got = lens.lens_metrics(residuals, unembedding, metrics=MORE, targets=targets, rows=rows, columns=columns)
    z = residuals.double() @ weight.double().T
    assert_same_more(got, z, ids, targets)
    assert torch.equal(got["top5"][..., 0], got["top1"]) and torch.equal(got["top1"], ids[z.argmax(-1)])


def test_single_tokens_agree_with_each_other_and_leave_the_rest_alone():
    residuals, unembedding = case(6, 50, 32, 2000, scale=1.0)
    final = lens.lens_metrics(residuals, unembedding, columns=512)
    got = lens.lens_metrics(residuals, unembedding, metrics=MORE, targets=final["top1"][-1], columns=512)
    first = got["target_rank"] == 1
    assert torch.equal(first, got["top1"] == final["top1"][-1]) and torch.equal(got["top1"], final["top1"])
    torch.testing.assert_close(
        got["target_log_probability"][first].exp(), got["top1_probability"][first], atol=1e-6, rtol=1e-6
    )
    for name in (*KL, "entropy"):
        torch.testing.assert_close(got[name], final[name], atol=2e-6, rtol=1e-6, equal_nan=True)


def test_single_tokens_of_a_bfloat16_model():
    residuals, unembedding = case(dtype=torch.bfloat16, d=64, scale=6.0)
    targets = some_of(unembedding, 7)
    got = lens.lens_metrics(residuals, unembedding, metrics=MORE, targets=targets, columns=128)
    assert_same_more(got, slow_logits(residuals, unembedding), unembedding.token_ids, targets)


def test_targets_must_be_real_tokens():
    residuals, unembedding = case()
    ask = dict(metrics=("target_rank",))
    with pytest.raises(ValueError, match="need targets, one id for each of 7 tokens, not none"):
        lens.lens_metrics(residuals, unembedding, **ask)
    with pytest.raises(ValueError, match=r"each of 7 tokens, not \[3\]"):
        lens.lens_metrics(residuals, unembedding, targets=unembedding.token_ids[:3], **ask)
    for wrong in (-1, 10**9, next(i for i in range(3000) if i not in set(unembedding.token_ids.tolist()))):
        targets = some_of(unembedding, 7).index_fill(0, torch.tensor([4]), wrong)
        with pytest.raises(ValueError, match=rf"The tokens \[{wrong}\] are not in the real vocabulary"):
            lens.lens_metrics(residuals, unembedding, targets=targets, **ask)


class Counted(torch.nn.Module):
    """A norm that counts the (layer, token) pairs that it has normed, which are those unembedded."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.pairs = norm, 0

    def forward(self, h):
        self.pairs += len(h)
        return self.norm(h)


class Largest(TorchDispatchMode):
    """Records the most elements that any tensor made under it has."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.numel = max([self.numel, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
        return out


@pytest.mark.parametrize(("layers", "tokens"), [(3, 64), (12, 64), (3, 256)])
def test_no_tensor_is_larger_than_a_tile(layers, tokens):
    residuals, unembedding = case(layers, tokens, 8, 1000)
    for more in ({}, {"metrics": MORE, "targets": some_of(unembedding, tokens)}):
        with Largest() as largest:
            lens.lens_metrics(list(residuals), unembedding, rows=32, columns=256, **more)
        assert 32 * 256 <= largest.numel <= 33 * 256


def test_nothing_is_recorded_for_gradients():
    residuals, unembedding = case()
    unembedding.weight.requires_grad_()
    got = lens.lens_metrics(residuals.requires_grad_(), unembedding)
    assert not any(values.requires_grad for values in got.values())


@pytest.mark.slow
@pytest.mark.parametrize("metrics", [lens.METRICS, ("kl_final_layer",)])
def test_compiled_equals_eager(metrics):
    residuals, unembedding = case(4, 50, 16, 700)
    options = dict(metrics=metrics, rows=16, columns=256)
    eager = lens.lens_metrics(residuals, unembedding, **options)
    compiled = lens.lens_metrics(residuals, unembedding, compile=True, **options)
    for name in metrics:
        torch.testing.assert_close(compiled[name], eager[name], atol=5e-6, rtol=1e-5, equal_nan=True)


NO_COMPILER = """
import torch
from nbhelpers.measures import lens
from tests.measures.test_lens import case
residuals, unembedding = case(3, 9, 16, 300)
eager = lens.lens_metrics(residuals, unembedding)
for _ in range(2):
    found = lens.lens_metrics(residuals, unembedding, compile=True)
print(all(torch.equal(found[name], eager[name]) for name in ("entropy", "kl_final_layer", "top1")))
"""


@pytest.mark.slow
def test_without_a_compiler_the_lens_says_so_once_and_goes_on():
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], capture_output=True, text=True, cwd=REPOSITORY,
                          env=os.environ | {"CXX": "/no/such/compiler"})  # fmt: skip
    said, equal = done.stdout.splitlines()
    assert (
        said.startswith("The lens runs without torch.compile")
        and "compiler" in said.lower()
        and equal == "True"
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.model.norm.weight.data.uniform_(0.5, 4.0)
    return model


def read(model):
    """The residual after the last block, the same after the final norm, and the logits of some tokens."""
    kept = []
    handle = model.model.layers[-1].register_forward_hook(lambda m, a, out: kept.append(out))
    with torch.no_grad():
        out = model(torch.arange(20).reshape(2, 10), output_hidden_states=True)
    handle.remove()
    return kept[0].flatten(0, 1), out.hidden_states[-1].flatten(0, 1), out.logits.flatten(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_layer_reproduces_the_models_logits(model, dtype):
    model = model.to(dtype)
    residual, _, logits = read(model)
    real = torch.arange(100)
    unembedding = Unembedding(model.model.norm, model.lm_head.weight[real], real)
    assert lens.check_identity(residual, logits, unembedding) < (1e-5 if dtype == torch.float32 else 0.02)
    torch.testing.assert_close(
        lens.lens_logits(residual, unembedding), logits[:, real].float(), atol=0.02, rtol=0.02
    )


def test_a_norm_applied_twice_is_refused(model):
    _, normed, logits = read(model.float())
    unembedding = Unembedding(model.model.norm, model.lm_head.weight, torch.arange(120))
    with pytest.raises(lens.LensError, match="before the final norm, which must not be applied twice"):
        lens.check_identity(normed, logits, unembedding)


def test_a_forgotten_soft_cap_is_refused(model):
    residual, _, logits = read(model.float())
    unembedding = Unembedding(model.model.norm, model.lm_head.weight, torch.arange(120))
    capped = 2.0 * torch.tanh(logits / 2.0)
    with pytest.raises(lens.LensError, match="soft cap"):
        lens.check_identity(residual, capped, unembedding)
    assert lens.check_identity(residual, capped, replace(unembedding, softcap=2.0)) < 1e-5


def test_wrong_input_is_named():
    residuals, unembedding = case()
    with pytest.raises(ValueError, match=r"\['kl'\]: choose from kl_final_layer"):
        lens.lens_metrics(residuals, unembedding, metrics=("kl",))
    with pytest.raises(ValueError, match=r"must be \[layer, token, 16\]"):
        lens.lens_metrics(residuals[..., :8], unembedding)
    with pytest.raises(ValueError, match=r"must be \[layer, token, 16\]"):
        lens.lens_metrics([residuals[0], residuals[1, :2]], unembedding)
    short = replace(unembedding, token_ids=unembedding.token_ids[:3])
    with pytest.raises(ValueError, match="300 rows but 3 token ids"):
        lens.lens_metrics(residuals, short)


@pytest.mark.slow
def test_the_lens_does_without_nnsight():
    check = "import sys, nbhelpers.measures.lens; sys.exit('nnsight' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_near_ties_are_counted_and_other_text_is_refused():
    """Ids 5 and 6 differ from the best by rounding alone; half precision is allowed more."""
    top1, made = np.array([3, 4, 5]), np.array([3, 4, 6])
    gap = np.array([0.0, 0.0, 0.004])
    assert lens.greedy_ties(top1, made, gap, torch.float32, "x").tolist() == [False, False, True]
    coarse = np.array([0.0, 0.0, 0.3])
    assert lens.greedy_ties(top1, made, coarse, torch.bfloat16, "x").tolist() == [False, False, True]
    with pytest.raises(lens.LensError, match="x: a generated token is 0.3 nats less likely"):
        lens.greedy_ties(top1, made, coarse, torch.float32, "x")
    with pytest.raises(lens.LensError, match="x: a generated token is 3 nats"):
        lens.greedy_ties(top1, made, 10 * coarse, torch.bfloat16, "x")
    with pytest.raises(lens.LensError):
        lens.greedy_ties(top1, made, np.array([0, 0, np.nan]), torch.float32, "x")
    assert lens.greedy_ties(top1[:0], made[:0], gap[:0], torch.float32, "x").tolist() == []
