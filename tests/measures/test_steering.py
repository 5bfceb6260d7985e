"""Steering runs against plain forwards with hand-written hooks, one arm and one prompt at a time."""

from functools import cache

import numpy as np
import pytest
import torch

from nbhelpers.core.params import model_params
from nbhelpers.measures import steering
from nbhelpers.measures.arms import Arm, SteeringError
from nbhelpers.models.generation import Continuation, generate
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import load_prompts, read_as

LATE = (7, 8, 9, 10, 11)
ARMS = (
    Arm("it"), Arm("it_raw", prompt_format="raw"), Arm("pt", host="pt"),
    Arm("one", change="rescale", layers=LATE, dose=1.0), Arm("removed", change="rescale", layers=LATE, dose=0.0),
    Arm("reversed", change="rescale", layers=(9,), dose=-1.0), Arm("doubled", change="rescale", layers=LATE, dose=2.0),
    Arm("matched", change="matched", layers=LATE, dose=0.0, write="random"),
    Arm("raw", prompt_format="raw", change="rescale", layers=LATE, dose=0.0),
    Arm("added", host="pt", change="add", layers=LATE, dose=0.5), Arm("zero", change="zero", layers=(8,)),
    Arm("mean", change="mean", layers=(8,)), Arm("skipped", change="skip", layers=(10, 11)),
)  # fmt: skip


@cache
def pair(key="gemma_pocket"):
    """A pair with a norm behind the MLP."""
    return load_pair(model_params(key))


@cache
def vectors():
    """Two random vectors a layer, of which the first has no unit length."""
    drawn = np.random.default_rng(0).standard_normal((2, pair().n_layers, pair().it.config.hidden_size))
    return {"mean": 3 * drawn[0], "random": drawn[1]}


@cache
def prompts():
    return load_prompts("pocket/prompts.jsonl", 3, seed=2)


def unit(vector):
    return torch.as_tensor(vector / np.linalg.norm(vector), dtype=torch.float32)


def edited(arm, layer, h):
    """What the formula says of one MLP output h [row, position, d]."""
    v = torch.as_tensor(vectors()["mean"][layer], dtype=torch.float32)
    d = unit(vectors()["mean"][layer])
    along = h @ d
    if arm.change == "rescale":
        return h + (arm.dose - 1) * along[..., None] * d
    if arm.change == "matched":
        w = unit(vectors()["random"][layer])
        return h + (arm.dose - 1) * (along.abs() * torch.sign(h @ w))[..., None] * w
    return {"add": h + arm.dose * v, "mean": v.expand_as(h), "zero": torch.zeros_like(h)}[arm.change]


def by_hand(arm, row, reply):
    """Logits at the positions that predict the reply, and the last residual there, from one forward with hooks."""
    decoder = getattr(pair(), arm.host)
    blocks, kept, handles = decoder.stack._module.layers, {}, []
    for layer in arm.layers:
        if arm.change == "skip":
            for_block = lambda m, i, o: (i[0], *o[1:]) if isinstance(o, tuple) else i[0]  # noqa: E731
            handles.append(blocks[layer].register_forward_hook(for_block))
        else:
            hook = lambda m, i, o, layer=layer: edited(arm, layer, o)  # noqa: E731
            handles.append(blocks[layer].mlp.register_forward_hook(hook))
    keep = lambda m, i, o: kept.update(h=o[0] if isinstance(o, tuple) else o)  # noqa: E731
    handles.append(blocks[-1].register_forward_hook(keep))
    ids = torch.tensor([[*row, *reply.ids[:-1]]])
    with torch.no_grad():
        logits = decoder.module(input_ids=ids, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    places = range(len(row) - 1, ids.shape[1])
    return logits[places].float(), kept["h"][0, places].float()


@cache
def forced():
    rng = np.random.default_rng(1)
    replies = [Continuation(tuple(rng.integers(5, 300, n).tolist()), False) for n in (4, 7, 5)]
    return replies, steering.forced(pair(), ARMS, prompts(), replies, vectors(), batch_size=9)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_forced_is_a_plain_forward_of_one_arm(arm):
    replies, found = forced()
    decoder = getattr(pair(), arm.host)
    real = torch.as_tensor(decoder.real_tokens)
    plain = Arm("plain", host=arm.host, prompt_format=arm.format)
    for p, (row, reply) in enumerate(zip(read_as(decoder, prompts(), arm.format), replies)):
        (z, h), (z0, h0) = (by_hand(one, row, reply) for one in (arm, plain))
        logp, base = (each.masked_fill(~real, -torch.inf).log_softmax(-1) for each in (z, z0))
        kl = (base.exp() * (base - logp).masked_fill(~real, 0)).sum(-1)
        wanted = {
            "nll": -logp[range(len(reply.ids)), list(reply.ids)].mean(), "kl_unedited": kl.mean(),
            "agreement": (logp.argmax(-1) == base.argmax(-1)).float().mean(),
            "entropy": -(logp.exp() * logp.masked_fill(~real, 0)).sum(-1).mean(),
            "residual_change": ((h - h0).norm(dim=-1) / h0.norm(dim=-1)).mean(),
        }  # fmt: skip
        for name, value in wanted.items():
            got = float(found[name].sel(arm=arm.name).values[p])
            assert got == pytest.approx(float(value), rel=1e-3, abs=2e-5), (name, p)


def test_a_matched_control_moves_mlp_outputs_by_exactly_as_much():
    h = torch.randn(2, 5, pair().it.config.hidden_size, generator=torch.Generator().manual_seed(0))
    moved = [(edited(arm, 8, h) - h).norm(dim=-1) for arm in (ARMS[4], ARMS[7])]
    torch.testing.assert_close(*moved)


@cache
def written():
    return steering.written(pair(), ARMS, prompts(), vectors(), max_new_tokens=8, batch_size=11)


def test_unedited_arms_write_what_the_models_write():
    for arm in ARMS[:3]:
        decoder = getattr(pair(), arm.host)
        plain = generate(decoder, read_as(decoder, prompts(), arm.format), max_new_tokens=8)
        found = steering.continuations(written(), arm.name)
        assert [one.ids for one in found] == [one.ids for one in plain]
        assert [one.stopped for one in found] == [one.stopped for one in plain]


def test_edited_positions_are_the_prompt_and_every_token_but_the_last():
    for arm in ARMS:
        rows = read_as(getattr(pair(), arm.host), prompts(), arm.format)
        one = written().sel(arm=arm.name)
        wanted = [len(row) + int(n) - 1 for row, n in zip(rows, one["n_tokens"].values)]
        assert one["edited_positions"].values.tolist() == wanted, arm.name


def test_an_arm_with_a_neutral_dose_that_writes_something_else_is_refused():
    found = written().copy(deep=True)
    assert steering.check_identities(found, ARMS) is found
    found["ids"].loc[{"arm": "one"}] = "1 2 3"
    with pytest.raises(SteeringError, match="one must change nothing"):
        steering.check_identities(found, ARMS)


def test_an_arm_that_changes_nothing_is_refused():
    # A direction that no activation holds: zero along every coordinate but one that the layer never writes.
    module = pair().it.stack._module.layers[9].mlp
    zeroed = module.register_forward_hook(lambda m, i, o: torch.zeros_like(o))
    try:
        with pytest.raises(SteeringError, match="reversed changes nothing"):
            steering.forced(pair(), [ARMS[0], ARMS[5]], prompts(), forced()[0], vectors())
    finally:
        zeroed.remove()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"change": "twist"}, "none of none, rescale"), ({"change": "rescale"}, "needs layers"),
        ({"change": "matched", "layers": (1,)}, "writes along another vector"),
        ({"change": "rescale", "layers": (1,), "write": "random"}, "writes along another vector"),
    ],
)  # fmt: skip
def test_an_arm_that_cannot_be_run_is_refused(given, said):
    with pytest.raises(SteeringError, match=said):
        Arm("odd", **given)


def test_a_vector_that_is_missing_or_zero_is_refused():
    arm = Arm("odd", change="rescale", layers=(1,), dose=0.0, vector="other")
    with pytest.raises(SteeringError, match="no vector 'other' among mean, random"):
        steering.row_edits([arm], vectors(), 96)
    none = {"other": np.zeros((12, 96))}
    with pytest.raises(SteeringError, match="zero at layer 1"):
        steering.row_edits([arm], none, 96)
