"""Edits by row equal hand-written hooks and nnsight's edits on all six architectures, and do what their formula says."""

from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import normalize

from nbhelpers.models.edits import InterventionError, skip
from nbhelpers.models.forward import Batch, forward
from nbhelpers.models.row_edits import PLACES, RowEdit, applied, as_edits, changed
from tests import shapes
from tests.models.test_interventions import alone, batch, blocks, families, hooks, logits, pair

LATE = range(7, 12)
DOSES = (-1.0, 0.0, 0.5, 1.0, 3.0)


def directions(decoder, seed=0):
    """Random unit vectors [layer, d]."""
    shape = (decoder.n_layers, decoder.config.hidden_size)
    return normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def doses(decoder, alphas, layers=LATE, place="mlp_output"):
    """One dose a row, along one direction a layer."""
    d, alpha = directions(decoder), torch.tensor(alphas)
    return [RowEdit(layer, place, alpha=alpha, direction=d[layer : layer + 1]) for layer in layers]


def rows(n=5, length=24, padding=True):
    """A batch of random rows, every second of them padded on the left."""
    return batch(rows=n, length=length, padding=[7 * (i % 2) * padding for i in range(n)])


def edited_logits(decoder, given, edits):
    with applied(decoder, edits, len(given.rows)):
        return logits(decoder.module, given)


@contextmanager
def after(module, change):
    """A hook that changes what a module returns, or the first tensor of it."""

    def hook(module, inputs, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def capture(modules):
    """What modules return, in a list, from hooks that run after those of edits if this is entered later."""
    seen = []
    with hooks(*[(module, lambda x, out: seen.append(out)) for module in modules]):
        yield seen


def mlp_outputs(decoder, given, edits, layers):
    """MLP outputs [layer][row, position, d] under edits."""
    with applied(decoder, edits, len(given.rows)), capture([blocks(decoder)[i].mlp for i in layers]) as seen:
        logits(decoder.module, given)
    return seen


@families
def test_a_dose_a_row_equals_hooks_and_nnsight(family):
    """Each row as its own run with one hand-written hook; all rows as nnsight makes the same edits."""
    decoder, given, d = pair(family).it, rows(), directions(pair(family).it)
    edits = doses(decoder, DOSES)
    got, plain = edited_logits(decoder, given, edits), logits(decoder.module, given)

    def by_hand(alpha, d):
        return lambda x, out: out + (alpha - 1) * (out @ d)[..., None] * d

    for row, alpha in enumerate(DOSES):
        with hooks(*[(blocks(decoder)[i].mlp, by_hand(alpha, d[i])) for i in LATE]):
            expected = logits(decoder.module, given)[row]
        torch.testing.assert_close(got[row], expected, rtol=0, atol=1e-4)
        assert alpha == 1 or (got[row] - plain[row]).abs().max() > 1e-2
    traced = forward(decoder, given, as_edits(edits))
    torch.testing.assert_close(traced.last_logits, got, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(shapes.SUPPORTED))
def test_other_architectures_too(name):
    """Beyond the six: biases, mixtures, norms in other places. The stream, since a soft cap may flatten logits."""
    decoder = shapes.pair(name).it
    edits, given = doses(decoder, (-1.0, 0.0, 2.0), range(1, decoder.n_layers)), rows(3)
    with applied(decoder, edits, 3):
        got = forward(decoder, given).residual[-1]
    torch.testing.assert_close(
        got, forward(decoder, given, as_edits(edits)).residual[-1], rtol=1e-4, atol=1e-4
    )
    assert (got - forward(decoder, given).residual[-1]).abs().max() > 1e-2


@families
def test_a_trace_with_edits_reads_what_they_made(family):
    decoder, given = pair(family).it, rows()
    edits, (row, column) = doses(decoder, DOSES), given.where
    stream, seen = forward(decoder, given, as_edits(edits)), mlp_outputs(decoder, given, edits, LATE)
    for layer, h in zip(LATE, seen, strict=True):
        torch.testing.assert_close(stream.mlp_output[layer], h[row, column], rtol=1e-4, atol=1e-4)


@families
def test_row_alone_equals_row_in_a_batch(family):
    decoder, given = pair(family).it, rows()
    together = edited_logits(decoder, given, doses(decoder, DOSES))
    for row, alpha in enumerate(DOSES):
        single = edited_logits(decoder, alone(given, row), doses(decoder, [alpha]))
        torch.testing.assert_close(together[row], single[0], rtol=0, atol=1e-4)


@families
@pytest.mark.parametrize("place", PLACES)
def test_a_dose_of_one_is_the_model_bit_for_bit(family, place):
    """In a batch whose other rows are changed, up to the order in which experts take rows."""
    decoder, given = pair(family).pt, rows(3)
    plain = logits(decoder.module, given)
    assert torch.equal(edited_logits(decoder, given, doses(decoder, [1.0, 1.0, 1.0], place=place)), plain)
    got = edited_logits(decoder, given, doses(decoder, (1.0, 0.0, 1.0), place=place))
    torch.testing.assert_close(got[[0, 2]], plain[[0, 2]], rtol=0, atol=1e-5)
    assert (got[1] - plain[1]).abs().max() > 1e-3
    nothing = RowEdit(4, place, offset=torch.zeros(1, decoder.config.hidden_size), keep=torch.ones(1))
    assert torch.equal(edited_logits(decoder, given, [nothing]), plain)


@families
def test_removed_reversed_doubled(family):
    """At the edited layer itself: |d·h| < 1e-6 ‖h‖ at dose 0, −1 twice is the identity, 2 doubles."""
    decoder, given, d = pair(family).it, rows(3), directions(pair(family).it)[7]
    (h,) = mlp_outputs(decoder, given, [], [7])
    (out,) = mlp_outputs(decoder, given, doses(decoder, (0.0, -1.0, 2.0), [7]), [7])
    assert ((out[0] @ d).abs() < 1e-6 * h[0].norm(dim=-1)).all()
    torch.testing.assert_close(out[1] @ d, -(h[1] @ d), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[2] @ d, 2 * (h[2] @ d), rtol=1e-4, atol=1e-5)
    across = out - (out @ d)[..., None] * d
    torch.testing.assert_close(across, h - (h @ d)[..., None] * d, rtol=1e-4, atol=1e-5)
    (twice,) = mlp_outputs(decoder, given, 2 * doses(decoder, [-1.0], [7]), [7])
    torch.testing.assert_close(twice, h, rtol=1e-5, atol=1e-5)


@families
def test_the_matched_control_moves_as_far_along_another_direction(family):
    """‖h' − h‖ = |(α − 1)(d·h)| at every position, along ±w, by the sign of w·h (to 1 %)."""
    decoder, given = pair(family).it, rows(2, padding=False)
    d, w, alpha = directions(decoder)[7], directions(decoder, seed=1)[7], torch.tensor([0.0, 3.0])
    edit = RowEdit(7, alpha=alpha, direction=d[None], write=w[None])
    (h,), (out,) = mlp_outputs(decoder, given, [], [7]), mlp_outputs(decoder, given, [edit], [7])
    wanted = (alpha[:, None] - 1) * (h @ d).abs() * torch.sign(h @ w)
    moved = (out - h) @ w
    # Where next to nothing is moved, float32 holds no hundredth of it.
    counted = wanted.abs() > 1e-3 * h.norm(dim=-1)
    assert counted.float().mean() > 0.9
    assert ((moved - wanted).abs()[counted] <= 0.01 * wanted.abs()[counted]).all()
    torch.testing.assert_close((out - h).norm(dim=-1), wanted.abs(), rtol=1e-3, atol=1e-4)


@families
def test_keep_of_zero_skips_a_block(family):
    """Both updates of a block zero: what leaves it is what entered, behind norms too and at layer 0; other rows as ever."""
    decoder, given = pair(family).pt, rows(2)
    skipped = torch.tensor([0.0, 1.0])
    edits = [
        RowEdit(layer, place, keep=skipped)
        for layer in (0, 5)
        for place in ("attention_update", "mlp_update")
    ]
    with applied(decoder, edits, 2), capture(blocks(decoder)) as seen:
        got = logits(decoder.module, given)
    assert torch.equal(seen[5][0], seen[4][0]) and not torch.equal(seen[5][1], seen[4][1])
    expected = forward(decoder, given, skip([0, 5])).last_logits
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(got[1], logits(decoder.module, given)[1], rtol=0, atol=1e-5)


@families
@pytest.mark.parametrize("place", PLACES)
def test_an_offset_is_added_at_its_place(family, place):
    """Added to what the module of the place returns, at every position; keep = 0 puts it in place of it."""
    decoder, given = pair(family).it, rows(2)
    v = 3 * directions(decoder)[6]
    added, put = (RowEdit(6, place, offset=v[None], keep=torch.tensor([keep])) for keep in (1.0, 0.0))
    module = {"residual": blocks(decoder)[6], "attention_output": blocks(decoder)[6].self_attn}.get(place)
    module = module or blocks(decoder)[6].get_submodule(submodule_of(blocks(decoder)[6], place))
    for edit, share in ((added, 1.0), (put, 0.0)):
        with after(module, lambda h, share=share: share * h + v):
            expected = logits(decoder.module, given)
        torch.testing.assert_close(edited_logits(decoder, given, [edit]), expected, rtol=0, atol=1e-4)


def submodule_of(block, place):
    """The name of the module that returns an update, from whether a norm stands behind it; the six families only."""
    behind = hasattr(block, "post_feedforward_layernorm")
    return {
        "attention_update": "post_attention_layernorm" if behind else "self_attn",
        "mlp_output": "mlp",
        "mlp_update": "post_feedforward_layernorm" if behind else "mlp",
    }[place]


def test_an_edit_by_hand():
    """h = (3, 4), d = (1, 0), α = 0 → (0, 4); matched to w = (0, −1): |−1·3| against w·h < 0 → (3, 1); then halves."""
    h, d, w = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, -1.0]])
    zero = torch.zeros(1)
    assert changed(h, RowEdit(0, alpha=zero, direction=d)).tolist() == [[[0.0, 4.0]]]
    assert changed(h, RowEdit(0, alpha=zero, direction=d, write=w)).tolist() == [[[3.0, 1.0]]]
    halved = RowEdit(0, keep=torch.tensor([0.5]), offset=torch.tensor([[1.0, 1.0]]))
    assert changed(h, halved).tolist() == [[[2.5, 3.0]]]


def test_in_half_precision_sums_are_float32():
    """h·d of a thousand equal entries in bfloat16, summed there, would be off by per cents; the result is cast once."""
    h = torch.full((1, 1, 1000), 1.001).bfloat16()
    d = normalize(torch.ones(1, 1000), dim=-1)
    out = changed(h, RowEdit(0, alpha=torch.tensor([3.0]), direction=d))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), 3 * h.float(), rtol=2**-8, atol=0)
    assert torch.equal(changed(h, RowEdit(0, alpha=torch.ones(1), direction=d)), h)


def test_hooks_are_gone_after_a_failure():
    decoder, given = pair("llama").it, rows(2)
    plain = logits(decoder.module, given)
    with pytest.raises(KeyError), applied(decoder, doses(decoder, (0.0, 3.0)), 2):
        raise KeyError
    assert torch.equal(logits(decoder.module, given), plain)
    with pytest.raises(InterventionError), applied(decoder, doses(decoder, [0.0], [7, 12]), 2):
        pass
    assert torch.equal(logits(decoder.module, given), plain)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: RowEdit(12, alpha=torch.ones(2), direction=d), "There is no layer 12: this model's are 0 to 11"),
        (lambda d: RowEdit(-1, alpha=torch.ones(2), direction=d), "There is no layer -1"),
        (lambda d: RowEdit(3, "mlp", alpha=torch.ones(2), direction=d), "not on 'mlp'"),
        (lambda d: RowEdit(3, alpha=torch.ones(2)), "Layer 3: a dose needs a direction"),
        (lambda d: RowEdit(3, direction=d), "and a direction a dose"),
        (lambda d: RowEdit(3, alpha=torch.ones(3), direction=d), r"alpha of layer 3 has the shape \[3\].*\[2\]"),
        (lambda d: RowEdit(3, alpha=torch.tensor(2.0), direction=d), r"alpha of layer 3 has the shape \[\]"),
        (lambda d: RowEdit(3, alpha=torch.ones(2), direction=d[0]), r"direction of layer 3 has the shape \[96\]"),
        (lambda d: RowEdit(3, alpha=torch.ones(2), direction=d[:, :5]), r"has the shape \[1, 5\].*\[2, 96\]"),
        (lambda d: RowEdit(3, keep=torch.ones(2, 1)), r"keep of layer 3 has the shape \[2, 1\]"),
        (lambda d: RowEdit(3, offset=torch.ones(3, 96)), r"offset of layer 3 has the shape \[3, 96\]"),
    ],
)  # fmt: skip
def test_edits_that_cannot_be_made(edit, message):
    decoder = pair("llama").it
    with (
        pytest.raises(InterventionError, match=message) as error,
        applied(decoder, [edit(directions(decoder)[:1])], 2),
    ):
        pass
    assert str(error.value).count(".") == 1 and "\n" not in str(error.value)


def test_a_trace_takes_no_other_place():
    decoder = pair("llama").it
    with pytest.raises(InterventionError, match="In a trace, .* not on 'attention_update'"):
        as_edits(doses(decoder, [0.0], place="attention_update"))


def test_edits_of_some_rows():
    """Rows that are chosen keep their own values; what is for all rows stays."""
    edit = RowEdit(3, alpha=torch.tensor([1.0, 2.0, 3.0]), direction=torch.ones(1, 4), write=torch.eye(3, 4))
    few = edit.of(torch.tensor([2, 0]))
    assert few.alpha.tolist() == [3.0, 1.0] and few.direction is edit.direction
    assert torch.equal(few.write, edit.write[[2, 0]]) and few.offset is None


def test_a_batch_is_what_these_tests_say():
    given = rows()
    assert isinstance(given, Batch) and given.attention_mask.sum(1).tolist() == [24, 17, 24, 17, 24]
