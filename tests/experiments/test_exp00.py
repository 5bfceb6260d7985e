"""Every number of exp00 for two pocket pairs, against a slow loop over prompts, steps and layers in plain PyTorch."""

from collections import namedtuple
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp00_observations import measure as exp00_measure
from nbhelpers.measures import lens, lens_tiles
from nbhelpers.measures.steps import free_steps, history_steps
from nbhelpers.models import generation, prompts
from nbhelpers.models.loading import load_pair
from nbhelpers.models.token_classes import token_classes
from tests.measures.test_tuned_lens import perturbed
from tests.specs import complete

POCKET = "pocket/prompts.jsonl"
KEYS = ("llama_pocket", "gemma_pocket")  # no norm behind attention and MLP, and one behind each
LENSES = ("raw", "tuned")
CURVES = (
    "kl_final_layer",
    "kl_layer_final",
    "kl_adjacent",
    "entropy",
    "top1_probability",
    "target_log_probability",
)
LENGTHS = {
    "pt": (9, 8, 7, 6, 5, 4, 3, 1),
    "it": (6, 9, 1, 8, 7, 5, 4, 3),
}  # tokens kept, one prompt's first alone
Case = namedtuple("Case", "pair chosen ids made lenses observed")


def shortened(text, n):
    """A continuation cut to n tokens; it ends where it ended by itself if that is earlier."""
    return generation.Continuation(text.ids[:n], text.stopped and len(text.ids) <= n)


@cache
def case(key):
    """A pair, eight prompts, what both models wrote, translators away from the identity, and what exp00 makes of them."""
    pair = load_pair(key)
    chosen = prompts.load_prompts(POCKET, 8, seed=3)
    ids = {d.variant: prompts.render(d, chosen) for d in pair}
    made = {d.variant: generation.generate(d, ids[d.variant], max_new_tokens=9, batch_size=3) for d in pair}
    made = {v: [shortened(*text) for text in zip(made[v], LENGTHS[v])] for v in VARIANTS}
    lenses = {d.variant: perturbed(pair.n_layers, d.unembedding, seed=i) for i, d in enumerate(pair)}
    steps = exp00_measure.observe_pair(pair, ids, made, lenses, batch_size=3, lens_rows=5)
    whole = exp00_measure.with_texts(steps, made, chosen, pair.it.tokenizer)
    return Case(pair, chosen, ids, made, lenses, whole)


def states(decoder, ids):
    """The stream of one sequence, by hooks on the bare model: {name: [layer][position, …]}, and its logits."""
    stack = decoder.module.get_submodule(decoder.stack_path)
    names = ("embedding", "residual", "attention", "mlp_output", "mlp", "activation")
    seen, handles = {name: [] for name in names}, []

    def after(name):
        return lambda module, inputs, out: seen[name].append((out[0] if isinstance(out, tuple) else out)[0])

    def before(name):
        return lambda module, inputs: seen[name].append(inputs[0][0])

    handles.append(stack.layers[0].register_forward_pre_hook(before("embedding")))
    for block in stack.layers:
        normed = hasattr(block, "post_feedforward_layernorm")
        handles += [
            block.register_forward_hook(after("residual")),
            block.mlp.register_forward_hook(after("mlp_output")),
            block.mlp.down_proj.register_forward_pre_hook(before("activation")),
            (block.post_attention_layernorm if normed else block.self_attn).register_forward_hook(
                after("attention")
            ),
            (block.post_feedforward_layernorm if normed else block.mlp).register_forward_hook(after("mlp")),
        ]
    with torch.no_grad():
        seen["logits"] = decoder.module(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    return seen


def log_probabilities(decoder, residual, tuned=None):
    """Float64 log-probabilities [layer, real vocabulary] of one position's residuals [layer][d]; the last stays raw."""
    stack = decoder.module.get_submodule(decoder.stack_path)
    rows = list(residual)
    if tuned is not None:
        moved = [h.double() @ a.double().T + b.double() for h, a, b in zip(rows, tuned.weight, tuned.bias)]
        rows = [h.float() for h in moved[:-1]] + rows[-1:]
    with torch.no_grad():
        logits = decoder.module.get_output_embeddings()(stack.norm(torch.stack(rows))).double()
    return torch.log_softmax(logits[:, torch.as_tensor(decoder.real_tokens)], dim=-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1).numpy()


def cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def jaccards(top5, with_what):
    return [len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(top5, with_what)]


def lens_row(logp, ids, target):
    """One step through one lens: {metric: [layer]}."""
    final, previous = logp[-1:], torch.cat([logp[:1], logp[:-1]])
    at = ids.tolist().index(target)
    top5 = logp.topk(5).indices.tolist()
    adjacent = kl(previous, logp)
    adjacent[0] = np.nan
    return {
        "kl_final_layer": kl(final, logp),
        "kl_layer_final": kl(logp, final),
        "kl_adjacent": adjacent,
        "entropy": -(logp.exp() * logp).sum(-1).numpy(),
        "top1": ids[logp.argmax(-1)],
        "top1_agreement": (logp.argmax(-1) == logp[-1].argmax()).double().numpy(),
        "top1_probability": logp.exp().amax(-1).numpy(),
        "target_log_probability": logp[:, at].numpy(),
        "target_rank": 1 + (logp > logp[:, at : at + 1]).sum(-1).numpy(),
        "turnover": np.array([np.nan, *jaccards(top5[1:], top5)]),
        "candidates_final": np.array(jaccards(top5, [top5[-1]] * len(top5))),
    }


def geometry_row(seen, position):
    """One step's directions and lengths: {name: [component, layer] or [layer]}."""
    row = {name: [] for name in ("delta_cosine", "update_norm", "residual_norm", "cosine_to_final")}
    for layer, residual in enumerate(seen["residual"]):
        h = residual[position]
        before = seen["residual"][layer - 1][position] if layer else seen["embedding"][0][position]
        attention, mlp = seen["attention"][layer][position], seen["mlp"][layer][position]
        updates = (h - before, before), (attention, before), (mlp, before + attention)
        row["delta_cosine"].append([cosine(*pair) for pair in updates])
        row["update_norm"].append([float(update.norm()) for update, _ in updates])
        row["residual_norm"].append(float(h.norm()))
        row["cosine_to_final"].append(cosine(h, seen["residual"][-1][position]))
    return {name: np.array(values).T for name, values in row.items()}


def masses(decoder, seen, positions):
    """Σ |a|·‖w‖ over positions, [layer, neuron], with the gain and the scale of a norm behind the MLP written out."""
    found, eps = [], decoder.config.rms_norm_eps
    for block, a, out in zip(
        decoder.module.get_submodule(decoder.stack_path).layers, seen["activation"], seen["mlp_output"]
    ):
        write, scale = block.mlp.down_proj.weight.double(), torch.ones(len(positions)).double()
        if hasattr(block, "post_feedforward_layernorm"):
            write = write * (1 + block.post_feedforward_layernorm.weight.double())[:, None]
            scale = 1 / (out[positions].double().square().mean(-1) + eps).sqrt()
        found.append((a[positions].double().abs() * scale[:, None]).sum(0) * write.norm(dim=0))
    return torch.stack(found).detach().numpy()


@cache
def slow(key):
    """({(variant, history): [[step] prompt]}, {variant: neuron masses}); a step is {name: array, lens first}."""
    c = case(key)
    table, mass = {}, dict.fromkeys(VARIANTS, 0)
    decoders = dict(zip(VARIANTS, c.pair))
    for variant, decoder in decoders.items():
        other = decoders["it" if variant == "pt" else "pt"]
        ids = np.flatnonzero(decoder.real_tokens)
        for history in VARIANTS:
            table[variant, history] = []
            for prompt, made in zip(c.ids[variant], c.made[history]):
                seen = states(decoder, [*prompt, *made.ids[:-1]])
                positions = range(len(prompt) - 1, len(prompt) - 1 + len(made.ids))
                rows = [
                    slow_step(
                        seen, at, token, ids, ((decoder, c.lenses[variant]), (other, c.lenses[other.variant]))
                    )
                    for at, token in zip(positions, made.ids)
                ]
                table[variant, history].append(rows)
                if variant == history:
                    mass[variant] = mass[variant] + masses(decoder, seen, positions)
    return table, mass


def slow_step(seen, position, token, ids, readers):
    residual = [h[position] for h in seen["residual"]]
    (own, own_tuned), (other, other_tuned) = readers
    by_lens = [
        lens_row(log_probabilities(own, residual, tuned), ids, token)
        | {
            f"{name}_cross": values
            for name, values in lens_row(log_probabilities(other, residual, crossed), ids, token).items()
            if name in exp00_measure.KL
        }
        for tuned, crossed in ((None, None), (own_tuned, other_tuned))
    ]
    row = {name: np.stack([one[name] for one in by_lens]) for name in by_lens[0]}
    return row | geometry_row(seen, position) | {"token_id": token, "logits": seen["logits"][position]}


def steps_of(observed, variant, history):
    """A variant's steps on a history, all of them."""
    return observed.sel(variant=variant).isel(step=np.flatnonzero((observed.history == history).values))


def flat(rows_of_prompts, name):
    """A quantity of all steps in order, [step, …]."""
    return np.array([row[name] for rows in rows_of_prompts for row in rows])


COMBINATIONS = [(v, h) for v in VARIANTS for h in VARIANTS]
every_case = pytest.mark.parametrize("key", KEYS)
every_combination = pytest.mark.parametrize("variant, history", COMBINATIONS)


@every_case
@every_combination
def test_lens_and_geometry_equal_a_slow_loop(key, variant, history):
    table, steps = slow(key)[0][variant, history], steps_of(case(key).observed, variant, history)
    cross = [f"{name}_cross" for name in exp00_measure.KL]
    shapes = ("delta_cosine", "update_norm", "residual_norm", "cosine_to_final")
    for name in (*CURVES, *cross, *shapes):
        found = steps[name].transpose("step", "lens", "component", "layer", missing_dims="ignore")
        np.testing.assert_allclose(found, flat(table, name), rtol=1e-4, atol=3e-5, err_msg=name)


@every_case
@every_combination
def test_tokens_and_ranks_equal_a_slow_loop(key, variant, history):
    table, steps = slow(key)[0][variant, history], steps_of(case(key).observed, variant, history)
    for name in ("top1", "target_rank", "turnover", "candidates_final"):
        values, expected = steps[name].transpose("step", "lens", "layer").values, flat(table, name)
        same = np.isclose(values, expected, rtol=1e-6, equal_nan=True)
        # Two tokens may be so close that rounding decides which is before the other.
        assert (~same).mean() < (1e-2 if name == "target_rank" else 1e-3), name
        if name == "target_rank":
            assert np.abs(values - expected).max() <= 1
    assert steps.token_id.values.tolist() == flat(table, "token_id").tolist()


@every_case
def test_neuron_mass_equals_a_slow_loop_over_a_models_own_text(key):
    for variant in VARIANTS:
        found = case(key).observed.neuron_mass.sel(variant=variant)
        np.testing.assert_allclose(found, slow(key)[1][variant], rtol=1e-4)


@every_case
def test_steps_lie_history_by_history_and_text_by_text(key):
    c = case(key)
    texts = [
        (h, i, t, token) for h in VARIANTS for i, m in enumerate(c.made[h]) for t, token in enumerate(m.ids)
    ]
    found = zip(
        *(c.observed[name].values.tolist() for name in ("history", "prompt_index", "token", "token_id"))
    )
    assert list(found) == texts


@every_case
def test_texts_are_recorded_as_they_were_written(key):
    c = case(key)
    tokenizer = c.pair.it.tokenizer
    for variant in VARIANTS:
        one, made = c.observed.sel(variant=variant), c.made[variant]
        assert one.n_tokens.values.tolist() == [len(m.ids) for m in made]
        assert one.stopped.values.tolist() == [m.stopped for m in made]
        assert one.text.values.tolist() == [tokenizer.decode(m.ids, skip_special_tokens=True) for m in made]
        kinds = np.concatenate([token_classes(tokenizer, m.ids) for m in made])
        assert (steps_of(c.observed, variant, variant).token_class.values == kinds).all()
    assert c.observed.prompt.values.tolist() == [p.id for p in c.chosen]
    assert c.observed.category.values.tolist() == [p.category for p in c.chosen]
    assert c.observed.message.values.tolist() == [p.message for p in c.chosen]


@every_case
def test_what_the_capture_leaves_to_others_is_clouds_and_weights(key):
    observed, schema = case(key).observed, experiments.variables("exp00")
    assert set(observed.data_vars) <= set(schema)
    for name, values in observed.data_vars.items():
        assert set(values.dims) == set(schema[name].dims), name
        assert values.dtype.itemsize <= 4 or name in (
            "neuron_mass",
            *("n_tokens", "text", "category", "message"),
        )
    with pytest.raises(store.ResultError) as error:
        complete(observed, "exp00")
    assert "no spectrum" in str(error.value) and "no kl_" not in str(error.value)


@every_case
def test_a_model_on_its_own_text_is_free_running(key):
    """Each step's last layer ranks first what was written, and equals a forward over what was written before it alone."""
    c = case(key)
    for decoder in c.pair:
        steps = steps_of(c.observed, decoder.variant, decoder.variant)
        assert (steps.top1.isel(layer=-1) == steps.token_id).all()
        alone = exp00_measure.observe(
            decoder, c.ids[decoder.variant], c.made[decoder.variant],
            own=exp00_measure.Reader(decoder.unembedding, c.lenses[decoder.variant]),
            other=exp00_measure.Reader(decoder.unembedding, c.lenses[decoder.variant]),
        )  # fmt: skip
        for name in ("kl_final_layer", "delta_cosine"):
            np.testing.assert_allclose(
                alone[name].transpose(*steps[name].dims), steps[name], rtol=1e-4, atol=3e-5
            )
        prompt, made = c.ids[decoder.variant][0], c.made[decoder.variant][0].ids
        with torch.no_grad():
            short = decoder.module(torch.tensor([[*prompt, *made[:3]]])).logits[0, -1]
        torch.testing.assert_close(
            short, slow(key)[0][decoder.variant, decoder.variant][0][3]["logits"], rtol=1e-4, atol=1e-4
        )


def test_free_and_history_steps_pick_what_they_say():
    observed = case(KEYS[0]).observed
    for variant, history in COMBINATIONS:
        own = (observed.history == history).values
        later = history_steps(observed, variant, history)
        first = history_steps(observed, variant, history, first=True)
        assert "variant" not in later.coords and (later.token > 0).all() and (first.token == 0).all()
        assert set(later.history.values) == set(first.history.values) == {history}
        assert later.sizes["step"] + first.sizes["step"] == own.sum()
        both = observed.sel(variant=variant).isel(step=np.flatnonzero(own & (observed.token > 0).values))
        np.testing.assert_array_equal(later.kl_final_layer, both.kl_final_layer)
    for variant in VARIANTS:
        free = free_steps(observed, variant)
        assert free.identical(history_steps(observed, variant, variant))
        assert free_steps(observed, variant, first=True).sizes["step"] == observed.sizes["prompt"]


def test_another_models_unembedding_is_refused():
    c = case(KEYS[0])
    wrong = exp00_measure.Reader(c.pair.pt.unembedding, c.lenses["pt"])
    with pytest.raises(lens.LensError, match="differs from the model's own logits"):
        exp00_measure.observe(c.pair.it, c.ids["it"][:1], c.made["it"][:1], own=wrong, other=wrong)


def test_a_text_of_one_token_has_a_first_step_and_no_other():
    c = case(KEYS[0])
    made = {
        v: [generation.Continuation(m.ids[: 1 + i], False) for i, m in enumerate(c.made[v][:2])]
        for v in VARIANTS
    }
    ids = {v: c.ids[v][:2] for v in VARIANTS}
    steps = exp00_measure.observe_pair(c.pair, ids, made, c.lenses)
    whole = exp00_measure.with_texts(steps, made, c.chosen[:2], c.pair.it.tokenizer)
    assert free_steps(whole, "pt").prompt_index.values.tolist() == [1]
    assert free_steps(whole, "pt", first=True).prompt_index.values.tolist() == [0, 1]


@given(st.integers(1, 5), st.data())
def test_jaccard_is_that_of_sets(k, data):
    ids = st.lists(st.integers(0, 8), min_size=k, max_size=k, unique=True)
    a, b = data.draw(ids), data.draw(ids)
    expected = len(set(a) & set(b)) / len(set(a) | set(b))
    assert float(lens_tiles.jaccard(torch.tensor([a]), torch.tensor([b]))[0]) == pytest.approx(expected)


def test_datasets_of_different_pairs_are_not_joined():
    observed = case(KEYS[0]).observed[["residual_norm"]]
    with pytest.raises(ValueError, match="layer"):
        store.joined(observed, observed.rename(residual_norm="other").isel(layer=slice(3)))
