"""Counts and sizes of neurons by hand, without a model: edges, signs, order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.measures import logit_attribution, neurons


def test_the_fewest_entries_that_hold_exactly_a_share():
    assert neurons.share_count([1.0, 2.0, 1.0], (0.5, 0.75, 0.76, 1.0)).tolist() == [1, 2, 3, 3]
    assert neurons.share_count([5.0, -9.0, np.nan], (0.9,)).tolist() == [1]
    assert neurons.share_count([0.0, 0.0], (0.5,)).tolist() == [-1]


def test_the_top_neurons_are_those_with_the_most_mass():
    pt = xr.DataArray([9.0, 8.0, 1.0, 0.0, 2.0], dims="neuron")
    it = xr.DataArray([9.0, 0.0, 8.0, 1.0, 2.0], dims="neuron")
    shared = neurons.top_k_jaccard(pt, it, [1, 2, 5])
    assert shared.values.tolist() == pytest.approx([1, 1 / 3, 1])
    assert neurons.top_k_jaccard(pt.where(pt > 0), it, [5]).isnull().all()


def test_activations_of_both_signs_add_up_in_a_neurons_mass():
    layer = neurons.NeuronLayer(
        activation=torch.tensor([[1.0, 2.0], [-1.0, 2.0]]), scale=torch.tensor([1.0, 3.0]),
        write=torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
    )  # fmt: skip
    assert neurons.neuron_mass([layer]).values.tolist() == [[(1 + 3) * 5, (2 + 6) * 1]]


def test_the_gini_coefficient_is_of_what_is_above_zero():
    assert neurons.gini([1.0, 3.0]) == pytest.approx(0.25) and neurons.gini(
        [0.0, 1.0, 3.0, -4.0]
    ) == pytest.approx(0.25)


def test_a_vectors_breadth_is_of_the_mass_of_its_logits():
    found = neurons.vocabulary_breadth(torch.tensor([[1.0]]), torch.tensor([[6.0], [-1.0], [-1.0], [-2.0]]))
    assert (
        found["promote_ratio"].item() == pytest.approx(0.6)
        and found["n50"].item() == 1
        and found["n90"].item() == 3
    )
    assert found["norm"].item() == pytest.approx(42**0.5)


def test_sizes_of_a_contribution_have_a_sign_only_where_they_say_so():
    of = {
        name: value.item()
        for name, value in logit_attribution._sizes(*map(torch.tensor, (-2.0, -3.0, 6.0))).items()
    }
    assert of == {
        "target_contribution": 6, "attribution": 6, "logit_norm": 6, "total_impact": 12, "target_efficiency": 0.5,
    }  # fmt: skip
    assert logit_attribution._sizes(*map(torch.tensor, (-2.0, 3.0, 6.0)))["target_contribution"] == -6


def test_neurons_are_chosen_among_those_that_act():
    activation = torch.tensor([[0.0, 0.0, 1.0, -4.0, 2.0]])
    toward, norm = torch.tensor([[9.0, 9.0, 3.0, 1.0, 1.0]]), torch.tensor([[9.0, 9.0, 1.0, 1.0, 9.0]])
    found = logit_attribution._select(activation, toward, norm, [0], 2, seed=0)[:, 0]
    chosen = dict(zip(logit_attribution.SELECTIONS, found.tolist()))
    assert chosen["attribution"] == [3, 2] and chosen["impact"] == [4, 3]
    for seed in range(20):
        assert set(logit_attribution._select(activation, toward, norm, [0], 3, seed)[1, 0].tolist()) == {
            2,
            3,
            4,
        }
    with pytest.raises(ParameterError, match="n_neurons = 4 neurons cannot be chosen: a prompt has 3"):
        logit_attribution._select(activation, toward, norm, [0], 4, seed=0)


def test_a_targets_rank_counts_those_above_it():
    final = torch.tensor([[1.0]])
    stream = SimpleNamespace(residual=[final], embedding=final)
    readout = torch.tensor([[2.0], [5.0], [2.0], [7.0]])
    answer = logit_attribution._Answer(readout, None, torch.ones(1), readout[[2]])
    assert logit_attribution._answers(stream, answer, torch.tensor([2]))["target_rank"][1].item() == 3


def test_the_first_layers_update_is_from_the_embedding():
    after = [torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]])]
    stream = SimpleNamespace(
        embedding=torch.tensor([[1.0, 0.0]]), residual=after, attention_update=after, mlp_update=after
    )
    answer = logit_attribution._Answer(torch.eye(2), None, torch.ones(1), torch.tensor([[1.0, 10.0]]))
    found = logit_attribution._updates(stream, answer)["update_target_contribution"][1]
    assert found[0, :, 0].tolist() == [2, 40]


def test_what_a_negative_activation_promotes_is_what_its_vector_demotes(monkeypatch):
    """A write vector of which 60 % of the mass raises logits."""
    readout = torch.tensor([[6.0], [-1.0], [-1.0], [-2.0]])
    monkeypatch.setattr(logit_attribution, "decoder_blocks", lambda decoder: [None])
    monkeypatch.setattr(logit_attribution, "write_matrix", lambda block: torch.tensor([[1.0], [2.0]]))
    data = xr.Dataset({name: ("feature", values) for name, values in {
        "neuron_layer": [0, 0, 0], "neuron": [0, 1, 1], "activation": [2.0, -1.0, 0.0]}.items()})  # fmt: skip
    found = logit_attribution._chosen_breadth(None, readout, data)
    assert found["promote_ratio"][1].tolist() == pytest.approx([0.6, 0.4, 0.6])
    assert found["n90"][1].tolist() == [3, 3, -1]
