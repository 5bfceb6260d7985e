"""Forwards that begin at the first edited layer: the same numbers as whole ones; and a model left as it was."""

import pytest
import torch

from nbhelpers import experiments
from nbhelpers.core.params import FAMILIES
from nbhelpers.models.loading import load_pair
from nbhelpers.models.row_edits import RowEdit, applied, block_outputs, first_layers, resumed


def test_the_first_edited_layer_of_each_row():
    one, d = torch.ones(4), torch.eye(4)
    edits = [
        RowEdit(5, alpha=torch.tensor([1.0, 0.0, 1.0, 1.0]), direction=d),
        RowEdit(2, keep=torch.tensor([1.0, 1.0, 0.0, 1.0])),
        RowEdit(0, alpha=one, direction=d, offset=torch.zeros(1, 4), keep=one),
        RowEdit(7, offset=torch.stack([d[0] * 0, d[0], d[0], d[0] * 0])),
    ]
    assert first_layers(edits, 4, 12).tolist() == [11, 5, 2, 11]
    assert first_layers([RowEdit(3, keep=torch.zeros(1))], 4, 12).tolist() == [3] * 4


def value(output):
    """The states that a block returned."""
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_forward_is_the_whole_one(family):
    decoder = load_pair(experiments.resolve("exp00", model=f"{family}_pocket").model).it
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(5, 300, (2, 9), generator=generator), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    width, n = decoder.config.hidden_size, decoder.n_layers
    unit = torch.nn.functional.normalize(torch.randn(1, width, generator=generator), dim=-1)
    edits = [
        RowEdit(7, alpha=torch.tensor([0.0, 0.0, -1.0, -1.0]), direction=unit),
        RowEdit(9, "attention_update", keep=torch.tensor([0.0, 0.0, 1.0, 1.0])),
    ]
    twice = ids.repeat(2, 1), mask.repeat(2, 1)
    before = block_outputs(decoder, ids, mask, range(n))
    with applied(decoder, edits, 4):
        whole = block_outputs(decoder, *twice, [n - 1])[0]
        with resumed(decoder, 7, before[6], 2):
            found = block_outputs(decoder, *twice, [n - 1])[0]
    torch.testing.assert_close(value(found), value(whole), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(value(whole)[:2], value(before[-1]), atol=1e-3)
    after = block_outputs(decoder, ids, mask, [3, n - 1])
    assert torch.equal(value(after[1]), value(before[-1])) and torch.equal(value(after[0]), value(before[3]))


def test_blocks_have_their_own_forward_again_after_an_error():
    decoder = load_pair(experiments.resolve("exp00", model="llama_pocket").model).it
    blocks = decoder.stack._module.layers
    own = [block.forward for block in blocks]
    with pytest.raises(KeyError), resumed(decoder, 3, torch.zeros(1, 2, decoder.config.hidden_size), 1):
        assert [block.forward == mine for block, mine in zip(blocks, own)] == [False] * 3 + [True] * 9
        raise KeyError
    assert all(block.forward == mine for block, mine in zip(blocks, own))
