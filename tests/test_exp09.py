"""Every number of exp09's dataset for one pair, against a slow loop over tokens and layers in plain PyTorch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from nbhelpers import models, observation, params, profiles, prompts, store, tuned_lens

KEY = "llama_pocket"


@pytest.fixture(scope="module")
def result():
    """The pair's dataset, as the notebook writes it; made first where it is missing."""
    path = store.result_path("pocket", KEY, "exp09")
    if not store.is_current(path, params.resolve("exp09", model=KEY).hash):
        subprocess.run([sys.executable, "-m", "nbhelpers", "run", "exp09", "--model", KEY], check=True)
    return store.load(path, experiment="exp09")


@pytest.fixture(scope="module")
def observed(result):
    """The capture that the dataset was made from."""
    return store.load(store.result_path("pocket", KEY, "exp00"), experiment="exp00")


def texts_of(observed, variant):
    """The ids that a variant wrote, prompt by prompt."""
    own = observed.isel(step=np.flatnonzero((observed.history == variant).values))
    return [own.token_id.values[own.prompt_index.values == i].tolist() for i in range(observed.sizes["prompt"])]


def log_softmax(decoder, h):
    """The raw lens in float64 over the real vocabulary: final norm, unembedding, log-softmax."""
    stack = decoder.module.get_submodule(decoder.stack_path)
    logits = decoder.module.get_output_embeddings()(stack.norm(h)).double()
    return torch.log_softmax(logits[torch.as_tensor(decoder.real_tokens)], dim=-1)


def states(decoder, ids):
    """Embedding, residuals and updates [layer, position, d] of one sequence, by hooks on the bare model."""
    stack = decoder.module.get_submodule(decoder.stack_path)
    seen, handles = {"embedding": [], "residual": [], "attention": [], "mlp": []}, []
    keep = lambda name: lambda m, i, o: seen[name].append((o[0] if isinstance(o, tuple) else o)[0])  # noqa: E731
    handles.append(stack.layers[0].register_forward_pre_hook(lambda m, i: seen["embedding"].append(i[0][0])))
    for block in stack.layers:
        handles += [
            block.register_forward_hook(keep("residual")),
            block.mlp.register_forward_hook(keep("mlp")),
            block.self_attn.register_forward_hook(keep("attention")),
        ]
    decoder.module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen


def cosine(a, b):
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def one_step(decoder, seen, position):
    """All curves of one position, layer by layer, as lists."""
    n_layers = len(seen["residual"])
    logp = [log_softmax(decoder, seen["residual"][layer][position]) for layer in range(n_layers)]
    row = {
        name: []
        for name in (
            "kl_final_layer",
            "kl_layer_final",
            "entropy",
            "kl_adjacent",
            "top1_agreement",
            "residual_norm",
            "cosine_to_final",
            "block",
            "attention",
            "mlp",
            "block_norm",
            "attention_norm",
            "mlp_norm",
        )
    }
    for layer in range(n_layers):
        p, final = logp[layer], logp[-1]
        row["kl_final_layer"].append(float((final.exp() * (final - p)).sum()))
        row["kl_layer_final"].append(float((p.exp() * (p - final)).sum()))
        row["entropy"].append(float(-(p.exp() * p).sum()))
        last = logp[layer - 1]
        row["kl_adjacent"].append(float((last.exp() * (last - p)).sum()) if layer else np.nan)
        row["top1_agreement"].append(float(p.argmax() == final.argmax()))
        h = seen["residual"][layer][position]
        before = seen["residual"][layer - 1][position] if layer else seen["embedding"][0][position]
        attention, mlp = seen["attention"][layer][position], seen["mlp"][layer][position]
        row["residual_norm"].append(float(h.norm()))
        row["cosine_to_final"].append(cosine(h, seen["residual"][-1][position]))
        row["block"].append(cosine(h - before, before))
        row["attention"].append(cosine(attention, before))
        row["mlp"].append(cosine(mlp, before + attention))
        for name, update in (("block", h - before), ("attention", attention), ("mlp", mlp)):
            row[f"{name}_norm"].append(float(update.norm()))
    return row


def first_layer(flags):
    """The first layer whose flag is set, the last layer if none is."""
    return next((layer for layer, flag in enumerate(flags) if flag), len(flags) - 1)


def slow_commitment(row):
    """Commitment layers of one step, each rule written out."""
    kl, agrees = row["kl_final_layer"], row["top1_agreement"]
    n = len(kl)
    layers = range(n)
    rules = {
        "top1_first": first_layer(agrees),
        "top1_strict": first_layer([all(agrees[layer:]) for layer in layers]),
        "top1_stable3": first_layer([all(agrees[layer : layer + 3]) for layer in layers]),
        "kl_first_0.1": first_layer([kl[layer] < 0.1 for layer in layers]),
        "majority_0.1": first_layer(
            [sum(d < 0.1 for d in kl[layer:]) / (n - layer) >= 0.9 for layer in layers]
        ),
        "majority_below_0.1": first_layer(
            [kl[layer] < 0.1 and sum(d < 0.1 for d in kl[layer:]) / (n - layer) >= 0.9 for layer in layers]
        ),
    }
    for threshold in (0.05, 0.1, 0.2, 0.5, 1.0):
        rules[f"kl_stays_{threshold}"] = first_layer(
            [all(d < threshold for d in kl[layer:]) for layer in layers]
        )
    return rules


@pytest.fixture(scope="module")
def slow(result, observed):
    """Everything again: {variant: [one list of steps a prompt]}, each step a dict of curves and commitment layers."""
    pair = models.load_pair(KEY)
    records = {p.id: p for p in prompts.read_prompts(params.profile_params("pocket").prompts)}
    chosen = [records[name] for name in result.prompt.values]
    table = {}
    with torch.no_grad():
        for decoder in pair:
            table[decoder.variant] = []
            for prompt, made in zip(prompts.render(decoder, chosen), texts_of(observed, decoder.variant)):
                seen = states(decoder, [*prompt, *made[:-1]])
                steps = [one_step(decoder, seen, len(prompt) - 1 + t) for t in range(len(made))]
                table[decoder.variant].append([row | {"rules": slow_commitment(row)} for row in steps])
    return table


def close(ours, theirs, atol=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


def means(steps_of_prompts, name, steps=slice(1, None)):
    """Mean over each prompt's steps, [prompt, layer]."""
    return np.array(
        [
            np.mean([row[name] for row in rows[steps]], axis=0) if rows[steps] else np.full(12, np.nan)
            for rows in steps_of_prompts
        ]
    )


@pytest.mark.parametrize(
    "name", ["kl_final_layer", "kl_layer_final", "entropy", "kl_adjacent", "top1_agreement"]
)
def test_lens_curves(result, slow, name):
    for variant, rows in slow.items():
        close(result[name].sel(variant=variant, lens="raw").transpose("prompt", "layer"), means(rows, name))


@pytest.mark.parametrize("name", ["kl_final_layer", "kl_layer_final", "entropy"])
def test_first_step(result, slow, name):
    for variant, rows in slow.items():
        found = result[f"{name}_first"].sel(variant=variant, lens="raw").transpose("prompt", "layer")
        close(found, means(rows, name, slice(0, 1)))


@pytest.mark.parametrize("component", ["block", "attention", "mlp"])
def test_delta_cosine_and_norms(result, slow, component):
    for variant, rows in slow.items():
        chosen = result.sel(variant=variant)
        close(
            chosen.delta_cosine.sel(component=component).transpose("prompt", "layer"), means(rows, component)
        )
        close(
            chosen.update_norm.sel(component=component).transpose("prompt", "layer"),
            means(rows, f"{component}_norm"),
        )
        close(chosen.residual_norm.transpose("prompt", "layer"), means(rows, "residual_norm"))
        close(chosen.cosine_to_final.transpose("prompt", "layer"), means(rows, "cosine_to_final"))


def test_commitment(result, slow):
    """Layers are integers: a step may differ only where a layer's KL lies within float32 noise of a threshold."""
    for variant, rows in slow.items():
        for rule in result.rule.values:
            found = result.commitment.sel(variant=variant, lens="raw", rule=rule)
            expected = [
                np.mean([row["rules"][rule] for row in steps[1:]]) if steps[1:] else np.nan for steps in rows
            ]
            close(found, expected)
            layers = [row["rules"][rule] for steps in rows for row in steps[1:]]
            counts = result.commitment_count.sel(variant=variant, lens="raw", rule=rule)
            assert counts.values.tolist() == np.bincount(layers, minlength=12).tolist()


@pytest.mark.parametrize("direction", ["final_layer", "layer_final"])
def test_convergence_gap(result, slow, direction):
    name = f"kl_{direction}"
    it, pt = means(slow["it"], name), means(slow["pt"], name)
    gaps = (it - pt)[:, 6:].mean(1)
    gaps = gaps[~np.isnan(gaps)]
    chosen = result.sel(lens="raw", direction=direction)
    close(chosen.convergence_gap, gaps.mean())
    check_interval(chosen.convergence_gap_low, chosen.convergence_gap_high, gaps)
    tokens = {
        v: np.mean([row[name] for steps in slow[v] for row in steps[1:]], axis=0)[6:].mean() for v in slow
    }
    close(chosen.convergence_gap_tokens, tokens["it"] - tokens["pt"])


def test_commitment_delay(result, slow):
    for rule in result.rule.values:
        layers = {
            v: np.array(
                [
                    np.mean([row["rules"][rule] for row in steps[1:]]) if steps[1:] else np.nan
                    for steps in slow[v]
                ]
            )
            for v in slow
        }
        delays = layers["it"] - layers["pt"]
        delays = delays[~np.isnan(delays)]
        chosen = result.sel(lens="raw", rule=rule)
        close(chosen.commitment_delay, delays.mean())
        check_interval(chosen.commitment_delay_low, chosen.commitment_delay_high, delays)


def check_interval(low, high, values):
    """Our BCa interval is SciPy's, up to the noise of 10,000 resamples."""
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="BCa", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose([low, high], [theirs.low, theirs.high], atol=0.06 * width)


def test_generation_is_recorded_whole(observed, slow):
    pair = models.load_pair(KEY)
    for decoder in pair:
        chosen = observed.sel(variant=decoder.variant)
        for i, (steps, made) in enumerate(zip(slow[decoder.variant], texts_of(observed, decoder.variant))):
            assert len(made) == int(chosen.n_tokens[i]) == len(steps)
            assert bool(chosen.stopped[i]) == (made[-1] in decoder.stop_ids)
            assert str(chosen.text.values[i]) == decoder.tokenizer.decode(made, skip_special_tokens=True)


def distributions(decoder, residual, tuned=None):
    """Log-probabilities [layer, vocabulary] of one position, the tuned lens's where translators are given."""
    rows = [h.double() for h in residual]
    if tuned is not None:
        rows = [(h @ tuned.weight[i].double().T + tuned.bias[i].double()) for i, h in enumerate(rows[:-1])] + rows[-1:]
    return torch.stack([log_softmax(decoder, h.float()) for h in rows])


@pytest.mark.parametrize("variant, history", [("pt", "it"), ("it", "pt"), ("it", "it")])
def test_histories_and_lenses_equal_a_slow_loop(observed, variant, history):
    """Raw and tuned, own and the other's lens, the following token's probability and rank: a few prompts, every step."""
    pair = models.load_pair(KEY)
    decoders = dict(zip(("pt", "it"), pair))
    decoder, other = decoders[variant], decoders["it" if variant == "pt" else "pt"]
    run = params.resolve("exp00", model=KEY)
    translators = {
        d.variant: tuned_lens.load(store.artifact_path(run, f"tuned_lens_{d.variant}.safetensors"), d.unembedding)
        for d in pair
    }
    records = {p.id: p for p in prompts.read_prompts(params.profile_params("pocket").prompts)}
    for i in (0, 40, 95):
        prompt = prompts.render(decoder, [records[observed.prompt.values[i]]])[0]
        made = texts_of(observed, history)[i]
        at = np.flatnonzero(((observed.history == history) & (observed.prompt_index == i)).values)
        steps = observed.sel(variant=variant).isel(step=at)
        with torch.no_grad():
            seen = states(decoder, [*prompt, *made[:-1]])
        for t, target in enumerate(made):
            residual = [seen["residual"][layer][len(prompt) - 1 + t] for layer in range(12)]
            one = steps.isel(step=t)
            for reader, suffix in ((decoder, ""), (other, "_cross")):
                for lens, tuned in (("raw", None), ("tuned", translators[reader.variant])):
                    with torch.no_grad():
                        logp = distributions(reader, residual, tuned)
                    final = logp[-1]
                    kl = (final.exp() * (final - logp)).sum(-1)
                    close(one[f"kl_final_layer{suffix}"].sel(lens=lens), kl, atol=2e-5)
                    back = (logp.exp() * (logp - final)).sum(-1)
                    close(one[f"kl_layer_final{suffix}"].sel(lens=lens), back, atol=2e-5)
                    if not suffix:
                        real = np.flatnonzero(decoder.real_tokens).tolist().index(target)
                        close(one.target_log_probability.sel(lens=lens), logp[:, real], atol=1e-4)
                        rank = 1 + (logp > logp[:, real : real + 1]).sum(-1)
                        assert (np.abs(one.target_rank.sel(lens=lens).values - rank.numpy()) <= 1).all()


def test_matched_curves_are_means_of_the_histories(result, observed):
    for variant in ("pt", "it"):
        for history in ("pt", "it"):
            steps = observation.history_steps(observed, variant, history)
            expected = profiles.prompt_means(steps.kl_final_layer, observed.sizes["prompt"])
            found = result.kl_final_layer_matched.sel(variant=variant, history=history, basis="own")
            close(found.transpose("prompt", "lens", "layer"), expected.transpose("prompt", "lens", "layer"))
    free = result.kl_final_layer_matched.sel(variant="it", history="it", basis="own")
    close(free.transpose("prompt", "lens", "layer"), result.kl_final_layer.sel(variant="it").transpose("prompt", "lens", "layer"))


def test_same_parameters_give_the_same_dataset(result):
    """A small run twice, in one process, with other batch sizes: the numbers do not move."""
    run = params.resolve("exp00", model=KEY, n_prompts=6, max_new_tokens=8)
    pair = models.load_pair(KEY)
    one, two = (small_run(pair, run, batch) for batch in (2, 6))
    for name in one:
        if one[name].dtype.kind in "fi":
            np.testing.assert_allclose(one[name], two[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert (one[name] == two[name]).all()


def observed_pair(pair, ids, made, chosen, **sizes):
    """exp09's dataset of a few prompts, both lenses untrained."""
    lenses = {d.variant: tuned_lens.untrained(pair.n_layers, d.unembedding) for d in pair}
    steps = observation.observe_pair(pair, ids, made, lenses, **sizes)
    whole = observation.with_texts(steps, made, chosen, pair.it.tokenizer)
    return profiles.summarise(whole, params.resolve("exp09", model=KEY).experiment)


def small_run(pair, run, batch_size):
    from nbhelpers import decoding

    chosen = prompts.load_prompts(run.profile.prompts, run.experiment.n_prompts)
    ids = {d.variant: prompts.render(d, chosen) for d in pair}
    made = {
        d.variant: decoding.generate(d, ids[d.variant], max_new_tokens=8, batch_size=batch_size) for d in pair
    }
    return observed_pair(pair, ids, made, chosen, batch_size=batch_size)


def test_swapping_pt_and_it_flips_every_difference():
    from dataclasses import replace

    from nbhelpers import decoding

    run, pair = params.resolve("exp00", model=KEY), models.load_pair(KEY)
    swapped = replace(pair, pt=replace(pair.it, variant="pt"), it=replace(pair.pt, variant="it"))
    # Raw prompts for both, so that the only difference is which model is called which.
    chosen = prompts.load_prompts(run.profile.prompts, 6)
    rows = [prompts.text_ids(pair.pt, p.text) for p in chosen]

    def gaps(pair):
        made = {d.variant: decoding.generate(d, rows, max_new_tokens=8) for d in pair}
        return observed_pair(pair, dict.fromkeys(("pt", "it"), rows), made, chosen)

    forth, back = gaps(pair), gaps(swapped)
    for name in ("convergence_gap", "convergence_gap_tokens", "commitment_delay"):
        np.testing.assert_allclose(forth[name], -back[name], rtol=1e-6, atol=1e-9)
