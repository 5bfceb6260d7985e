"""Grafts, skips and steering equal plain PyTorch, and a resumed forward the whole one, on all six architectures."""

import copy
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbhelpers.core.params import FAMILIES
from nbhelpers.models import generation
from nbhelpers.models.decoder import wrap
from nbhelpers.models.edits import (
    SCOPES,
    InterventionError,
    along,
    edited,
    graft,
    scramble,
    skip,
    steer,
)
from nbhelpers.models.forward import LAYERED, Batch, forward, resume_layer
from nbhelpers.models.loading import load_pair

families = pytest.mark.parametrize("family", FAMILIES)
NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm", "post_attention_layernorm")


@cache
def pair(family):
    return load_pair(f"{family}_pocket")


def blocks(decoder):
    return decoder.module.get_submodule(decoder.stack_path).layers


def batch(rows=2, length=26, padding=(0, 7), side="left", seed=0):
    """Random ids, the later rows padded; all positions but the first four of each row's own are measured."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, 600, (rows, length), generator=generator)
    mask, steps = torch.ones_like(ids), []
    for row, pad in enumerate(padding):
        hidden = slice(0, pad) if side == "left" else slice(length - pad, length)
        mask[row, hidden] = 0
        ids[row, hidden] = 0
        first = pad if side == "left" else 0
        steps.append(range(first + 4, first + length - pad))
    return Batch(
        np.arange(rows), ids, mask, tuple(steps), torch.zeros(sum(map(len, steps)), dtype=torch.long)
    )


def alone(given, row):
    """One row of a batch without its padding."""
    kept = given.attention_mask[row] == 1
    steps = range(4, int(kept.sum()))
    return Batch(
        np.arange(1), given.input_ids[row, kept][None], torch.ones(1, kept.sum()), (steps,), given.targets
    )


def swapped(host, donor, layers, scope="mlp"):
    """A plain copy of the host with the donor's modules in place."""
    module = copy.deepcopy(host.module)
    theirs = blocks(donor)
    for layer in layers:
        block = module.get_submodule(host.stack_path).layers[layer]
        block.mlp = theirs[layer].mlp
        post = hasattr(block, "post_feedforward_layernorm")
        for norm in (NORMS[:2] if post else NORMS[2:]) if scope == "block" else ():
            if hasattr(block, norm):
                setattr(block, norm, getattr(theirs[layer], norm))
    return module


@contextmanager
def hooks(*placed):
    """Forward hooks (module, change of its output) for as long as the context lasts."""
    handles = [
        module.register_forward_hook(lambda m, args, out, change=change: change(args[0], out))
        for module, change in placed
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def grafting(host, donor, layers):
    theirs = blocks(donor)
    return [(blocks(host)[layer].mlp, lambda x, out, mlp=theirs[layer].mlp: mlp(x)) for layer in layers]


@torch.no_grad()
def logits(module, given):
    """Logits of the last column, as `forward` keeps them; positions count from each row's first token."""
    positions = (given.attention_mask.cumsum(-1) - 1).clamp(min=0)
    out = module(given.input_ids, attention_mask=given.attention_mask, position_ids=positions, use_cache=False,
                 logits_to_keep=1)  # fmt: skip
    return out.logits[:, -1]


def equal(a, b):
    """Whether two streams are the same bit for bit."""
    lists = [getattr(stream, name) for name in LAYERED for stream in (a, b)]
    same = all(
        torch.equal(x, y) for one, two in zip(lists[::2], lists[1::2]) for x, y in zip(one, two, strict=True)
    )
    return same and torch.equal(a.last_logits, b.last_logits) and torch.equal(a.embedding, b.embedding)


@families
@pytest.mark.parametrize("scope", SCOPES)
def test_graft_equals_a_swap_of_modules(family, scope):
    """Bit for bit, in both directions; of DeepSeek, layer 0 is dense and layer 1 a mixture with its router."""
    for host, donor in (tuple(pair(family)), tuple(pair(family))[::-1]):
        for layers in ([0, 1], range(7, 12)):
            got = forward(host, batch(), graft(donor, layers, scope=scope)).last_logits
            assert torch.equal(got, logits(swapped(host, donor, layers, scope), batch()))
            assert (got - logits(host.module, batch())).abs().max() > 0.1


@families
def test_graft_equals_hooks(family):
    host, donor = pair(family)
    with hooks(*grafting(host, donor, range(3, 8))):
        expected = logits(host.module, batch())
    assert torch.equal(forward(host, batch(), graft(donor, range(3, 8))).last_logits, expected)


@families
@pytest.mark.parametrize("scope", SCOPES)
def test_self_graft_changes_nothing(family, scope):
    host = pair(family).pt
    assert equal(forward(host, batch(), graft(host, range(12), scope=scope)), forward(host, batch()))


@families
def test_forward_without_edits_is_the_model(family):
    host = pair(family).it
    seen = []
    with hooks(*[(block, lambda x, out: seen.append(out)) for block in blocks(host)]):
        expected = logits(host.module, batch())
    stream, (row, column) = forward(host, batch()), batch().where
    assert torch.equal(stream.last_logits, expected)
    assert all(torch.equal(h, whole[row, column]) for h, whole in zip(stream.residual, seen, strict=True))
    before = [stream.embedding, *stream.residual[:-1]]
    added = [sum(parts) for parts in zip(before, stream.attention_update, stream.mlp_update)]
    torch.testing.assert_close(added, stream.residual, rtol=1e-4, atol=2e-4)


@families
def test_teacher_forced_equals_stepwise_with_a_cache(family):
    host, donor = pair(family)
    given, seen = batch(padding=(0, 0)), []
    with hooks(
        *grafting(host, donor, range(4, 9)), *[(b, lambda x, out: seen.append(out)) for b in blocks(host)]
    ):
        cache_, ids = None, given.input_ids
        for at in range(ids.shape[1]):
            with torch.no_grad():
                out = host.module(ids[:, at : at + 1], past_key_values=cache_, use_cache=True)
            cache_ = out.past_key_values
    steps = torch.cat(seen, 1).unflatten(1, (-1, host.n_layers))  # [row, position, layer, d]
    stream, (row, column) = forward(host, given, graft(donor, range(4, 9))), given.where
    torch.testing.assert_close(torch.stack(stream.residual, 1), steps[row, column], rtol=1e-3, atol=1e-3)


@families
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_row_equals_the_row_alone(family, side):
    host, donor = pair(family)
    edits, given = graft(donor, range(5, 10)) + scramble(donor, [3]), batch(side=side)
    together = forward(host, given, edits)
    for row in range(2):
        single = forward(host, alone(given, row), edits)
        mine = torch.as_tensor(given.row_of_step == row)
        for name in ("residual", "mlp_update"):
            got = torch.stack(getattr(together, name))[:, mine]
            torch.testing.assert_close(got, torch.stack(getattr(single, name)), rtol=1e-3, atol=1e-3)


@families
def test_resumed_equals_whole(family):
    host, donor = pair(family)
    direction = torch.randn(host.config.hidden_size, generator=torch.Generator().manual_seed(2))
    base = forward(host, batch(), keep=range(12))
    for edits in (
        graft(donor, range(7, 12)), graft(donor, [5, 6], scope="block"), scramble(donor, [8]), skip([4, 9]),
        steer([6], along(direction, 0.0)), graft(donor, [11]) + steer([11], along(direction, 2.0)),
    ):  # fmt: skip
        whole, first = forward(host, batch(), edits), min(edit.layer for edit in edits)
        resumed = forward(host, batch(), edits, resume=base)
        assert equal(whole, resumed) and not torch.equal(whole.last_logits, base.last_logits)
        assert resumed.residual[first - 1] is base.residual[first - 1]


def test_resume_starts_at_the_nearest_layer_kept():
    host, donor = pair("llama")
    base = forward(host, batch(), keep=[2, 5, 9])
    edits = graft(donor, [7, 8])
    assert resume_layer(edits, base) == 5 and resume_layer(edits, None) == 0
    again = forward(host, batch(), edits, resume=base, keep=[9])
    assert equal(again, forward(host, batch(), edits)) and sorted(again.entering) == [2, 5, 9]
    more = forward(host, batch(), edits + graft(donor, [10]), resume=again)
    assert not equal(more, again)


@families
def test_what_is_replaced_is_not_computed(family):
    host, donor = pair(family)
    linears = [
        next(m for m in block.mlp.modules() if isinstance(m, torch.nn.Linear)) for block in blocks(host)
    ]
    ran = []
    with hooks(*[(linear, lambda x, out, layer=i: ran.append(layer)) for i, linear in enumerate(linears)]):
        forward(host, batch(), graft(donor, [3, 4]) + graft(donor, [6], scope="block") + skip([8]))
        assert ran == [0, 1, 2, 5, 7, 9, 10, 11]
        ran.clear()
        forward(host, batch(), graft(donor, [9]), resume=forward(host, batch(), keep=[9]))
        assert ran == [*range(12), 10, 11]


@families
def test_skip_is_the_identity_of_its_block(family):
    host = pair(family).pt
    with hooks(*[(blocks(host)[layer], lambda x, out: x) for layer in (0, 5)]):
        expected = logits(host.module, batch())
    stream = forward(host, batch(), skip([0, 5]))
    assert torch.equal(stream.last_logits, expected)
    assert torch.equal(stream.residual[5], stream.residual[4])
    assert not any(
        getattr(stream, name)[5].any() for name in ("attention_update", "mlp_output", "mlp_update")
    )


@families
def test_composition_equals_hooks(family):
    """A graft, steering of its output and of the stream, and a skip, all in one forward."""
    host, donor = pair(family)
    direction = torch.randn(host.config.hidden_size, generator=torch.Generator().manual_seed(1))
    cut, more, d = along(direction, 0.0), along(direction, 3.0), direction / direction.norm()
    edits = steer([6, 8], cut, place="mlp_output") + graft(donor, [6, 7]) + skip([4]) + steer([6, 9], more)
    places = grafting(host, donor, [6, 7])
    places += [(blocks(host)[layer].mlp, lambda x, out: out - (out @ d)[..., None] * d) for layer in (6, 8)]
    places += [(blocks(host)[layer], lambda x, out: out + 2 * (out @ d)[..., None] * d) for layer in (6, 9)]
    with hooks(*places, (blocks(host)[4], lambda x, out: x)):
        expected = logits(host.module, batch())
    got = forward(host, batch(), edits).last_logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@families
def test_steering_the_output_of_a_graft_with_its_norms(family):
    """What the grafted MLP returns is steered before the norm that comes with it."""
    host, donor = pair(family)
    direction = torch.randn(host.config.hidden_size, generator=torch.Generator().manual_seed(2))
    d = direction / direction.norm()
    edits = steer([7], along(direction, 4.0), place="mlp_output") + graft(donor, [7], scope="block")
    module = swapped(host, donor, [7], scope="block")
    block = module.get_submodule(host.stack_path).layers[7]
    with hooks((block.mlp, lambda x, out: out + 3 * (out @ d)[..., None] * d)):
        expected = logits(module, batch())
    plain = logits(module, batch())
    got = forward(host, batch(), edits).last_logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-2


def test_along_rescales_one_direction():
    h, direction = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    d = direction / direction.norm()
    assert torch.equal(along(direction, 1.0)(h), h)
    torch.testing.assert_close(along(direction, 0.0)(h) @ d, torch.zeros(3, 5, dtype=torch.float64))
    torch.testing.assert_close(along(direction, -2.0)(h) @ d, -2 * (h @ d))
    torch.testing.assert_close(along(7 * direction, 0.5)(h), along(direction, 0.5)(h))


@families
def test_scrambled_change_has_the_donors_norm_in_another_direction(family):
    host, donor = pair(family)
    given, seen, at = batch(padding=(0, 0)), {}, 6
    mlp, theirs = blocks(host)[at].mlp, blocks(donor)[at].mlp
    with hooks((mlp, lambda x, out: seen.update(x=x.clone(), own=out.clone()))), torch.no_grad():
        host.module(given.input_ids)
        donated = theirs(seen["x"]) - seen["own"]
    with torch.no_grad(), host.lm.trace({"input_ids": given.input_ids}, use_cache=False):
        for edit in scramble(donor, [at], seed=3):
            edit.change(host.layers[at])
        changed = host.layers[at].mlp.output.save()
    change = changed - seen["own"]
    torch.testing.assert_close(change.norm(dim=-1), donated.norm(dim=-1), rtol=1e-3, atol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(change, donated, dim=-1)
    assert cosine.mean().abs() < 0.3 and not torch.equal(change, donated)
    streams = [forward(host, given, scramble(donor, [at], seed=seed)) for seed in (3, 3, 4)]
    assert equal(*streams[:2]) and not equal(*streams[1:])


@families
def test_generation_under_edits_equals_a_swapped_model(family, recwarn):
    host, donor = pair(family)
    prompts, edits = [[2, 30, 41, 52, 63], [2, 44, 55]], graft(donor, range(7, 12))
    other = wrap(swapped(host, donor, range(7, 12)), host.tokenizer)
    changed = edited(host, edits)
    got = generation.generate(changed, prompts, max_new_tokens=8)
    assert got == generation.generate(other, prompts, max_new_tokens=8)
    assert got != generation.generate(host, prompts, max_new_tokens=8)
    assert not [warning for warning in recwarn if "never reached" in str(warning.message)]
    # Forced through what it wrote freely, the hybrid would write the same.
    rows = [[*prompt, *made.ids] for prompt, made in zip(prompts, got)]
    for row, prompt in zip(rows, prompts):
        whole = Batch(np.arange(1), torch.tensor([row]), torch.ones(1, len(row)), (range(len(prompt) - 1, len(row) - 1),),
                      torch.tensor(row[len(prompt) :]))  # fmt: skip
        stream = forward(host, whole, edits)
        best = host.unembedding.token_ids[
            (host.unembedding.norm(stream.residual[-1]) @ host.unembedding.weight.T).argmax(-1)
        ]
        assert best.tolist() == row[len(prompt) :]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (lambda donor: graft(donor, [3], scope="norms"), "'norms'; choose from mlp, block"),
        (lambda donor: graft(donor, [3, 4], donor_layers=[3]), "2 layers cannot take 1 donor layers"),
        (lambda donor: graft(donor, [12]), "There is no layer 12: this model's are 0 to 11"),
        (lambda donor: graft(donor, [3]) + scramble(donor, [3]), "Layer 3 is replaced twice"),
        (lambda donor: skip([3]) + steer([3], torch.neg), "Layer 3 is replaced twice"),
        (lambda donor: steer([3], torch.neg, place="attention"), "not on 'attention'"),
    ],
)
def test_interventions_that_cannot_be_made(edits, message):
    host, donor = pair("llama")
    with pytest.raises(InterventionError, match=message):
        forward(host, batch(), edits(donor))


def test_streams_carry_no_graph():
    host, donor = pair("llama")
    stream = forward(host, batch(), graft(donor, [3]), keep=[3])
    assert not any(h.requires_grad for h in (*stream.residual, *stream.mlp_update, *stream.entering.values()))


def scrambled(layer, seed, width=64):
    """What `scramble` adds at a layer for a donor's change of 1, 2, …, by coordinate."""
    change, own, mlp = torch.arange(1.0, width + 1), torch.full((1, width), 100.0), torch.nn.Identity()
    mlp.forward = lambda x: own + change
    donor = SimpleNamespace(
        config=SimpleNamespace(hidden_size=width), layers={layer: SimpleNamespace(mlp=mlp)}
    )
    block = SimpleNamespace(mlp=SimpleNamespace(input=own, output=own))
    (edit,) = scramble(donor, [layer], seed=seed)
    edit.change(block)
    return (block.mlp.output - own)[0].tolist()


def test_scrambling_moves_every_coordinate_and_turns_half_of_their_signs():
    found = scrambled(6, 3)
    assert sorted(map(abs, found)) == list(range(1, 65)) and list(map(abs, found)) != list(range(1, 65))
    assert 16 < sum(value < 0 for value in found) < 48
    assert found == scrambled(6, 3) != scrambled(7, 3) and found != scrambled(6, 4)
