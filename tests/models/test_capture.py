"""Capture equals plain PyTorch hooks on every row alone, on all six architectures."""

import pytest
import torch

from nbhelpers.core.params import FAMILIES
from nbhelpers.models import forward, generation, prompts
from nbhelpers.models.decoder import block_layout
from nbhelpers.models.loading import load_pair

KEYS = [f"{family}_pocket" for family in FAMILIES]
POCKET = "pocket/prompts.jsonl"


def hooked(decoder, ids):
    """Return what hooks on the bare model see for one sequence: a dict of [layer, position, d]."""
    stack = decoder.module.get_submodule(decoder.stack_path)
    seen, handles = (
        {"residual": [], "attention_update": [], "mlp_output": [], "mlp_update": [], "embedding": []},
        [],
    )

    def keep(name):
        return lambda module, inputs, output: seen[name].append(
            (output[0] if isinstance(output, tuple) else output)[0]
        )

    handles.append(
        stack.layers[0].register_forward_pre_hook(
            lambda module, inputs: seen["embedding"].append(inputs[0][0])
        )
    )
    for block in stack.layers:
        layout = block_layout(block)
        handles.append(block.register_forward_hook(keep("residual")))
        handles.append(block.mlp.register_forward_hook(keep("mlp_output")))
        attention, mlp = (
            (block.self_attn, block.mlp)
            if layout == "pre"
            else (block.post_attention_layernorm, block.post_feedforward_layernorm)
        )
        handles.append(attention.register_forward_hook(keep("attention_update")))
        handles.append(mlp.register_forward_hook(keep("mlp_update")))
    with torch.no_grad():
        logits = decoder.module(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    return {name: torch.stack(values) for name, values in seen.items()} | {"logits": logits}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("variant", ["pt", "it"])
def test_capture_equals_hooks_on_rows_alone(key, variant):
    decoder = getattr(load_pair(key), variant)
    rows = prompts.render(decoder, prompts.load_prompts(POCKET, 5, seed=1))
    continuations = generation.generate(decoder, rows, max_new_tokens=10)
    seen = 0
    for batch, stream in forward.replay(decoder, rows, continuations, batch_size=3):
        for row in batch.rows:
            prompt, made = rows[row], continuations[row]
            alone = hooked(decoder, [*prompt, *made.ids[:-1]])
            mine = torch.as_tensor(batch.row_of_step == row)
            span = slice(len(prompt) - 1, len(prompt) - 1 + len(made.ids))
            for name in ("residual", "attention_update", "mlp_output", "mlp_update"):
                got = torch.stack(getattr(stream, name))[:, mine]
                torch.testing.assert_close(got, alone[name][:, span], rtol=1e-4, atol=2e-4)
            torch.testing.assert_close(
                stream.embedding[mine], alone["embedding"][0, span], rtol=1e-5, atol=1e-5
            )
            # The measured positions predict exactly the generated tokens.
            real = torch.as_tensor(decoder.real_tokens)
            predicted = alone["logits"][span].masked_fill(~real, -torch.inf).argmax(-1)
            assert predicted.tolist() == list(made.ids)
            seen += len(made.ids)
    assert seen == sum(len(c.ids) for c in continuations)


@pytest.mark.parametrize("key", KEYS)
def test_residuals_of_running_text_leave_out_each_rows_first_position(key):
    decoder = load_pair(key).pt
    texts = [prompt.text for prompt in prompts.load_prompts(POCKET, 5, seed=2)]
    rows = [prompts.text_ids(decoder, text) for text in texts]
    longest_first = sorted(range(5), key=lambda i: -len(rows[i]))
    alone = [hooked(decoder, rows[i])["residual"][:, 1:] for i in longest_first]
    found = list(forward.residuals(decoder, rows, batch_size=2))
    assert [len(batch[0]) for batch in found] == [
        sum(len(rows[i]) - 1 for i in longest_first[at : at + 2]) for at in (0, 2, 4)
    ]
    whole = torch.cat([torch.stack(batch) for batch in found], dim=1)
    torch.testing.assert_close(whole, torch.cat(alone, dim=1), rtol=1e-4, atol=2e-4)
    assert not whole.requires_grad


def test_what_checks_the_lens_is_the_last_column():
    decoder = load_pair("llama_pocket").pt
    rows, made = [[1, 20, 30], [1, 40]], [generation.Continuation((5, 6), False)] * 2
    ((batch, stream),) = forward.replay(decoder, rows, made)
    alone = hooked(decoder, batch.input_ids[0].tolist())
    torch.testing.assert_close(stream.last_logits[0], alone["logits"][-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stream.last_residual[0], alone["residual"][-1, -1], rtol=1e-4, atol=1e-4)


def test_step_indices_of_a_batch():
    prompts_, made = (
        [[1, 2, 3], [4]],
        [generation.Continuation((7, 8), True), generation.Continuation((9, 10, 11), False)],
    )
    (batch,) = forward.replay_batches(prompts_, made, 8, pad_id=0)
    first = batch.rows.tolist().index(0)
    assert batch.input_ids[first].tolist() == [1, 2, 3, 7]
    assert list(batch.steps[first]) == [2, 3]
    assert list(batch.steps[1 - first]) == [0, 1, 2]
    assert batch.step_of_step.tolist() == ([0, 1, 0, 1, 2] if first == 0 else [0, 1, 2, 0, 1])
    assert batch.targets.tolist() == ([7, 8, 9, 10, 11] if first == 0 else [9, 10, 11, 7, 8])
    assert batch.row_of_step.tolist() == ([0, 0, 1, 1, 1] if first == 0 else [1, 1, 1, 0, 0])


def test_memory_does_not_grow_over_batches():
    """No autograd graph and no stream outlives its batch."""
    decoder = load_pair("llama_pocket").it
    rows = [[1, 20 + i, 30, 40] for i in range(12)]
    made = [generation.Continuation((5, 6, 7), False)] * 12
    streams = [stream for _, stream in forward.replay(decoder, rows, made, batch_size=4)]
    assert all(not tensor.requires_grad for stream in streams for tensor in stream.residual)
