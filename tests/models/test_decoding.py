"""Greedy generation: a padded batch gives what each row gives alone and what plain `transformers` gives."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nbhelpers.core.params import FAMILIES
from nbhelpers.models import decoding, forward, generation, prompts
from nbhelpers.models.loading import load_pair

KEYS = [f"{family}_pocket" for family in FAMILIES]
POCKET = "pocket/prompts.jsonl"


@pytest.mark.parametrize("key", KEYS)
def test_batch_equals_rows_alone_and_a_loop_without_cache(key):
    decoder = load_pair(key).it
    chosen = prompts.load_prompts(POCKET, 6, seed=3)
    rows = prompts.render(decoder, chosen)
    assert len({len(row) for row in rows}) > 1, "rows of one length would not test padding"
    together = generation.generate(decoder, rows, max_new_tokens=12, batch_size=6)
    assert together == [generation.generate(decoder, [row], max_new_tokens=12)[0] for row in rows]
    assert together[0] == slow_greedy(decoder, rows[0], 12)


def slow_greedy(decoder, row, n):
    """Greedy decoding by whole forward passes of the bare model, one token at a time."""
    ids, made = list(row), []
    with torch.no_grad():
        while len(made) < n:
            logits = decoder.module(torch.tensor([ids])).logits[0, -1]
            logits[~torch.as_tensor(decoder.real_tokens)] = -torch.inf
            made.append(int(logits.argmax()))
            ids.append(made[-1])
            if made[-1] in decoder.stop_ids:
                return generation.Continuation(tuple(made), True)
    return generation.Continuation(tuple(made), False)


def test_cut_at_stop_keeps_the_stop_token():
    assert generation.cut_at_stop([5, 6, 2, 9, 2], [2]) == generation.Continuation((5, 6, 2), True)
    assert generation.cut_at_stop([5, 6], [2]) == generation.Continuation((5, 6), False)


def test_unreal_tokens_are_never_generated():
    """Even when an unreal row would win the argmax."""
    decoder = load_pair("qwen_pocket").it
    head = decoder.module.get_output_embeddings().weight
    with torch.no_grad():
        # A padding row that copies the likeliest token's direction at twice its length.
        row = prompts.chat_ids(decoder, "Hello!")
        winner = int(decoder.module(torch.tensor([row])).logits[0, -1].argmax())
        head[-1] = 2 * head[winner]
        assert int(decoder.module(torch.tensor([row])).logits[0, -1].argmax()) == len(head) - 1
    made = generation.generate(decoder, [row], max_new_tokens=4)[0]
    assert made.ids[0] == winner


class Copies(TorchDispatchMode):
    """Notes the shapes of weights that are multiplied once for each row of a batch."""

    def __init__(self, n_rows):
        super().__init__()
        self.n_rows, self.found = n_rows, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm):
            self.found += [tuple(each.shape) for each in args[:3] if self.n_rows in each.shape]
        return func(*args, **(kwargs or {}))


def test_the_notes_see_what_a_slice_costs():
    """Or the test below could not fail."""
    with Copies(512) as copies, torch.no_grad():
        torch.nn.functional.linear(torch.ones(3, 5, 8)[:, -1:], torch.ones(512, 8))
    assert copies.found


@pytest.mark.parametrize("key", KEYS)
def test_the_unembedding_is_multiplied_once_for_all_rows_of_a_batch(key):
    """Of the last position alone, `linear` may copy the weight for every row, gigabytes at a public model's vocabulary."""
    decoder = load_pair(key).it
    rows = prompts.render(decoder, prompts.load_prompts(POCKET, 3, seed=3))
    with Copies(decoder.n_rows) as copies:
        written = generation.generate(decoder, rows, max_new_tokens=2)
        assert decoding.decode(decoder, rows, max_new_tokens=2).continuations == written
        list(forward.replay(decoder, rows, written))
    assert not copies.found
