"""exp02: layer profiles by kind of prompt and by template, and a permutation test of the kinds.

Each of three conditions generates its own continuation of every prompt: PT on plain text, IT in its chat template, IT
on plain text.
The null hypothesis is that in-context, out-of-context and reasoning prompts have the same profile over layers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from nbhelpers.core import stats
from nbhelpers.core.depths import depth
from nbhelpers.core.params import ParameterError
from nbhelpers.core.store import joined
from nbhelpers.experiments.exp02_prompt_kinds.experiment import Params
from nbhelpers.measures import delta_cosine, lens
from nbhelpers.models import forward, generation
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import narrow
from nbhelpers.models.prompts import Prompt, load_prompts, read_as

CONDITIONS = {"PT": ("pt", "raw"), "IT": ("it", "chat"), "IT without template": ("it", "raw")}
KINDS = ("IC", "OOC", "R")
TITLES = {"IC": "in context", "OOC": "out of context", "R": "reasoning"}
PARTS = ("first third", "second third", "last third")
MEASURES = ("delta_cosine", "update_norm", "entropy", "kl_final_layer")


def measure(decoder: Decoder, ids, made, *, batch_size: int, **tiles) -> xr.Dataset:
    """Return per-step measurements of one condition, dims ([component,] layer, step), raw lens only.

    tiles: `rows` and `compile` of the lens.
    """

    def read(batch, stream):
        lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding)
        found = lens.lens_metrics(
            stream.residual, decoder.unembedding, metrics=("entropy", "kl_final_layer"), **tiles
        )
        found |= delta_cosine.stream_geometry(
            stream.embedding, stream.residual, stream.attention_update, stream.mlp_update
        )
        dims = {name: ("component", "layer", "step")[-values.ndim :] for name, values in found.items()}
        part = xr.Dataset({name: (dims[name], narrow(values)) for name, values in found.items()})
        lengths = np.array([len(made[i].ids) for i in batch.rows])
        third = batch.step_of_step * len(PARTS) // np.repeat(lengths, lengths)
        coords = {"prompt_index": batch.row_of_step, "part": third}
        part["near_tie"] = "step", ties(decoder, stream, batch.targets, **tiles)
        return part.assign_coords({name: ("step", values) for name, values in coords.items()})

    parts = forward.replay(decoder, ids, made, batch_size=batch_size, read=read)
    return xr.concat(list(parts), "step").assign_coords(component=list(delta_cosine.COMPONENTS))


def ties(decoder: Decoder, stream: forward.Stream, generated: Tensor, **tiles) -> np.ndarray:
    """Return `lens.greedy_ties` of one batch of the model's own text, bool [step]; generated: its ids [step]."""
    names = ("top1", "top1_probability", "target_log_probability")
    end = lens.lens_metrics(
        stream.residual[-1:], decoder.unembedding, metrics=names, targets=generated, **tiles
    )
    top1, best, own = (end[name][0].cpu().numpy() for name in names)
    gap = np.log(best) - own
    return lens.greedy_ties(top1, generated.numpy(), gap, decoder.module.dtype, decoder.name)


def means(steps: xr.Dataset, n_prompts: int) -> xr.Dataset:
    """Return per-prompt means over steps, (prompt, …), and means of the block's δ-cosine over each third of the text."""
    found = {}
    for name in (*MEASURES, "residual_norm"):
        values = stats.prompt_means(steps[name].values, steps.prompt_index.values, n_prompts)
        found[name] = (("prompt", *steps[name].dims[:-1]), values)
    block = steps.delta_cosine.sel(component="block").values
    parts = [
        stats.prompt_means(
            np.where(steps.part.values == i, block, np.nan), steps.prompt_index.values, n_prompts
        )
        for i in range(len(PARTS))
    ]
    tied = steps.prompt_index.values[steps.near_tie.values]
    found["near_ties"] = ("prompt", np.bincount(tied, minlength=n_prompts))
    found["delta_cosine_by_part"] = (("part", "prompt", "layer"), np.stack(parts))
    coords = {"component": list(delta_cosine.COMPONENTS), "part": list(PARTS)}
    return xr.Dataset(found, coords=coords)


def chosen_prompts(options: Params) -> list[Prompt]:
    """Return the run's prompts; ParameterError if one of `KINDS` has fewer than two, which no test of kinds can use."""
    chosen = load_prompts(options.prompts, options.n_prompts, options.seed)
    for kind in KINDS:
        if (n := sum(prompt.category == kind for prompt in chosen)) < 2:
            raise ParameterError(
                f"n_prompts = {len(chosen)}: {n} of the prompts are of the category {kind!r}; exp02 needs two of each of "
                f"{', '.join(KINDS)}"
            )
    return chosen


def observe_condition(
    pair: Pair, name: str, prompts: Sequence[Prompt], options: Params, *, lens_compile: bool = False
) -> xr.Dataset:
    """Return one condition's per-prompt profiles, after generating its own continuations."""
    variant, template = CONDITIONS[name]
    decoder = getattr(pair, variant)
    ids = read_as(decoder, prompts, template, new_tokens=options.max_new_tokens)
    sizes = dict(batch_size=options.batch_size)
    made = generation.generate(decoder, ids, max_new_tokens=options.max_new_tokens, **sizes)
    tiles = dict(rows=options.lens_rows, compile=lens_compile)
    found = means(measure(decoder, ids, made, **sizes, **tiles), len(prompts))
    texts = [decoder.tokenizer.decode(c.ids, skip_special_tokens=True) for c in made]
    found["n_tokens"] = ("prompt", [len(c.ids) for c in made])
    return found.assign(text=("prompt", np.array(texts, dtype=object)))


def f_statistics(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the one-way F statistic of groups, [draw, layer].

    values: [prompt, layer]. groups: [draw, prompt], codes 0 … k − 1, with the same group sizes in every draw. F is
    infinite if groups differ and nothing varies within them.
    """
    k, n = groups.max() + 1, len(values)
    member = groups[:, None, :] == np.arange(k)[:, None]
    sizes = member.sum(-1, keepdims=True)
    centred = values - values.mean(0)
    group_means = member @ centred / sizes
    between = (sizes * group_means**2).sum(1) / (k - 1)
    total = (centred**2).sum(0)
    within = np.maximum(total - between * (k - 1), 0) / (n - k)
    return np.divide(
        between, within, out=np.full(between.shape, np.inf), where=within > 1e-12 * np.maximum(total, 1e-30)
    )


def permuted(labels: np.ndarray, strata: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return n random permutations of labels within strata, [draw, prompt]."""
    rng, drawn = np.random.default_rng(seed), np.tile(labels, (n, 1))
    for stratum in np.unique(strata):
        at = np.flatnonzero(strata == stratum)
        drawn[:, at] = rng.permuted(drawn[:, at], axis=1)
    return drawn


def kinds_test(values: np.ndarray, kinds, forms, *, n: int, seed: int) -> tuple[np.ndarray, float]:
    """Return each layer's F of the kinds, [layer], and the p-value of the largest F, valid for all layers at once.

    values: [prompt, layer]; a layer with a NaN, or where nothing varies, is left out (F is NaN). Kinds are permuted
    within forms, so that a difference between stubs and questions has no effect.
    """
    codes = np.unique(np.asarray(kinds), return_inverse=True)[1]
    kept = np.isfinite(values).all(0) & (np.ptp(np.nan_to_num(values), axis=0) > 0)
    found = np.full(values.shape[1], np.nan)
    found[kept] = f_statistics(values[:, kept], codes[None])[0]
    null = f_statistics(values[:, kept], permuted(codes, np.asarray(forms), n, seed)).max(-1)
    return found, float((1 + (null >= found[kept].max() - 1e-12).sum()) / (n + 1))


def tests(profiles: xr.Dataset, options: Params) -> xr.Dataset:
    """Return the test of the kinds: `f_statistic` (condition, measure, layer) and `p_layers` (condition, measure)."""
    size, rows = dict(n=options.n_permutations, seed=options.seed), []
    for condition in profiles.condition.values:
        one = profiles.sel(condition=condition)
        blocks = [one[m].sel(component="block") if "component" in one[m].dims else one[m] for m in MEASURES]
        curves = [block.transpose("prompt", "layer").values for block in blocks]
        rows.append(
            [kinds_test(curve, profiles.category.values, profiles.form.values, **size) for curve in curves]
        )
    statistic = np.array([[found[0] for found in row] for row in rows])
    p = np.array([[found[1] for found in row] for row in rows])
    return xr.Dataset(
        {
            "f_statistic": (("condition", "measure", "layer"), statistic),
            "p_layers": (("condition", "measure"), p),
        },
        coords={"measure": list(MEASURES)},
    )


def form_of(prompt: Prompt) -> str:
    """Return "question" for a prompt that ends with "Answer:", "stub" for one to complete."""
    return "question" if prompt.text.rstrip().endswith("Answer:") else "stub"


def assembled(parts: Mapping[str, xr.Dataset], prompts: Sequence[Prompt]) -> xr.Dataset:
    """Return the profiles of all conditions as one dataset, with the prompts' kinds and forms and the template's shift."""
    found = xr.concat(parts.values(), "condition").assign_coords(condition=list(parts))
    texts = {"category": [p.category for p in prompts], "form": [form_of(p) for p in prompts]}
    found = found.assign({name: ("prompt", np.array(values, dtype=object)) for name, values in texts.items()})
    n_layers = found.sizes["layer"]
    coords = {"layer": np.arange(n_layers), "depth": ("layer", depth(n_layers))}
    found = found.assign_coords(coords | {"prompt": [prompt.id for prompt in prompts]})
    block = found.delta_cosine.sel(component="block", drop=True)
    with_, without = (block.sel(condition=name, drop=True) for name in ("IT", "IT without template"))
    return found.assign(template_shift=with_ - without)


def summarise(pair: Pair, prompts: Sequence[Prompt], options: Params) -> xr.Dataset:
    """Return exp02's dataset for one pair, without weight change: profiles by condition and prompt, tests of the kinds."""
    profiles = assembled({c: observe_condition(pair, c, prompts, options) for c in CONDITIONS}, prompts)
    return joined(profiles, tests(profiles, options))
