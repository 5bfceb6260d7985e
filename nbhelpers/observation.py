"""What every layer of a model says at every generated token, reduced to the numbers of the observational experiments.

`observe` replays continuations and measures each step (lens and stream geometry) without keeping logits; `summarise` turns
the steps of PT and IT into one dataset of per-prompt means, commitment layers and paired differences. Draws nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from nbhelpers import convergence, geometry, lens, stats
from nbhelpers.capture import Stream, replay
from nbhelpers.decoding import Continuation
from nbhelpers.models import Decoder
from nbhelpers.params import VARIANTS, LensParams, depth
from nbhelpers.prompts import Prompt

DIRECTIONS = ("final_layer", "layer_final")
LENS_CURVES = ("kl_final_layer", "kl_layer_final", "entropy", "kl_adjacent", "top1_agreement")
UNITS = {
    "kl_final_layer": ("nats", "KL(final ‖ layer)"),
    "kl_layer_final": ("nats", "KL(layer ‖ final)"),
    "entropy": ("nats", "entropy of the layer's lens distribution"),
    "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
    "top1_agreement": ("1", "share of steps whose top-1 token is the final layer's"),
    "kl_final_layer_first": ("nats", "KL(final ‖ layer) at the last prompt position"),
    "kl_layer_final_first": ("nats", "KL(layer ‖ final) at the last prompt position"),
    "entropy_first": ("nats", "entropy at the last prompt position"),
    "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
    "update_norm": ("1", "Euclidean norm of an update"),
    "residual_norm": ("1", "Euclidean norm of the residual stream after the layer"),
    "cosine_to_final": ("1", "cosine of the residual stream with that after the last layer"),
    "commitment": ("layers", "mean commitment layer of a prompt's steps"),
    "commitment_count": ("steps", "steps that commit at the layer, pooled over prompts"),
    "n_tokens": ("tokens", "generated tokens, the stop token included"),
    "stopped": ("1", "whether the model ended its turn before the cap"),
    "generated_id": ("1", "generated token ids, −1 after the end"),
    "text": ("1", "generated text"),
    "category": ("1", "category of the prompt"),
    "convergence_gap": ("nats", "mean over the late half of IT − PT, by prompt"),
    "convergence_gap_low": ("nats", "lower end of the interval of the convergence gap"),
    "convergence_gap_high": ("nats", "upper end of the interval of the convergence gap"),
    "convergence_gap_tokens": ("nats", "convergence gap with every step weighted equally"),
    "commitment_delay": ("layers", "IT − PT of a prompt's mean commitment layer"),
    "commitment_delay_low": ("layers", "lower end of the interval of the delay"),
    "commitment_delay_high": ("layers", "upper end of the interval of the delay"),
}


def measure_stream(stream: Stream, unembedding: lens.Unembedding, rows: int) -> xr.Dataset:
    """Return one batch's measurements: lens curves (layer, step), stream geometry (component, layer, step)."""
    curves = lens.lens_metrics(stream.residual, unembedding, rows=rows)
    top1 = curves.pop("top1")
    curves["top1_agreement"] = (top1 == top1[-1]).float()
    arrays = {name: (("layer", "step"), values) for name, values in curves.items()}
    shapes = geometry.stream_geometry(
        stream.embedding, stream.residual, stream.attention_update, stream.mlp_update
    )
    arrays |= {
        name: (("component", "layer", "step")[-values.ndim :], values) for name, values in shapes.items()
    }
    return xr.Dataset(
        {name: (dims, values.cpu().numpy()) for name, (dims, values) in arrays.items()},
        coords={"component": list(geometry.COMPONENTS)},
    )


def observe(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 32,
    lens_rows: int = 256,
) -> xr.Dataset:
    """Return every measurement at every generated token of every prompt.

    One teacher-forced pass; the model's own logits check the lens on each batch. Give another model's continuations to
    measure under a matched history.

    Returns
    -------
    dataset with dims (layer, step) or (component, layer, step), float32; coordinates `prompt_index` (step), which prompt, and
    `token` (step), which generated token the step predicts: 0 for the one after the prompt.
    """
    parts = []
    for batch, stream in replay(decoder, prompts, continuations, batch_size=batch_size):
        lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding)
        part = measure_stream(stream, decoder.unembedding, lens_rows)
        parts.append(
            part.assign_coords(prompt_index=("step", batch.row_of_step), token=("step", batch.step_of_step))
        )
    steps = xr.concat(parts, "step")
    return steps.isel(step=np.lexsort((steps.token.values, steps.prompt_index.values)))


def prompt_means(steps: xr.DataArray | xr.Dataset, n_prompts: int):
    """Return means over each prompt's steps, with dim `prompt` for `step`; NaN where a prompt has none."""
    means = steps.drop_vars("token").astype("float64").groupby("prompt_index").mean("step")
    return means.reindex(prompt_index=np.arange(n_prompts)).rename(prompt_index="prompt")


def commitment_layers(steps: xr.Dataset, options: LensParams) -> xr.DataArray:
    """Return the layer at which each step commits, by every rule, (rule, step)."""
    # A step's top-1 tokens enter as agreement with the last layer's, which is all that the rules compare.
    table = convergence.commitment_table(
        steps.top1_agreement.values.T,
        steps.kl_final_layer.values.T,
        threshold=options.kl_threshold,
        grid=options.kl_grid,
        share=options.majority_share,
        window=options.stable_window,
    )
    return xr.DataArray(
        np.stack(list(table.values())),
        dims=("rule", "step"),
        coords={"rule": list(table), "prompt_index": steps.prompt_index, "token": steps.token},
    )


def variant_summary(
    steps: xr.Dataset, continuations: Sequence[Continuation], options: LensParams
) -> xr.Dataset:
    """Return one variant's per-prompt means, commitment layers and counts.

    The measured steps predict generated tokens 2 … n, as in the study; the first, made at the last prompt position, is
    kept apart in `*_first`.
    """
    n = len(continuations)
    later, first = steps.isel(step=steps.token.values > 0), steps.isel(step=steps.token.values == 0)
    summary = prompt_means(later, n)
    for name in ("kl_final_layer", "kl_layer_final", "entropy"):
        summary[f"{name}_first"] = prompt_means(first[name], n)
    layers = commitment_layers(later, options)
    summary["commitment"] = prompt_means(layers, n)
    n_layers = steps.sizes["layer"]
    counts = np.stack([convergence.commitment_counts(row, n_layers) for row in layers.values])
    summary["commitment_count"] = (("rule", "layer"), counts)
    summary["n_tokens"] = ("prompt", [len(c.ids) for c in continuations])
    summary["stopped"] = ("prompt", [c.stopped for c in continuations])
    return summary


def convergence_gaps(summary: xr.Dataset, options: LensParams) -> xr.Dataset:
    """Return the convergence gap and the commitment delays, IT − PT, paired by prompt, with BCa intervals."""
    bootstrap = dict(n_resamples=options.n_resamples, confidence=options.confidence, seed=options.seed)
    it, pt = summary.sel(variant="it"), summary.sel(variant="pt")
    gaps = np.stack(
        [convergence.convergence_gap(it[f"kl_{d}"].values, pt[f"kl_{d}"].values) for d in DIRECTIONS], axis=1
    )
    steps = {v: summary.n_tokens.sel(variant=v).values - 1 for v in VARIANTS}
    by_token = [
        convergence.token_weighted_gap(it[f"kl_{d}"].values, pt[f"kl_{d}"].values, steps["it"], steps["pt"])
        for d in DIRECTIONS
    ]
    delays = (it.commitment - pt.commitment).transpose("prompt", "rule").values
    out = xr.Dataset(coords={"direction": list(DIRECTIONS), "rule": summary.rule})
    for name, dim, values in (("convergence_gap", "direction", gaps), ("commitment_delay", "rule", delays)):
        for suffix, bound in zip(("", "_low", "_high"), stats.bca_mean(values, **bootstrap)):
            out[name + suffix] = (dim, bound)
    out["convergence_gap_tokens"] = ("direction", by_token)
    return out


def generated_ids(continuations: Sequence[Continuation], width: int) -> np.ndarray:
    """Return generated ids [prompt, token], −1 after the end."""
    ids = np.full((len(continuations), width), -1, dtype=np.int32)
    for row, continuation in enumerate(continuations):
        ids[row, : len(continuation.ids)] = continuation.ids
    return ids


def summarise(
    steps: Mapping[str, xr.Dataset],
    continuations: Mapping[str, Sequence[Continuation]],
    prompts: Sequence[Prompt],
    tokenizer,
    options: LensParams,
) -> xr.Dataset:
    """Return exp09's dataset for one pair: what `store.SCHEMAS["exp09"]` lists, with units and names.

    Parameters
    ----------
    steps, continuations : by variant, "pt" and "it", from `observe` and `decoding.generate`
    prompts : the prompt records, in the order of the continuations
    tokenizer : turns generated ids into text
    options : thresholds and bootstrap settings
    """
    summary = xr.concat([variant_summary(steps[v], continuations[v], options) for v in VARIANTS], "variant")
    summary = summary.assign_coords(variant=list(VARIANTS))
    summary = summary.merge(convergence_gaps(summary, options))
    lensed = [
        *LENS_CURVES,
        *(f"{name}_first" for name in ("kl_final_layer", "kl_layer_final", "entropy")),
        "commitment",
        "commitment_count",
        *(name for name in summary if name.startswith(("convergence_gap", "commitment_delay"))),
    ]
    summary = summary.assign({name: summary[name].expand_dims(lens=["raw"]) for name in lensed})
    width = max(len(c.ids) for made in continuations.values() for c in made)
    summary["generated_id"] = (
        ("variant", "prompt", "token"),
        np.stack([generated_ids(continuations[v], width) for v in VARIANTS]),
    )
    texts = [[tokenizer.decode(c.ids, skip_special_tokens=True) for c in continuations[v]] for v in VARIANTS]
    summary["text"] = (("variant", "prompt"), np.array(texts, dtype=object))
    summary["category"] = ("prompt", [prompt.category for prompt in prompts])
    n_layers = summary.sizes["layer"]
    summary = summary.assign_coords(
        prompt=[prompt.id for prompt in prompts],
        layer=np.arange(n_layers),
        depth=("layer", depth(n_layers)),
        token=np.arange(width),
    )
    for name, (units, long_name) in UNITS.items():
        summary[name].attrs = {"units": units, "long_name": long_name}
    return summary


def device_name(decoder: Decoder) -> str:
    """Return the name of the device that a model runs on, for provenance."""
    device = decoder.module.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
