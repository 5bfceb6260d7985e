"""exp00: measurements of every layer of a pair at every generated token, made once for all observational experiments.

Both models read both histories: the tokens that PT wrote and the tokens that IT wrote. Each model reads them after its
own native prompt. This is a two-by-two design whose diagonal is free running. Every step is read through the raw and the
tuned lens of its own model and of the other model, and reduced to a few numbers; neither logits nor residuals are kept.
Experiments interpret them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers.core import blocks
from nbhelpers.core.depths import depth
from nbhelpers.core.params import VARIANTS, LackingError, ModelParams, ParameterError
from nbhelpers.core.schemas import PromptSet
from nbhelpers.core.unmeasured import joint, noted
from nbhelpers.experiments.exp00_observations.experiment import FEWEST, HISTORIES, Params, step_bytes
from nbhelpers.measures import (
    delta_cosine,
    lens,
    lens_tiles,
    neurons,
    prompt_end,
    tuned_lens,
    weight_change,
)
from nbhelpers.measures.steps import LENSES
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import Batch, Stream, narrow, replay
from nbhelpers.models.generation import Continuation, generate
from nbhelpers.models.prompts import Prompt, load_prompts, read_as
from nbhelpers.models.token_classes import token_classes
from nbhelpers.models.unembedding import Unembedding

KL = ("kl_final_layer", "kl_layer_final")
CURVES = (*lens.METRICS, "top1_probability", "target_log_probability", "target_rank", "top5")


@dataclass(frozen=True)
class Reader:
    """One model's raw and tuned lens: its unembedding with the final norm, and its tuned lens."""

    unembedding: Unembedding
    tuned: tuned_lens.TunedLens

    def __call__(self, residual: Sequence[Tensor], **options) -> dict[str, dict[str, Tensor]]:
        """Return the metrics of both lenses, {lens: {metric: [layer, token]}}."""
        return {
            "raw": lens.lens_metrics(residual, self.unembedding, **options),
            "tuned": tuned_lens.metrics(residual, self.unembedding, self.tuned, **options),
        }


def lens_arrays(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return one lens's metrics with its five best tokens reduced to turnover and candidates_final, [layer, token]."""
    top5 = found.pop("top5")
    turnover = torch.full(top5.shape[:-1], torch.nan, device=top5.device)
    turnover[1:] = lens_tiles.jaccard(top5[1:], top5[:-1])
    return found | {"turnover": turnover, "candidates_final": lens_tiles.jaccard(top5, top5[-1:])}


def measure(stream: Stream, batch: Batch, own: Reader, other: Reader, **tiles) -> xr.Dataset:
    """Return one batch's measurements: lens metrics (lens, layer, step) and geometry ([component,] layer, step).

    tiles: `rows` and `compile` of the lens.
    """
    targets = batch.targets.to(own.unembedding.weight.device)
    read = own(stream.residual, metrics=CURVES, targets=targets, **tiles)
    read = {name: lens_arrays(found) for name, found in read.items()}
    cross = other(stream.residual, metrics=KL, **tiles)
    arrays = {name: torch.stack([read[key][name] for key in LENSES]) for name in read["raw"]}
    arrays |= {f"{name}_cross": torch.stack([cross[key][name] for key in LENSES]) for name in KL}
    dims = {name: ("lens", "layer", "step") for name in arrays}
    shapes = delta_cosine.stream_geometry(
        stream.embedding, stream.residual, stream.attention_update, stream.mlp_update
    )
    dims |= {name: ("component", "layer", "step")[-values.ndim :] for name, values in shapes.items()}
    return xr.Dataset(
        {name: (dims[name], narrow(values)) for name, values in (arrays | shapes).items()},
        coords={"lens": list(LENSES), "component": list(delta_cosine.COMPONENTS)},
    )


def observe(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    *,
    own: Reader,
    other: Reader,
    batch_size: int = 32,
    lens_rows: int = 256,
    lens_compile: bool = False,
    with_neurons: bool = False,
) -> xr.Dataset:
    """Return every measurement at every step of every prompt, from one forward over forced tokens.

    Dims are (lens, layer, step) or ([component,] layer, step), with 32 bits per entry. Coordinates: `prompt_index` (step),
    the index of the prompt; `token` (step), the index of the generated token that the step predicts, 0 for the first one.

    The lens is checked against the model's own logits on each batch. For a matched history, pass the other model's
    continuations. `with_neurons` is for the model's own history: it adds `near_tie` (step), see `lens.greedy_ties`, and
    `neuron_mass` (layer, neuron), summed over steps; NaN, and noted, if the model's MLPs have no neurons that are known.
    """

    def read(batch, stream):
        lens.check_identity(stream.last_residual, stream.last_logits, own.unembedding)
        part = measure(stream, batch, own, other, rows=lens_rows, compile=lens_compile)
        mass = masses_of(decoder, stream) if with_neurons else None
        part["token_id"] = ("step", narrow(batch.targets))
        if with_neurons:
            part["near_tie"] = ("step", ties(decoder, part))
        at = {"prompt_index": ("step", batch.row_of_step), "token": ("step", batch.step_of_step)}
        return part.assign_coords(at), mass

    parts, masses = zip(*replay(decoder, prompts, continuations, batch_size=batch_size, read=read))
    steps = xr.concat(parts, "step")
    steps = steps.isel(step=np.lexsort((steps.token.values, steps.prompt_index.values)))
    if unknown := next((mass for mass in masses if isinstance(mass, LackingError)), None):
        nothing = xr.DataArray(np.full((decoder.n_layers, 1), np.nan), dims=("layer", "neuron"))
        return noted(steps.assign(neuron_mass=nothing), "neurons", unknown)
    return steps.assign(neuron_mass=sum(masses)) if with_neurons else steps


def masses_of(decoder: Decoder, stream: Stream) -> xr.DataArray | LackingError:
    """Return `neurons.neuron_mass` of one batch, or why there is none."""
    try:
        return neurons.neuron_mass(neurons.neuron_layers(decoder, stream))
    except LackingError as error:
        return error


def ties(decoder: Decoder, part: xr.Dataset) -> np.ndarray:
    """Return `lens.greedy_ties` of one batch's measurements on the model's own history, bool [step]."""
    end = (
        part[["top1", "top1_probability", "target_log_probability"]].sel(lens="raw", drop=True).isel(layer=-1)
    )
    gap = np.log(end.top1_probability.values) - end.target_log_probability.values
    return lens.greedy_ties(end.top1.values, part.token_id.values, gap, decoder.module.dtype, decoder.name)


def near_ties(steps: xr.Dataset, n_prompts: int) -> np.ndarray:
    """Return how many of a prompt's steps on the model's own history are near-ties, int32 [prompt]."""
    counts = np.bincount(steps.prompt_index.values[steps.near_tie.values], minlength=n_prompts)
    return counts.astype(np.int32)


def cloud_prompts(pair: Pair, source: str | PromptSet, options: Params) -> list[Prompt]:
    """Return the prompts of the clouds; ParameterError, before any forward, if too few of their texts differ for a cloud."""
    chosen = load_prompts(source, options.n_cloud_prompts, options.seed)
    for template in prompt_end.TEMPLATES:
        for decoder in pair:
            n = len(set(map(tuple, read_as(decoder, chosen, template))))
            if n < FEWEST:
                raise ParameterError(
                    f"n_cloud_prompts = {len(chosen)}: only {n} of the {template} texts that {decoder.variant.upper()} of "
                    f"{pair.key} reads differ, and a cloud needs {FEWEST}; name prompts with more texts in the profile"
                )
    return chosen


def observe_pair(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    continuations: Mapping[str, Sequence[Continuation]],
    lenses: Mapping[str, tuned_lens.TunedLens],
    *,
    batch_size: int = 32,
    lens_rows: int = 256,
    lens_compile: bool = False,
) -> xr.Dataset:
    """Return both models' measurements on both histories, dims (variant, lens, layer, step) or as in `observe`.

    prompts, continuations, lenses: by variant, "pt" and "it". Coordinate `history` (step): the variant that wrote the
    tokens.
    """
    decoders = dict(zip(VARIANTS, pair))
    readers = {name: Reader(decoders[name].unembedding, lenses[name]) for name in VARIANTS}
    found = {
        (v, history): observe(
            decoders[v], prompts[v], continuations[history], own=readers[v], other=readers[o],
            batch_size=batch_size, lens_rows=lens_rows, lens_compile=lens_compile, with_neurons=v == history,
        )
        for history in VARIANTS
        for v, o in zip(VARIANTS, reversed(VARIANTS))
    }  # fmt: skip
    masses, lacking = [found[v, v].neuron_mass for v in VARIANTS], joint(found.values())
    tied = [near_ties(found[v, v], len(continuations[v])) for v in VARIANTS]
    histories = []
    for history in VARIANTS:
        both = [found[v, history].drop_vars(["neuron_mass", "near_tie"], errors="ignore") for v in VARIANTS]
        measured = [name for name in both[0].data_vars if name != "token_id"]
        steps = xr.concat(
            both, "variant", data_vars=measured, coords="minimal", compat="equals", join="exact"
        )
        histories.append(steps.assign_coords(history=("step", [history] * steps.sizes["step"])))
    steps = xr.concat(histories, "step", data_vars="minimal").assign_coords(variant=list(VARIANTS))
    return steps.assign(
        neuron_mass=xr.concat(masses, "variant"), near_ties=(("variant", "prompt"), np.array(tied))
    ).assign_attrs(lacking)


def block_spans(n_layers: int, n_prompts: int, options: Params) -> list[range]:
    """Return the prompts of each block that is generated, measured and written at once."""
    a_prompt = HISTORIES * options.max_new_tokens * step_bytes(n_layers)
    return blocks.spans(n_prompts, a_prompt, options.batch_size)


def block(
    pair: Pair,
    prompts: Sequence[Prompt],
    ids: Mapping[str, Sequence[Sequence[int]]],
    lenses: Mapping[str, tuned_lens.TunedLens],
    part: range,
    options: Params,
    **lens_options,
) -> xr.Dataset:
    """Return what both models write to the prompts of one block, and every measurement of both texts by both models.

    prompts, ids: of all blocks; ids by variant, as each model reads them. part: the indices of the block's prompts.
    lens_options: `lens_compile`.
    """
    some = {v: [ids[v][i] for i in part] for v in VARIANTS}
    sizes = dict(batch_size=options.batch_size)
    made = {
        d.variant: generate(d, some[d.variant], max_new_tokens=options.max_new_tokens, **sizes) for d in pair
    }
    steps = observe_pair(pair, some, made, lenses, lens_rows=options.lens_rows, **sizes, **lens_options)
    steps = blocks.rounded(steps, options.kept_bits)
    found = with_texts(steps, made, [prompts[i] for i in part], pair.it.tokenizer)
    return found.assign_coords(prompt_index=found.prompt_index + np.int64(part.start))


def weights_moved(model: ModelParams, n_layers: int) -> xr.Dataset:
    """Return a pair's weight change, named as in exp00's dataset; NaN, and noted, if its tensors cannot be compared."""
    folders = [weight_change.checkpoint_folder(getattr(model, v), model.key) for v in VARIANTS]
    try:
        found = weight_change.weight_change(*folders)
    except ParameterError as error:
        found = noted(weight_change.nothing(n_layers), "weights", f"{model.key}: {error}")
    return found.rename(rms="weight_rms", relative="weight_relative", n_parameters="weight_count")


def with_texts(
    steps: xr.Dataset,
    continuations: Mapping[str, Sequence[Continuation]],
    prompts: Sequence[Prompt],
    tokenizer,
) -> xr.Dataset:
    """Return the measurements with messages, categories, generated texts and lengths, token classes and coordinates."""
    made = [continuations[name] for name in VARIANTS]
    per_prompt = {
        "n_tokens": [[len(c.ids) for c in rows] for rows in made],
        "stopped": [[c.stopped for c in rows] for rows in made],
        "text": [[tokenizer.decode(c.ids, skip_special_tokens=True) for c in rows] for rows in made],
    }
    found = steps.assign({name: (("variant", "prompt"), np.array(rows)) for name, rows in per_prompt.items()})
    # Steps are ordered by history, then by prompt; each text is complete.
    kinds = [token_classes(tokenizer, c.ids) for rows in made for c in rows if c.ids]
    found["token_class"] = ("step", np.concatenate(kinds))
    for name in ("category", "message"):
        found[name] = ("prompt", np.array([getattr(prompt, name) for prompt in prompts], dtype=object))
    n_layers = found.sizes["layer"]
    found = found.assign_coords(
        prompt=[prompt.id for prompt in prompts], layer=np.arange(n_layers), depth=("layer", depth(n_layers))
    )
    return found
