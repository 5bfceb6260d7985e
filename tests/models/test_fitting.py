"""Batches that fit: halved where memory does not suffice, remembered, said once, and with the same values."""

import numpy as np
import pytest
import torch

from nbhelpers.core.params import ParameterError
from nbhelpers.models import decoding, fitting, forward, generation
from nbhelpers.models.loading import load_pair

ROWS = [[5, 6, 7, 8, 9], [5, 6, 7], [8, 9, 10, 11], [5, 9]]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No size is remembered from another test."""
    monkeypatch.setattr(fitting, "_FITTED", {})


@pytest.fixture(scope="module")
def decoder():
    return load_pair("llama_pocket").it


@pytest.fixture
def small(decoder, monkeypatch):
    """A card on which two rows fit and three do not: the first MLP of the model fails for more."""
    mlp = decoder.stack._module.layers[3].mlp
    own = mlp.forward

    def fails(x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(x)

    monkeypatch.setattr(mlp, "forward", fails)


def limited(limit, error):
    def work(rows):
        if len(rows) > limit:
            raise error
        return rows.tolist()

    return work


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_batch_that_does_not_fit_is_halved_and_every_row_comes_once(error, capsys):
    made = list(fitting.in_batches(range(11), 8, limited(3, error), "a model"))
    assert [len(rows) for rows, _ in made] == [2] * 5 + [1]
    assert np.concatenate([rows for rows, _ in made]).tolist() == list(range(11))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "a model: memory does not suffice for a batch of 8; it goes on with 4.",
        "a model: memory does not suffice for a batch of 4; it goes on with 2.",
    ]


def test_the_size_that_fitted_is_remembered_by_name(capsys):
    list(fitting.in_batches(range(8), 8, limited(4, MemoryError()), "a model"))
    capsys.readouterr()
    again = [len(rows) for rows, _ in fitting.in_batches(range(8), 8, limited(4, MemoryError()), "a model")]
    other = [len(rows) for rows, _ in fitting.in_batches(range(8), 8, limited(9, MemoryError()), "another")]
    assert again == [4, 4] and other == [8] and capsys.readouterr().out == ""


def test_another_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(fitting.in_batches(range(4), 4, limited(1, RuntimeError("shapes differ")), "a model"))


def test_one_row_that_does_not_fit_is_an_error_in_one_sentence():
    with pytest.raises(ParameterError, match="^a model: one row alone does not fit into memory"):
        list(fitting.in_batches(range(4), 4, limited(0, MemoryError()), "a model"))


def test_generation_goes_on_in_smaller_batches_with_the_same_tokens(decoder, request, capsys):
    whole = generation.generate(decoder, ROWS, max_new_tokens=6)
    decoded = decoding.decode(decoder, ROWS, max_new_tokens=6).continuations
    request.getfixturevalue("small")
    assert generation.generate(decoder, ROWS, max_new_tokens=6) == whole
    assert decoding.decode(decoder, ROWS, max_new_tokens=6).continuations == decoded
    assert capsys.readouterr().out.count("memory does not suffice for a batch of 4; it goes on with 2") == 2


def test_a_replay_goes_on_in_smaller_batches_with_the_same_values(decoder, request):
    replies = [generation.Continuation((12, 13, 14), False)] * len(ROWS)
    whole = collected(decoder, replies)
    request.getfixturevalue("small")
    for row, values in collected(decoder, replies).items():
        torch.testing.assert_close(values, whole[row])


def collected(decoder, replies):
    """The last residual of every row."""
    found = {}
    for batch, stream in forward.replay(decoder, ROWS, replies, batch_size=4):
        for row in set(batch.row_of_step.tolist()):
            found[row] = stream.residual[-1][torch.as_tensor(batch.row_of_step == row)]
    return found
