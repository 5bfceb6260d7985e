"""Neurons, weight change and attention of other architectures, against plain PyTorch and loops over state dicts."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core.params import LackingError, ParameterError
from nbhelpers.measures import attention_entropy, logit_attribution, neurons, weight_change
from nbhelpers.models.decoder import block_layout
from tests import shapes

ROWS = [[1, 40, 77, 512, 300, 81, 9, 200, 411, 36, 77, 500], [1, 611, 23, 23, 80]]
CLOSE = dict(rtol=1e-4, atol=2e-4)
every = pytest.mark.parametrize("name", shapes.SUPPORTED)
MIDDLE = {"pre": "post_attention_layernorm", "sandwich": "pre_feedforward_layernorm", "post": "mlp",
          "glm": "post_attention_layernorm"}  # fmt: skip


def hooked(decoder, ids):
    """One row's stream from hooks on a plain model: what enters each block, its middle and its end, and the MLP's output."""
    blocks, seen, handles = neurons.decoder_blocks(decoder), [], []
    for block in blocks:
        middle = getattr(block, MIDDLE[block_layout(block)])
        # In the order of the forward pass: the block's input, its middle, its MLP's output, its own output.
        handles.append(block.register_forward_pre_hook(lambda m, args: seen.append(args[0][0])))
        handles.append(middle.register_forward_pre_hook(lambda m, args: seen.append(args[0][0])))
        handles.append(block.mlp.register_forward_hook(lambda m, args, out: seen.append(out[0])))
        handles.append(
            block.register_forward_hook(
                lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out[0])
            )
        )
    with torch.no_grad():
        logits = decoder.module(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    before, middle, output, after = (seen[i::4] for i in range(4))
    return SimpleNamespace(
        embedding=before[0], residual=after, mlp_output=output, logits=logits,
        attention_update=[b - a for a, b in zip(before, middle)], mlp_update=[b - a for a, b in zip(middle, after)],
    )  # fmt: skip


@every
@pytest.mark.parametrize("variant", ["pt", "it"])
def test_neurons_and_bias_add_up_to_what_the_mlp_adds(name, variant):
    decoder = getattr(shapes.pair(name), variant)
    stream = hooked(decoder, ROWS[0])
    found = list(neurons.neuron_layers(decoder, stream))
    assert len(found) == decoder.n_layers
    for layer, update in zip(found, stream.mlp_update):
        bias = 0 if layer.bias is None else layer.bias
        torch.testing.assert_close(
            layer.scale[:, None] * (layer.activation @ layer.write + bias), update, **CLOSE
        )


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_routed_neurons_are_zero_where_the_router_chose_others(name):
    decoder = shapes.pair(name).it
    for block, layer in zip(
        neurons.decoder_blocks(decoder), neurons.neuron_layers(decoder, hooked(decoder, ROWS[0]))
    ):
        width = layer.activation.shape[1]
        routed = hasattr(block.mlp, "experts")
        assert ((layer.activation != 0).sum(-1) == (width // 2 if routed else width)).all()


def test_a_bias_is_no_neuron():
    decoder = shapes.pair("starcoder2").it
    block = neurons.decoder_blocks(decoder)[0]
    torch.testing.assert_close(neurons.write_bias(block), block.mlp.c_proj.bias)
    assert neurons.write_bias(neurons.decoder_blocks(shapes.pair("qwen2").it)[0]) is None


def test_an_mlp_of_another_kind_is_lacking():
    decoder = shapes.decoder("qwen2")
    stream = hooked(decoder, ROWS[0])
    neurons.decoder_blocks(decoder)[1].mlp.act_fn = None
    with pytest.raises(
        LackingError, match="qwen2: in layer 1, the neurons of a Qwen2MLP are not known: it has no act_fn or"
    ):
        list(neurons.neuron_layers(decoder, stream))


@pytest.mark.parametrize("name", ["stablelm", "starcoder2", "qwen2", "gemma2", "granite"])
def test_the_frozen_final_norm_gives_the_logits(name):
    decoder = shapes.pair(name).it
    stream, unembedding = hooked(decoder, ROWS[0]), decoder.unembedding
    readout, offset = neurons.frozen_readout(unembedding.norm, unembedding.weight)
    scale = neurons.frozen_norm(unembedding.norm, stream.residual[-1])[1]
    found = scale[:, None] * (stream.residual[-1] @ readout.T) + (0 if offset is None else offset)
    expected = unembedding.norm(stream.residual[-1]) @ unembedding.weight.T
    torch.testing.assert_close(found, expected.detach(), **CLOSE)


@pytest.mark.parametrize("name", ["stablelm", "starcoder2", "llama_mlp_bias", "phi3", "granite", "glm4"])
def test_contributions_to_a_logit_are_those_of_the_model(name):
    decoder, targets = shapes.pair(name).pt, [300, 41]
    found = logit_attribution.direct_attribution(decoder, ROWS, targets, k=20)
    for i, (row, target) in enumerate(zip(ROWS, targets)):
        stream = hooked(decoder, row)
        logits = stream.logits[-1]
        assert float(found.target_logit[i]) == pytest.approx(float(logits[target]), abs=2e-3)
        real = logits[torch.as_tensor(decoder.real_tokens)]
        assert int(found.target_rank[i]) == 1 + int((real > logits[target]).sum())
        at = found.isel(prompt=i)
        parts = (
            at.embedding_contribution
            + at.update_target_contribution.sel(component=["attention", "mlp"]).sum()
        )
        unembedding = decoder.unembedding
        offset = neurons.frozen_readout(unembedding.norm, unembedding.weight)[1]
        column = int(np.cumsum(decoder.real_tokens)[target] - 1)
        constant = 0.0 if offset is None else float(offset[column])
        assert float(parts) + constant == pytest.approx(float(logits[target]), abs=5e-3)


# Which parameters of a model in memory belong to a group; their names there differ from those in files.
PARTS = {
    "attention": r"self_attn\.(q|k|v|o|qkv)_proj",
    "mlp": r"mlp\.(experts\.)?(gate|up|down|gate_up|c)_(proj|fc)",
    "routed": r"mlp\.experts\.",
    "router": r"mlp\.gate\.weight",
    "norm": r"norm",
}


def slow_change(pt, it, pattern, layer):
    """RMS and relative change of the parameters of a layer whose name matches, number by number."""
    pt, it = (dict(model.named_parameters()) for model in (pt, it))
    delta = before = n = 0
    for name, old in pt.items():
        if f".layers.{layer}." in name and re.search(pattern, name):
            delta += float((it[name].double() - old.double()).square().sum())
            before, n = before + float(old.double().square().sum()), n + old.numel()
    return (np.sqrt(delta / n), np.sqrt(delta / before), n) if n else (np.nan, np.nan, 0)


@every
def test_weight_change_equals_a_loop_over_the_models(name, tmp_path):
    folders = [shapes.save(name, variant, tmp_path / variant) for variant in ("pt", "it")]
    pair, found = shapes.pair(name), weight_change.weight_change(*folders)
    for group, pattern in PARTS.items():
        for layer in range(pair.n_layers):
            one = found.sel(group=group, layer=layer)
            expected = slow_change(pair.pt.module, pair.it.module, pattern, layer)
            got = (float(one.rms), float(one.relative), int(one.n_parameters))
            np.testing.assert_allclose(got, expected, rtol=1e-5)
    counted = int(
        found.n_parameters.sel(group=["attention", "mlp", "router", "norm"]).sum()
        + found.outside_n_parameters.sum()
    )
    assert counted == sum(p.numel() for p in pair.pt.module.parameters())


def test_tokens_that_one_model_added_are_left_out_of_the_change(tmp_path):
    pt = shapes.save("qwen2", "pt", tmp_path / "pt")
    plain = weight_change.weight_change(pt, shapes.save("qwen2", "it", tmp_path / "it"))
    for folder in ("it", "pt"):
        made = shapes.model("qwen2", folder)
        made.resize_token_embeddings(1003)
        made.save_pretrained(tmp_path / f"more_{folder}")
    for pair in ((pt, tmp_path / "more_it"), (tmp_path / "more_pt", tmp_path / "it")):
        xr.testing.assert_allclose(weight_change.weight_change(*pair), plain)


def test_another_width_is_no_pair(tmp_path):
    folders = shapes.save("qwen2", "pt", tmp_path / "pt"), tmp_path / "it"
    shapes.save("qwen2", "it", folders[1], intermediate_size=100)
    with pytest.raises(
        ParameterError, match=r"mlp.down_proj.weight is \[64, 96\] in PT and \[64, 100\] in IT"
    ):
        weight_change.weight_change(*folders)


def test_a_tensor_of_no_known_kind_is_lacking():
    with pytest.raises(LackingError, match="'layers.0.mixer.in_proj.weight' belongs to no kind"):
        weight_change.kind_of("layers.0.mixer.in_proj.weight")


@every
def test_attention_equals_output_attentions(name):
    decoder = shapes.pair(name).it
    got = attention_entropy.last_position_attention(decoder, ROWS, batch_size=2)
    for i, row in enumerate(ROWS):
        with torch.no_grad():
            weights = decoder.module(torch.tensor([row]), output_attentions=True).attentions
        weights = torch.stack(weights)[:, 0, :, -1].double()
        entropy = torch.special.entr(weights).sum(-1)
        np.testing.assert_allclose(got.entropy[i], entropy, atol=1e-4)
        np.testing.assert_allclose(got.sink[i], weights[..., 0], atol=1e-5)
        np.testing.assert_array_equal(got.visible_keys[i], (weights > 0).any(1).sum(-1))
        np.testing.assert_allclose(
            got.residual[i], torch.stack([r[-1] for r in hooked(decoder, row).residual]), atol=1e-3
        )
