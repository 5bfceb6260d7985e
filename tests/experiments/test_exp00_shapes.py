"""exp00 on architectures beyond the six families: with every part that they have, and without the parts that they lack."""

import numpy as np
import pytest

from nbhelpers.core import store, unmeasured
from nbhelpers.core.params import LackingError, ParameterError
from nbhelpers.experiments.exp00_observations import measure
from nbhelpers.experiments.exp00_observations.experiment import Params
from nbhelpers.measures import attention_entropy, logit_attribution, neurons, prompt_end, weight_change
from nbhelpers.models import generation, prompts
from tests import shapes
from tests.changed import weights
from tests.measures.test_tuned_lens import perturbed
from tests.specs import complete

POCKET = "pocket/prompts.jsonl"


def dataset(name, folder, n=3, n_tokens=3):
    """exp00's dataset of a shape, of few prompts and tokens; its checkpoints are written into `folder`."""
    for variant in ("pt", "it"):
        shapes.save(name, variant, folder / variant)
    pair, options = (
        shapes.pair(name),
        Params(n_prompts=n, max_new_tokens=n_tokens, batch_size=4, n_cloud_prompts=18),
    )
    chosen, many = prompts.load_prompts(POCKET, n), measure.cloud_prompts(pair, POCKET, options)
    ids = {d.variant: prompts.render(d, chosen) for d in pair}
    made = {d.variant: generation.generate(d, ids[d.variant], max_new_tokens=n_tokens) for d in pair}
    lenses = {d.variant: perturbed(pair.n_layers, d.unembedding, seed=i) for i, d in enumerate(pair)}
    steps = measure.observe_pair(pair, ids, made, lenses, batch_size=2)
    found = measure.with_texts(steps, made, chosen, pair.it.tokenizer)
    seen = prompt_end.observe_clouds(pair, many, n_neighbours=32, batch_size=9)
    return complete(
        store.joined(found, seen, measure.weights_moved(shapes.params(name, folder), pair.n_layers)), "exp00"
    )


@pytest.mark.parametrize("name", shapes.SUPPORTED)
def test_a_shape_is_measured_whole(name, tmp_path):
    found = dataset(name, tmp_path)
    assert not unmeasured.reasons(found)
    for part in ("neuron_mass", "attention_entropy", "neighbour_distance", "kl_final_layer"):
        assert found[part].notnull().any(), part
    assert found.weight_rms.sel(group="mlp").notnull().all()
    assert float(found.kl_final_layer.sel(lens="raw").isel(layer=-1).max()) < 1e-4


def refuse(*_):
    raise LackingError("of a kind that is not known")


def test_a_shape_that_lacks_parts_is_measured_without_them(tmp_path, monkeypatch):
    whole = dataset("qwen2", tmp_path)
    for module, name in (
        (neurons, "neuron_activations"),
        (attention_entropy, "_weights"),
        (weight_change, "kind_of"),
    ):
        monkeypatch.setattr(module, name, refuse)
    found = dataset("qwen2", tmp_path)
    assert list(unmeasured.reasons(found)) == list(unmeasured.PARTS)
    assert all(
        why.startswith("qwen2: ") and why.endswith("not known") for why in unmeasured.reasons(found).values()
    )
    lost = [name for name in found if name.startswith(("neuron_mass", "attention_", "weight_r", "outside_r"))]
    for name in found:
        if name in lost:
            assert found[name].isnull().all() and found[name].dims == whole[name].dims, name
        elif found[name].dtype.kind == "f" and name != "adjacent_cka":
            np.testing.assert_allclose(found[name], whole[name], rtol=2e-3, atol=2e-3, err_msg=name)
    assert not found.visible_keys.any() and not found.global_layer.any()


def test_prompts_that_are_all_alike_are_no_cloud(tmp_path):
    record = '{{"id": "{}", "category": "c", "text": "The sea", "message": "Say {}."}}'
    path = tmp_path / "alike.jsonl"
    path.write_text("\n".join(record.format(i, i) for i in range(20)))
    options = Params(n_prompts=2, max_new_tokens=2, batch_size=2, n_cloud_prompts=20)
    with pytest.raises(
        ParameterError, match="n_cloud_prompts = 20: only 1 of the raw texts that PT of qwen2 reads differ"
    ):
        measure.cloud_prompts(shapes.pair("qwen2"), str(path), options)


def test_states_that_repeat_have_clouds_of_fewer_points():
    states = np.random.default_rng(0).normal(size=(24, 3, 8)).astype("float32")
    states[4:8, 1], states[1:, 2] = states[0, 1], states[0, 2]
    found = prompt_end.cloud(states, 32)
    assert found.sizes["neighbour"] == 23
    known = found.neighbour_distance.notnull().sum("neighbour")
    assert known[0].values.tolist() == [23] * 24
    assert known[1].values.tolist() == [19] * 4 + [0] * 4 + [19] * 16
    assert not known[2].any()
    whole = found.expand_dims({"template": ["raw"], "variant": ["pt"]})
    dimension = prompt_end.dimensions(whole, draws=20, k=10, seed=0).dimension.squeeze()
    assert dimension.notnull().all("estimator").values.tolist() == [True, True, False]


@pytest.mark.parametrize("part", ["neuron_activations", "write_matrix"])
def test_attribution_without_neurons_keeps_the_updates(part, monkeypatch):
    decoder, rows, targets = shapes.pair("qwen2").it, [[1, 40, 77], [1, 611, 23, 80]], [300, 41]
    whole = logit_attribution.direct_attribution(decoder, rows, targets, k=20)
    assert not unmeasured.reasons(whole)
    # Of the two, one is found before the first forward and one only with its activations.
    monkeypatch.setattr(neurons, part, refuse)
    found = logit_attribution.direct_attribution(decoder, rows, targets, k=20)
    assert unmeasured.reasons(found) == {"neurons": "qwen2: in layer 0, of a kind that is not known"}
    for name in whole:
        assert found[name].dims == whole[name].dims and found[name].shape == whole[name].shape, name
        if name in logit_attribution.OF_NEURONS:
            assert found[name].isnull().all(), name
        else:
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-5)


def test_weights_that_cannot_be_compared_are_noted_and_lose_nothing(tmp_path):
    """As where one checkpoint of a mixture stores its experts fused and the other does not."""
    for variant in ("pt", "it"):
        shapes.save("qwen2", variant, tmp_path / variant)
    weights(
        tmp_path / "it",
        lambda tensors: tensors.update(extra=tensors.pop("model.layers.1.mlp.up_proj.weight")),
    )
    found = measure.weights_moved(shapes.params("qwen2", tmp_path), 4)
    assert list(unmeasured.reasons(found)) == ["weights"] and not found.weight_rms.notnull().any()
