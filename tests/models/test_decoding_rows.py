"""Decoding of edited rows equals one row at a time without a cache, nnsight's generation, and `generate` without edits."""

import copy

import numpy as np
import pytest
import torch

from nbhelpers.core.params import ParameterError
from nbhelpers.models import decoding, prompts
from nbhelpers.models.decoder import wrap
from nbhelpers.models.decoding import decode
from nbhelpers.models.edits import InterventionError, edited, skip
from nbhelpers.models.forward import Batch, forward
from nbhelpers.models.generation import Continuation, generate
from nbhelpers.models.row_edits import Applied, RowEdit, applied, as_edits
from tests import shapes
from tests.models.test_interventions import families, logits, pair
from tests.models.test_row_edits import LATE, directions, doses

ALPHAS = (1.0, 0.0, -1.0, 3.0)
N_NEW = 10
EVERY = pytest.mark.parametrize("name", list(shapes.SUPPORTED))


def chat_rows(decoder, n=4):
    """Prompts of the pocket set, of different lengths."""
    found = prompts.render(decoder, prompts.load_prompts("pocket/prompts.jsonl", n, seed=3))
    assert len(set(map(len, found))) > 1, "rows of one length would not test padding"
    return found


def one(edits, row):
    """The edits of one row."""
    return [edit.of(torch.tensor([row])) for edit in edits]


def slow(decoder, row, edits, n=N_NEW):
    """Greedy decoding of one row by whole forward passes without a cache, under edits of one row."""
    ids, made = list(row), []
    with torch.no_grad(), applied(decoder, edits, 1):
        while len(made) < n and not (made and made[-1] in decoder.stop_ids):
            last = decoder.module(torch.tensor([ids]), use_cache=False).logits[0, -1]
            last[~torch.as_tensor(decoder.real_tokens)] = -torch.inf
            made.append(int(last.argmax()))
            ids.append(made[-1])
    return Continuation(tuple(made), made[-1] in decoder.stop_ids)


@families
def test_without_edits_it_is_generate(family):
    for decoder in pair(family):
        rows = prompts.render(decoder, prompts.load_prompts("pocket/prompts.jsonl", 8, seed=1))
        got = decode(decoder, rows, max_new_tokens=12)
        assert got.continuations == generate(decoder, rows, max_new_tokens=12)


@families
def test_a_cached_batch_equals_rows_alone_and_whole_forwards(family):
    """Doses of −1, 0, 1 and 3 in one batch; each reaches its prompt and all that it wrote but the last token."""
    decoder = pair(family).it
    rows, edits = chat_rows(decoder), doses(decoder, ALPHAS)
    got = decode(decoder, rows, edits, max_new_tokens=N_NEW)
    for i, row in enumerate(rows):
        single = decode(decoder, [row], one(edits, i), max_new_tokens=N_NEW)
        assert single.continuations == [got.continuations[i]] == [slow(decoder, row, one(edits, i))]
        assert single.positions == got.positions[i]
    assert got.continuations[0] == generate(decoder, rows[:1], max_new_tokens=N_NEW)[0]
    assert got.positions.tolist() == [len(r) + len(c.ids) - 1 for r, c in zip(rows, got.continuations)]


@families
def test_nnsight_writes_the_same(family):
    """The same edits in every trace of generation, which takes rows longest first; strong ones change the text."""
    decoder = pair(family).it
    rows = sorted(chat_rows(decoder), key=len, reverse=True)
    edits = doses(decoder, ALPHAS) + doses(decoder, (-3.0, 6.0, 6.0, -3.0), [8, 10], place="residual")
    got = decode(decoder, rows, edits, max_new_tokens=N_NEW).continuations
    assert got == generate(edited(decoder, as_edits(edits)), rows, max_new_tokens=N_NEW)
    assert got != generate(decoder, rows, max_new_tokens=N_NEW)


@families
def test_skipped_blocks_keep_the_cache_right(family):
    """Layer 0 too, whose cache sizes the padding mask: each row as whole forwards that compute no skipped block."""
    decoder = pair(family).it
    rows, kept = chat_rows(decoder), torch.tensor([0.0, 1.0, 0.0, 1.0])
    edits = [
        RowEdit(layer, place, keep=kept) for layer in (0, 8) for place in ("attention_update", "mlp_update")
    ]
    got = decode(decoder, rows, edits, max_new_tokens=8).continuations
    plain = generate(decoder, rows, max_new_tokens=8)
    assert got[1::2] == plain[1::2] and got[::2] != plain[::2]
    for i in (0, 2):
        text = [*rows[i], *got[i].ids[:-1]]
        steps = range(len(rows[i]) - 1, len(text))
        given = Batch(np.arange(1), torch.tensor([text]), torch.ones(1, len(text)), (steps,), None)
        last = decoder.unembedding.logits(forward(decoder, given, skip([0, 8])).residual[-1])
        assert tuple(decoder.unembedding.token_ids[last.argmax(-1)].tolist()) == got[i].ids


@families
def test_rows_that_leave_change_no_other(family, monkeypatch):
    """Rows stop at different steps; what is left of the batch and its edits goes on as if none had left."""
    decoder = pair(family).it
    rows = [row for row in chat_rows(decoder, 4) for _ in range(3)]
    edits, left = doses(decoder, 4 * (0.0, 1.0, 2.0)), []
    select = Applied.select

    def counted(state, stay):
        select(state, stay)
        left.append(len(state.rows))

    monkeypatch.setattr(Applied, "select", counted)
    dropping = decode(decoder, rows, edits, max_new_tokens=12)
    assert left and left == sorted(set(left), reverse=True), "no row left the batch"
    monkeypatch.setattr(decoding, "COMPACT", 2.0)
    whole = decode(decoder, rows, edits, max_new_tokens=12)
    assert dropping.continuations == whole.continuations
    assert dropping.positions.tolist() == whole.positions.tolist()
    lengths = [len(r) + len(c.ids) - 1 for r, c in zip(rows, whole.continuations)]
    assert whole.positions.tolist() == lengths


def test_batches_of_like_length_keep_the_order_and_the_edits_of_rows():
    decoder = pair("llama").it
    rows = chat_rows(decoder, 7)
    edits = doses(decoder, (0.0, 1.0, 2.0, -1.0, 3.0, 0.5, -2.0))
    together = decode(decoder, rows, edits, max_new_tokens=12)
    apart = decode(decoder, rows, edits, max_new_tokens=12, batch_size=2)
    assert together.continuations == apart.continuations
    assert together.positions.tolist() == apart.positions.tolist()


@EVERY
def test_other_architectures_without_edits(name):
    """Sliding windows that prompts outgrow, mixtures, soft caps: what `generate` writes, rows that leave included."""
    decoder = shapes.pair(name).it
    rows = [list(range(20 + i, 34 + 2 * i)) for i in range(5)]
    assert decode(decoder, rows, max_new_tokens=24).continuations == generate(
        decoder, rows, max_new_tokens=24
    )


@EVERY
def test_other_architectures_with_edits_and_another_stop(name):
    """A stop that comes early, one of the tokens that the third row writes; compared with nnsight's generation."""
    decoder = shapes.pair(name).it
    rows = [list(range(20 + i, 44 - 2 * i)) for i in range(5)]
    edits = doses(decoder, (-4.0, 0.0, 1.0, 3.0, 6.0), range(1, decoder.n_layers))
    free = decode(decoder, rows, edits, max_new_tokens=12).continuations
    other = shapes.decoder(name, "it")
    other.module.generation_config.eos_token_id = free[2].ids[3]
    got = decode(other, rows, edits, max_new_tokens=12).continuations
    assert got[2].stopped and got[2].ids == free[2].ids[: len(got[2].ids)] and len(got[2].ids) <= 4
    assert got == generate(edited(other, as_edits(edits)), rows, max_new_tokens=12)


@pytest.mark.parametrize("family", ["llama", "gemma", "deepseek"])
def test_half_precision_agrees_up_to_its_rounding(family):
    """bfloat16, compared on forced tokens: small KL from float32 under the same edits, and few other choices."""
    decoder = pair(family).it
    half = halved(decoder)
    given = forced(decoder)
    edits = doses(decoder, ALPHAS)
    wide, narrow = (logits_under(d, given, edits).log_softmax(-1) for d in (decoder, half))
    kl = (wide.exp() * (wide - narrow)).sum(-1)
    assert kl.mean() < 1e-3 and (wide.argmax(-1) == narrow.argmax(-1)).float().mean() >= 0.75
    assert len(decode(half, chat_rows(decoder), edits, max_new_tokens=4).continuations) == len(ALPHAS)


def halved(decoder):
    """The same model in bfloat16."""
    return wrap(copy.deepcopy(decoder.module).bfloat16(), decoder.tokenizer, variant="it")


def forced(decoder):
    """Prompts of the pocket set, padded on the left."""
    rows = chat_rows(decoder)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return Batch(np.arange(len(rows)), ids, mask, tuple(range(1) for _ in rows), None)


def logits_under(decoder, given, edits):
    with applied(decoder, edits, len(given.rows)):
        return logits(decoder.module, given).float()


def test_what_does_not_fit_is_refused_before_a_token_is_made():
    decoder = pair("llama").it
    rows, d = chat_rows(decoder), directions(decoder)
    with pytest.raises(ParameterError, match="do not fit into its context of"):
        decode(decoder, rows, max_new_tokens=100_000)
    more = RowEdit(LATE[0], alpha=torch.ones(9), direction=d[:1])
    with pytest.raises(
        InterventionError, match=r"alpha of layer 7 has the shape \[9\]; this batch needs \[4\]"
    ):
        decode(decoder, rows, [more], max_new_tokens=2)


def test_no_rows_are_no_work():
    got = decode(pair("llama").it, [], max_new_tokens=4)
    assert got.continuations == [] and len(got.positions) == 0


def entering(decoder, layers):
    """Hooks that note how many rows enter blocks in every forward, [(layer, rows)], and a list of them."""
    seen, stack = [], decoder.stack._module.layers
    handles = [
        stack[i].register_forward_pre_hook(lambda m, inputs, i=i: seen.append((i, len(inputs[0]))))
        for i in layers
    ]
    return seen, handles


@families
def test_equal_prompts_are_computed_once_below_the_first_edit(family):
    """Two prompts of two lengths under four doses: two rows enter block 0 and eight block 7; each as it would be alone."""
    decoder = pair(family).it
    rows = [row for row in chat_rows(decoder)[:2] for _ in ALPHAS]
    edits = doses(decoder, 2 * ALPHAS) + [RowEdit(7, "attention_update", keep=torch.tensor(4 * [1.0, 0.5]))]
    seen, handles = entering(decoder, (0, 6))
    above, more = entering(decoder, (8,))
    got = decode(decoder, rows, edits, max_new_tokens=N_NEW)
    for handle in handles + more:
        handle.remove()
    assert seen[:3] == [(0, 2), (6, 2), (0, 8)] and above[:2] == [(8, 8), (8, 8)]
    for i, row in enumerate(rows):
        assert got.continuations[i] == slow(decoder, row, one(edits, i))
    assert got.positions.tolist() == [len(r) + len(c.ids) - 1 for r, c in zip(rows, got.continuations)]


@EVERY
def test_equal_prompts_of_other_architectures(name):
    """One prompt under three doses, two of unlike lengths, and an edit of layer 0, below which nothing is shared."""
    decoder = shapes.pair(name).it
    short, long = list(range(20, 31)), list(range(40, 60))
    for rows, layers in (([short] * 3, [2]), ([short, long, long, short], [1, 2]), ([short] * 3, [0, 2])):
        edits = doses(decoder, [-4.0, 1.0, 6.0, 2.0][: len(rows)], layers)
        got = decode(decoder, rows, edits, max_new_tokens=6).continuations
        assert got == [slow(decoder, row, one(edits, i), 6) for i, row in enumerate(rows)]
        assert len(set(got)) > 1


def test_a_failure_in_the_first_forward_leaves_no_hook():
    decoder = pair("llama").it
    rows = 2 * [chat_rows(decoder)[0]]
    before = decode(decoder, rows, doses(decoder, [0.0, 2.0]), max_new_tokens=4)
    with pytest.raises(KeyError), decoding.spread(decoder.stack._module.layers[7:], torch.zeros(2).long(), 1):
        raise KeyError
    assert (
        decode(decoder, rows, doses(decoder, [0.0, 2.0]), max_new_tokens=4).continuations
        == before.continuations
    )
    assert not any(block._forward_pre_hooks for block in decoder.stack._module.layers)
