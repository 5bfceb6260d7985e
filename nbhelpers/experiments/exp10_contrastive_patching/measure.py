"""exp10: a direction that predicts the convergence gap, learned on some prompts, patched and steered with on others."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp10_contrastive_patching import patching, probes, steered
from nbhelpers.experiments.exp10_contrastive_patching.experiment import Params
from nbhelpers.experiments.exp10_contrastive_patching.matched import Matched, matched, matched_rows
from nbhelpers.measures import replies, scoring, steering, tuned_lens
from nbhelpers.measures.steps import LENSES
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, choose, read_as

Known = Sequence[tuple[Prompt, dict]]
FEWEST = 5  # prompts, as many as a probe has folds
Lenses = Mapping[str, tuned_lens.TunedLens]


def split(
    observed: xr.Dataset, known: Sequence[Prompt], taken: Sequence[str], options: Params
) -> tuple[list[Prompt], list[Prompt]]:
    """Return (training, test) prompts of those that exp00 has replies to; no prompt is in both.

    taken: ids that directions were collected on; none of them is a test prompt, and they come first in training. Test
    prompts are balanced over categories. ParameterError if fewer than `FEWEST` prompts are left for either.
    """
    ids, used = set(observed.prompt.values.tolist()), set(taken)
    answered = [prompt for prompt in known if prompt.id in ids]
    free = [prompt for prompt in answered if prompt.id not in used]
    test = choose(free, min(options.n_test, len(free)), options.seed) if free else []
    left = [p for p in answered if p not in test]
    train = sorted(left, key=lambda prompt: prompt.id not in used)[: options.n_prompts]
    if min(len(train), len(test)) < FEWEST:
        raise ParameterError(
            f"exp10 needs {FEWEST} prompts to train on and {FEWEST} others to test on, and exp00 has replies to "
            f"{len(answered)}, {len(used & ids)} of which gave the directions: raise n_prompts of exp00, or lower exp05's."
        )
    return train, test


def evaluation(known: Known, used: Sequence[str], options: Params) -> list[tuple[Prompt, dict]]:
    """Return the prompts that steered IT answers, with their records, by role; used: ids that anything was learned on."""
    return replies.held_out(
        known, lambda record: scoring.task(record).role, options.counts, without=used, seed=options.seed
    )


def read_by_both(
    pair: Pair, prompts: Sequence[Prompt], said: Sequence[Continuation], lenses: Lenses, options: Params
) -> Matched:
    """Return what both models do on IT's chat prompts and replies: `matched.matched`."""
    rows = matched_rows(pair, prompts, said)
    return matched(
        pair, rows, said, lenses, per_prompt=options.per_prompt, batch_size=options.batch_size,
        lens_rows=options.lens_rows,
    )  # fmt: skip


def mean_directions(artifact: xr.Dataset) -> dict[str, np.ndarray]:
    """Return exp05's mean IT − PT difference of each model as it runs, {space: [layer, d]}."""
    return {
        "residual": artifact["site_direction"].sel(site="residual").values,
        "mlp_output": artifact["direction"].sel(kind="mean").values,
    }


def learned(
    pair: Pair, train: Matched, test: Matched, n_test: int, artifact: xr.Dataset, options: Params
) -> xr.Dataset:
    """Return phases 1 and 2: the gap on unseen prompts, the probes and their directions."""
    draws = {"n_resamples": options.n_resamples, "confidence": options.confidence, "seed": options.seed}
    device = pair.it.unembedding.weight.device
    fitted = probes.probed(train, test, n_test, n_permuted=options.n_permuted, device=device, **draws)
    axes = probes.directions_of(fitted, train, mean_directions(artifact), pair.it.unembedding)
    gap = patching.by_prompt(test.gap[:, :-1], test.prompt, n_test)
    return fitted.drop_vars("weight").merge(axes).assign(gap=(("lens", "layer", "test_prompt"), gap))


def patch_layers(found: xr.Dataset, options: Params) -> list[int]:
    """Return the layers that are patched: of all and of the late ones, those with the best R² over left-out folds."""
    late = probes.window_layers(found.sizes["layer"] + 1)["late"]
    r2 = found["r2_cv"].sel(space="residual", lens="tuned")
    # The topmost of these layers has none above it to read.
    below = [layer for layer in late if layer < found.sizes["layer"] - 1] or late[:1]
    n = options.n_patched_layers
    return sorted({*best_of(r2, range(found.sizes["layer"] - 1), n), *best_of(r2, below, n)})


def best_of(r2: xr.DataArray, layers: Sequence[int], n: int) -> list[int]:
    """Return the n of some layers with the largest R²."""
    return sorted(layers, key=lambda layer: -float(r2.sel(layer=layer)))[:n]


def patched(
    pair: Pair,
    prompts: Sequence[Prompt],
    said: Sequence[Continuation],
    found: xr.Dataset,
    lenses: Lenses,
    options: Params,
) -> xr.Dataset:
    """Return phase 3: what patches into PT change at the first generated tokens, `patch_shift`, `patch_size`, `patch_gap`.

    prompts, said: the test prompts and IT's replies, of which some are patched. found: from `learned`.
    """
    some, layers = steered.sampled(options.n_patched_prompts, len(prompts)), patch_layers(found, options)
    chosen = [prompts[i] for i in some]
    starts = [Continuation(said[i].ids[: patching.POSITIONS + 1], said[i].stopped) for i in some]
    few = read_by_both(pair, chosen, starts, lenses, options)
    plan = patching.planned(few, found, layers, options.n_random, options.n_large, options.seed)
    rows = matched_rows(pair, chosen, starts)
    shift = patching.patched(
        pair.pt, rows, starts, few, plan, layers, lenses["pt"], batch_size=options.batch_size * 4
    )
    sizes = plan.norm(dim=-1) / plan[:, :, [1]].norm(dim=-1)
    tuned = few.gap[LENSES.index("tuned")]
    above = np.stack([tuned[layer + 1 : -1].mean(0) for layer in layers])
    size, gap = (
        patching.by_prompt(each, few.prompt, len(chosen)) for each in (sizes.permute(2, 1, 0).numpy(), above)
    )
    dims = ("condition", "patched_layer", "patched_prompt")
    return xr.Dataset(
        {
            "patch_shift": (("readout", *dims), shift.astype(np.float32)),
            "patch_size": (dims, size.astype(np.float32)), "patch_gap": (dims[1:], gap),
        },
        {
            "readout": list(patching.READ), "condition": patching.condition_names(options.n_random, options.n_large),
            "patched_layer": layers, "patched_prompt": [prompt.id for prompt in chosen],
        },
    )  # fmt: skip


def steer(pair: Pair, known: Known, found: xr.Dataset, lenses: Lenses, options: Params) -> xr.Dataset:
    """Return phase 4: what steered IT writes, and how it reads unedited IT's replies."""
    prompts = [prompt for prompt, _ in known]
    layers = probes.window_layers(pair.n_layers)["late"]
    arms, band = steered.arms(options, layers), steered.randoms(options, layers)
    along = steered.vectors(found, options, pair.n_layers)
    wrote = steering.written(
        pair, arms, prompts, along, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size * 8
    )
    said = steering.continuations(wrote, "it")
    score = steered.scored(wrote, [scoring.task(record) for _, record in known])
    some = steered.sampled(options.n_forced, len(prompts))
    rows = read_as(pair.it, [prompts[i] for i in some], "chat")
    read = steered.forced(
        pair.it, [*arms, *band], rows, [said[i] for i in some], along, lenses["it"], layers,
        batch_size=options.batch_size, lens_rows=options.lens_rows,
    )  # fmt: skip
    names = [arm.name for arm in (*arms, *band)]
    text = wrote["text"].rename(arm="shown_arm").drop_vars("prompt")
    return xr.Dataset(
        {"score": score.reindex(arm=names), "text": text, **read.data_vars},
        {"forced_prompt": [prompts[i].id for i in some], **steered.described([*arms, *band])},
    )


def assembled(parts: Sequence[xr.Dataset], known: Known, n_layers: int) -> xr.Dataset:
    """Return one dataset of all phases, with each prompt's role and message."""
    whole = xr.merge(parts, join="outer", combine_attrs="drop")
    about = {
        "role": [scoring.task(record).role for _, record in known],
        "message": [prompt.message for prompt, _ in known],
    }
    whole = whole.assign({name: ("prompt", np.array(values, dtype=object)) for name, values in about.items()})
    return whole.assign_coords(prompt=[prompt.id for prompt, _ in known]).assign_attrs(n_layers=n_layers)
