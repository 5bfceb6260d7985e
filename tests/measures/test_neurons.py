"""Neurons add up to the MLP's update and to the logit, on all six architectures; counts and fits equal slow ones."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from nbhelpers.core.params import FAMILIES, ParameterError
from nbhelpers.measures import lens, logit_attribution, neurons
from nbhelpers.models import forward, generation, prompts
from nbhelpers.models import stubs as stubs_of
from nbhelpers.models.loading import load_pair

KEYS = [f"{family}_pocket" for family in FAMILIES]
POCKET = "pocket/prompts.jsonl"
STUBS = "pocket/exp01.jsonl"
CLOSE = dict(rtol=1e-4, atol=1e-4)

load_pair = functools.cache(load_pair)


@functools.cache
def captured(key, variant="it"):
    """Return a decoder, one batch with a few tokens a row, and its stream."""
    decoder = getattr(load_pair(key), variant)
    rows = prompts.render(decoder, prompts.load_prompts(POCKET, 4, seed=1))
    made = generation.generate(decoder, rows, max_new_tokens=5)
    (batch,) = forward.replay_batches(rows, made, 8, decoder.tokenizer.pad_token_id)
    return decoder, batch, forward.forward(decoder, batch)


@functools.cache
def measured(key, variant="pt", n=8, k=40):
    """Return prompt ids, target ids and the attribution of a few stubs."""
    decoder = getattr(load_pair(key), variant)
    kept = stubs_of.single_token(decoder, stubs_of.read_stubs(STUBS)[::9])[:n]
    rows, targets = [ids for _, ids, _ in kept], [target for *_, target in kept]
    return decoder, rows, targets, logit_attribution.direct_attribution(decoder, rows, targets, k=k)


# Activations and contributions


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("variant", ["pt", "it"])
def test_neurons_add_up_to_the_mlp_update(key, variant):
    decoder, _, stream = captured(key, variant)
    found = list(neurons.neuron_layers(decoder, stream))
    assert len(found) == decoder.n_layers
    for layer, update in zip(found, stream.mlp_update):
        torch.testing.assert_close(layer.scale[:, None] * (layer.activation @ layer.write), update, **CLOSE)


def test_an_mlp_of_another_kind_is_refused():
    decoder, _, stream = captured("llama_pocket")
    twice = dataclasses.replace(stream, mlp_update=[2 * update for update in stream.mlp_update])
    with pytest.raises(ValueError, match="layer 0 do not add up"):
        next(neurons.neuron_layers(decoder, twice))


@pytest.mark.parametrize("key", KEYS)
def test_dense_activations_are_what_enters_down_proj(key):
    decoder, batch, stream = captured(key)
    seen, handles = {}, []
    for i, block in enumerate(decoder.module.get_submodule(decoder.stack_path).layers):
        if not hasattr(block.mlp, "experts"):
            keep = functools.partial(lambda i, module, inputs: seen.__setitem__(i, inputs[0]), i)
            handles.append(block.mlp.down_proj.register_forward_pre_hook(keep))
    with torch.no_grad():
        decoder.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for handle in handles:
        handle.remove()
    assert seen
    for i, layer in enumerate(neurons.neuron_layers(decoder, stream)):
        if i in seen:
            torch.testing.assert_close(layer.activation, seen[i][batch.where], **CLOSE)


def test_expert_activations_equal_a_loop_over_tokens():
    decoder, batch, stream = captured("deepseek_pocket")
    layers = decoder.module.get_submodule(decoder.stack_path).layers
    seen, handles = {}, []
    for i, block in enumerate(layers):
        if hasattr(block.mlp, "experts"):
            keep = functools.partial(lambda i, module, inputs: seen.__setitem__(i, inputs), i)
            handles.append(block.mlp.experts.register_forward_pre_hook(keep))
    with torch.no_grad():
        decoder.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for handle in handles:
        handle.remove()
    row, column = batch.where
    flat = (row * batch.input_ids.shape[1] + column).tolist()
    found = list(neurons.neuron_layers(decoder, stream))
    assert sorted(seen) == list(range(1, decoder.n_layers))
    for i, (x, chosen, weights) in seen.items():
        mlp = layers[i].mlp
        experts, shared, width = mlp.experts, mlp.shared_experts, mlp.experts.intermediate_dim
        slow = torch.zeros_like(found[i].activation)
        n_shared = shared.intermediate_size
        for at, token in enumerate(flat):
            slow[at, :n_shared] = shared.act_fn(shared.gate_proj(x[token])) * shared.up_proj(x[token])
            for e, weight in zip(chosen[token].tolist(), weights[token]):
                gate, up = (experts.gate_up_proj[e] @ x[token]).chunk(2)
                start = n_shared + e * width
                slow[at, start : start + width] = weight * experts.act_fn(gate) * up
        torch.testing.assert_close(found[i].activation, slow, **CLOSE)
        used = 2 * width + n_shared
        assert ((found[i].activation != 0).sum(-1) == used).all()


@pytest.mark.parametrize("key", ["gemma_pocket", "llama_pocket", "olmo_pocket"])
def test_frozen_norm_is_the_norm(key):
    decoder, _, stream = captured(key)
    norm, x = decoder.unembedding.norm, stream.residual[-1]
    gain, scale = neurons.frozen_norm(norm, x)
    torch.testing.assert_close(scale[:, None] * gain * x, norm(x), **CLOSE)
    weight = 1 + norm.weight if key.startswith("gemma") else norm.weight
    torch.testing.assert_close(gain, weight.float(), rtol=1e-4, atol=1e-4)


# Masses and concentration


@pytest.mark.parametrize("key", ["olmo_pocket", "deepseek_pocket"])
def test_mass_is_the_summed_length_of_contributions(key):
    decoder, _, stream = captured(key)
    mass = neurons.neuron_mass(neurons.neuron_layers(decoder, stream))
    assert mass.dims == ("layer", "neuron")
    for i, layer in enumerate(neurons.neuron_layers(decoder, stream)):
        n = layer.activation.shape[1]
        added = layer.activation[:, :, None] * layer.scale[:, None, None] * layer.write
        slow = added.norm(dim=-1).sum(0)
        np.testing.assert_allclose(mass.values[i, :n], slow, rtol=1e-4, atol=1e-5)
        assert np.isnan(mass.values[i, n:]).all()
    assert mass.isnull().any() == (key == "deepseek_pocket")


def test_masses_of_batches_add_up():
    decoder, _, _ = captured("llama_pocket")
    rows = prompts.render(decoder, prompts.load_prompts(POCKET, 6, seed=2))
    made = [generation.Continuation((5, 6, 7), False)] * 6
    totals = [
        sum(
            neurons.neuron_mass(neurons.neuron_layers(decoder, stream))
            for _, stream in forward.replay(decoder, rows, made, batch_size=size)
        )
        for size in (2, 6)
    ]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


def test_gini_by_hand():
    assert neurons.gini([3.0] * 7) == pytest.approx(0)
    assert neurons.gini([1, 2, 3, 4]) == pytest.approx(0.25)
    assert neurons.gini([0, 1, 2, 3, 4, np.nan, -1]) == pytest.approx(0.25)
    assert neurons.gini([1e-12] * 9 + [1.0]) == pytest.approx(0.9)
    assert math.isnan(neurons.gini([0.0, 0.0]))
    x = np.random.default_rng(0).exponential(size=50)
    assert neurons.gini(x) == pytest.approx(np.abs(np.subtract.outer(x, x)).mean() / 2 / x.mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_share_counts_by_hand(dtype):
    one_hot = np.eye(1, 40, 3, dtype=dtype)[0]
    assert neurons.share_count(one_hot, (0.5, 0.9)).tolist() == [1, 1]
    for n in (7, 40, 1000, 99991):
        uniform = np.full(n, 0.1, dtype=dtype)
        assert neurons.share_count(uniform, (0.5, 0.9)).tolist() == [math.ceil(n / 2), math.ceil(n * 9 / 10)]
    assert neurons.share_count(np.zeros(5, dtype=dtype), (0.5,)).tolist() == [-1]
    both = neurons.share_count(np.array([[1, 4, 3, 2], [0, 0, np.nan, 8]], dtype=dtype), (0.5, 0.8, 1.0))
    assert both.tolist() == [[2, 3, 4], [1, 1, 1]]


def test_concentration_and_overlap_are_labelled():
    mass = xr.DataArray([[[4.0, 3, 2, 1], [1, 1, 1, np.nan]]], dims=("variant", "layer", "neuron"))
    found = neurons.concentration(mass)
    assert found.gini.dims == found.n90.dims == ("variant", "layer")
    np.testing.assert_allclose(found.gini, [[0.25, 0]], atol=1e-12)
    assert found.n50.values.tolist() == [[2, 2]] and found.n90.values.tolist() == [[3, 3]]
    pt = xr.DataArray([[4.0, 3, 2, 1], [9, 1, 2, np.nan]], dims=("layer", "neuron"))
    it = xr.DataArray([[3.0, 4, 1, 2], [1, 2, 9, np.nan]], dims=("layer", "neuron"))
    jaccard = neurons.top_k_jaccard(pt, it, (1, 2, 3, 4))
    assert jaccard.dims == ("layer", "k") and jaccard.k.values.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(jaccard, [[0, 1, 0.5, 1], [0, 1 / 3, 1, np.nan]])
    pooled = [x.stack(unit=("layer", "neuron")) for x in (pt, it)]
    assert neurons.top_k_jaccard(*pooled, [1, 2], dim="unit").values.tolist() == [0, 0]
    # 9, 4, 3 and 9, 4, 3: the same masses in other places, of which none is shared until the third.
    assert neurons.concentration(pooled[0], dim="unit").n50.item() == 2


# Breadth and attribution


def test_breadth_by_hand():
    readout = torch.eye(10)
    vectors = torch.stack([-3 * readout[2], torch.ones(10), torch.zeros(10), torch.tensor([3.0, -1.0] * 5)])
    found = neurons.vocabulary_breadth(vectors, readout)
    assert found["n50"].tolist() == [1, 5, -1, 4]
    assert found["n90"].tolist() == [1, 9, -1, 8]
    np.testing.assert_allclose(found["promote_ratio"], [0, 1, np.nan, 0.75])
    np.testing.assert_allclose(found["norm"], [3, 10**0.5, 0, 50**0.5], rtol=1e-6)


def test_breadth_does_not_depend_on_the_tile(monkeypatch):
    vectors, readout = torch.randn(50, 8), torch.randn(300, 8)
    whole = neurons.vocabulary_breadth(vectors, readout)
    monkeypatch.setattr(neurons, "_TILE", 700)
    for name, values in neurons.vocabulary_breadth(vectors, readout).items():
        torch.testing.assert_close(values, whole[name])


@pytest.mark.parametrize("key", KEYS)
def test_contributions_add_up_to_the_true_logit(key):
    decoder, rows, targets, _ = measured(key)
    n_active = 1000
    data = logit_attribution.direct_attribution(decoder, rows, targets, k=n_active)
    for i, (ids, target) in enumerate(zip(rows, targets)):
        with torch.no_grad():
            logits = decoder.module(torch.tensor([ids])).logits[0, -1]
        assert data.target_logit.values[i] == pytest.approx(logits[target].item(), abs=2e-3)
        real = logits[torch.as_tensor(decoder.real_tokens)]
        assert data.target_rank.values[i] == 1 + (real > logits[target] + 1e-5).sum()
    updates = data.update_target_contribution.sum("layer")
    whole = data.embedding_contribution + updates.sel(component="attention") + updates.sel(component="mlp")
    np.testing.assert_allclose(whole, data.target_logit, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(
        data.embedding_contribution + updates.sel(component="block"), data.target_logit, rtol=1e-4, atol=2e-3
    )


@pytest.mark.parametrize("key", KEYS)
def test_all_neurons_and_the_rest_add_up_to_the_true_logit(key):
    """Every neuron of every layer, by the selection with k = all of them; experts left idle add 0."""
    decoder, rows, targets, _ = measured(key)
    rows, targets = rows[:2], targets[:2]
    (batch,) = forward.replay_batches(rows, [generation.Continuation((t,), False) for t in targets], 8, 0)
    stream = forward.forward(decoder, batch)
    active = sum((x.activation != 0).sum(-1) for x in neurons.neuron_layers(decoder, stream))
    data = logit_attribution.direct_attribution(decoder, rows, targets, k=int(active.min()))
    of_neurons = data.target_contribution.sel(selection="attribution").sum("feature")
    of_layers = data.update_target_contribution.sel(component="mlp").sum("layer")
    np.testing.assert_allclose(of_neurons, of_layers, rtol=1e-3, atol=2e-3)
    with pytest.raises(ParameterError, match="n_neurons = .* cannot be chosen"):
        logit_attribution.direct_attribution(decoder, rows, targets, k=int(active.min()) + 1)


def assert_feature(a, u, column, got, prefix):
    """Check one feature against its logits u, whole."""
    c = a * u
    order = c.abs().sort(descending=True).values.cumsum(0)
    slow = {
        "target_contribution": c[column],
        "attribution": c[column].abs(),
        "logit_norm": u.norm(),
        "total_impact": abs(a) * u.norm(),
        "target_efficiency": u[column].abs() / u.norm(),
        "promote_ratio": c.clamp_min(0).sum() / c.abs().sum(),
    }
    for name, value in slow.items():
        assert got[prefix + name].item() == pytest.approx(value.item(), rel=2e-3, abs=2e-5), name
    for name, share in (("n50", 0.5), ("n90", 0.9)):
        assert abs(got[prefix + name].item() - 1 - (order < share * order[-1]).sum()) <= 1


@pytest.mark.parametrize("key", KEYS)
def test_features_equal_a_slow_loop(key):
    """Each chosen neuron and each update again, one at a time, its logits whole and by way of the norm's definition."""
    decoder, rows, targets, data = measured(key)
    unembedding, i = decoder.unembedding, 3
    (batch,) = forward.replay_batches([rows[i]], [generation.Continuation((targets[i],), False)], 8, 0)
    stream = forward.forward(decoder, batch)
    final = stream.residual[-1][0].double()
    norm, layers = unembedding.norm, list(neurons.neuron_layers(decoder, stream))
    gain = (1 + norm.weight if key.startswith("gemma") else norm.weight).double()
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    column = unembedding.token_ids.tolist().index(targets[i])

    def logits_of(vector):
        return unembedding.weight.double() @ (vector.double() * gain / (final.square().mean() + eps).sqrt())

    chosen = data.isel(prompt=i)
    for selection in logit_attribution.SELECTIONS:
        for f in range(0, chosen.sizes["feature"], 7):
            got = chosen.sel(selection=selection).isel(feature=f)
            layer, n = layers[got.neuron_layer.item()], got.neuron.item()
            assert got.activation.item() == pytest.approx(layer.activation[0, n].item(), rel=1e-3, abs=1e-5)
            u = logits_of(layer.scale[0] * layer.write[n])
            assert_feature(layer.activation[0, n].double(), u, column, got, "")
    for at in (0, 5, 11):
        for component, update in (("mlp", stream.mlp_update), ("attention", stream.attention_update)):
            got = chosen.sel(component=component, layer=at)
            assert_feature(torch.tensor(1.0), logits_of(update[at][0]), column, got, "update_")


@pytest.mark.parametrize("key", ["gemma_pocket", "deepseek_pocket"])
def test_selections_are_what_they_say(key):
    _, _, _, data = measured(key)
    identity = data.total_impact * data.target_efficiency
    np.testing.assert_allclose(identity, data.attribution, rtol=1e-4, atol=1e-6)
    chosen = {s: data.sel(selection=s) for s in logit_attribution.SELECTIONS}
    best = chosen["attribution"].attribution.min("feature")
    assert (
        chosen["random"].attribution.max("feature") <= chosen["attribution"].attribution.max("feature")
    ).all()
    assert (
        chosen["impact"].attribution.where(chosen["impact"].attribution > best).notnull().sum("feature") <= 40
    ).all()
    assert (np.diff(chosen["attribution"].attribution) <= 0).all()
    assert (np.diff(chosen["impact"].total_impact) <= 0).all()
    assert (chosen["random"].activation != 0).all()
    for p in range(data.sizes["prompt"]):
        for s in logit_attribution.SELECTIONS:
            pairs = zip(chosen[s].neuron_layer.values[p], chosen[s].neuron.values[p])
            assert len(set(pairs)) == data.sizes["feature"]


@pytest.mark.parametrize("key", KEYS)
def test_batched_equals_alone_and_is_deterministic(key):
    decoder, rows, targets, data = measured(key)
    xr.testing.assert_identical(data, logit_attribution.direct_attribution(decoder, rows, targets, k=40))
    small = logit_attribution.direct_attribution(decoder, rows, targets, k=40, batch_size=1)
    for name in ("target_contribution", "attribution", "total_impact"):
        one, other = (x[name].sel(selection=["attribution", "impact"]) for x in (data, small))
        np.testing.assert_allclose(np.sort(one, -1), np.sort(other, -1), rtol=1e-3, atol=2e-3)
    np.testing.assert_array_equal(*(x.neuron.sel(selection="random") for x in (data, small)))
    for name in ("update_target_contribution", "lens_entropy", "target_logit", "update_logit_norm"):
        np.testing.assert_allclose(data[name], small[name], rtol=1e-3, atol=2e-3)


def test_dataset_is_labelled_and_pt_and_it_draw_alike():
    (_, _, _, pt), (_, _, _, it) = measured("llama_pocket", "pt"), measured("llama_pocket", "it")
    assert set(pt.data_vars) == set(logit_attribution.UNITS)
    assert all({"units", "long_name"} <= set(variable.attrs) for variable in pt.data_vars.values())
    assert pt.n90.dims == ("selection", "prompt", "feature")
    assert pt.update_n90.dims == ("component", "layer", "prompt")
    assert pt.prompt.values.tolist() == list(range(8)) and pt.depth.values[-1] == 1
    np.testing.assert_array_equal(*(x.neuron.sel(selection="random") for x in (pt, it)))
    drawn = pt.neuron.sel(selection="random").values
    assert not (drawn[:-1] == drawn[1:]).all(-1).any()
    both = xr.concat([pt, it], "variant")
    assert both.sizes["variant"] == 2


def test_entropy_is_the_lens_entropy():
    decoder, rows, targets, data = measured("qwen_pocket")
    made = [generation.Continuation((t,), False) for t in targets]
    for batch, stream in forward.replay(decoder, rows, made, batch_size=3):
        logits = [lens.lens_logits(residual, decoder.unembedding) for residual in stream.residual]
        slow = [stats.entropy(x.softmax(-1).double().numpy(), axis=-1) for x in logits]
        np.testing.assert_allclose(data.lens_entropy.sel(prompt=batch.rows), slow, rtol=1e-4, atol=1e-4)


def test_unreal_targets_are_refused():
    decoder, rows, _, _ = measured("qwen_pocket")
    with pytest.raises(ValueError, match="target id 1020 is no real token"):
        logit_attribution.direct_attribution(decoder, rows[:1], [1020], k=5)


# Stubs


@pytest.mark.parametrize("key", KEYS)
def test_one_token_completes_what_is_kept(key):
    pair, stubs = load_pair(key), stubs_of.read_stubs(STUBS)
    for decoder in pair:
        kept = stubs_of.single_token(decoder, stubs)
        for stub, ids, target in kept:
            whole = decoder.tokenizer(stub.text + stub.target)["input_ids"]
            assert (
                whole == [*ids, target] and decoder.tokenizer.decode([target]).strip() == stub.target.strip()
            )
    dropped = {stub.id for stub in stubs} - {stub.id for stub, *_ in kept}
    for stub in stubs:
        if stub.id in dropped:
            assert len(decoder.tokenizer(stub.target, add_special_tokens=False)["input_ids"]) > 1


@pytest.mark.parametrize("key", KEYS)
def test_chat_targets_open_a_reply(key):
    it = load_pair(key).it
    kept = stubs_of.single_token(it, stubs_of.read_stubs(STUBS), chat=True)
    assert kept
    for stub, ids, target in kept:
        assert ids == prompts.chat_ids(it, stub.message)
        assert it.tokenizer.decode([target]).strip() == stub.target.strip()


def test_a_space_before_digits_may_belong_to_the_prompt(tmp_path):
    """A tokenizer that splits " 7" into a space and "7", as Llama 3 does, gets the space at the end of the prompt."""
    decoder = load_pair("llama_pocket").pt
    stub = stubs_of.Stub("a", "m", "8 - 1 =", "8 - 1 =", "sum", " Q7x")
    assert stubs_of.single_token(decoder, [stub]) == []
    ids = {"8 - 1 = 7": [1, 2, 3, 4], "8 - 1 =": [1, 2], "8 - 1 = ": [1, 2, 3]}
    stub = stubs_of.Stub("a", "m", "8 - 1 =", "8 - 1 =", "sum", " 7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stubs_of, "text_ids", lambda decoder, text: ids[text])
        assert stubs_of.single_token(decoder, [stub]) == [(stub, [1, 2, 3], 4)]
