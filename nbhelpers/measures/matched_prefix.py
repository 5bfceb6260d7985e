"""Matched prefix: hybrids of a pair forced through the same tokens, read layer by layer beside host and teacher.

One model, the teacher, has written a reply; every condition reads exactly those tokens. Conditions differ only in the
MLPs of some layers, so these explain what differs in their read-outs. Each condition is one teacher-forced batched
forward, resumed from its baseline's where it starts to differ.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers import progress
from nbhelpers.core import depths
from nbhelpers.core.params import NATIVE
from nbhelpers.measures import delta_cosine, graft_shifts, tuned_lens, update_directions
from nbhelpers.measures.forced_tokens import check_same_ids, matched_batch, matched_order, shape_of, streams
from nbhelpers.measures.graft_shifts import GRID, by_prompt
from nbhelpers.measures.lens_conditions import cells_for, compare
from nbhelpers.models.conditions import OTHER, TEACHER, Condition
from nbhelpers.models.decoder import Pair
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.forward import narrow
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, check_fit, render
from nbhelpers.models.token_classes import token_classes

LENSES = ("raw", "tuned")
READ_DIMS = ("lens", "basis", "condition", "layer", "step")
DESCRIBED = ("host", "prompt_format", "baseline", "window", "control")


def translated(
    stacks: Sequence[Sequence[Tensor]], tuned: tuned_lens.TunedLens, layers: Sequence[int]
) -> list[list[Tensor]]:
    """Return stacks of residuals [stack][layer][token, d], those of `layers` in their order, translated.

    A residual that stacks share stays one tensor.
    """
    seen = {}

    def moved(layer, h):
        if (layer, id(h)) not in seen:
            seen[layer, id(h)] = tuned_lens.translate_layer(tuned, layer, h)
        return seen[layer, id(h)]

    return [[moved(layer, h) for layer, h in zip(layers, stack, strict=True)] for stack in stacks]


def read_bases(
    pair: Pair,
    conditions: Sequence[Condition],
    residuals: Mapping[str, Sequence[Tensor]],
    targets: Tensor,
    lenses: Mapping[str, tuned_lens.TunedLens] | None,
    bases: Sequence[str],
    **options,
) -> dict[str, Tensor]:
    """Return {read-out: [lens, basis, condition, layer, token]}; options and read-outs are those of `compare`.

    residuals: of each condition, at `layers` alone. basis: "host" reads each condition through its own model's lens, "pt"
    or "it" all through that model's; what two bases share is read once. lenses: tuned lens by variant; None for the raw
    lens alone. `teacher` is a condition's name here, and so are the conditions of `candidates`.
    """
    names, out, layers = [condition.name for condition in conditions], None, options.pop("layers")
    teacher, (closely, near) = (
        names.index(options.pop("teacher")),
        options.pop("candidates", None) or ((), ()),
    )
    near = [at for at, layer in enumerate(layers) if layer in near]
    for reader in OTHER:
        through = {i for i, c in enumerate(conditions) if reader in bases or c.host == reader}
        members = sorted(through | {teacher})
        place = {i: at for at, i in enumerate(members)}
        based = [place[names.index(conditions[i].baseline)] for i in members]
        candidates = ([place[i] for i in members if names[i] in closely], near) if closely else None
        stacks = [[residuals[names[i]] for i in members]]
        stacks += [translated(stacks[0], lenses[reader], layers)] if lenses else []
        for k, stack in enumerate(stacks):
            found = compare(stack, getattr(pair, reader).unembedding, targets, teacher=place[teacher],
                            baseline=based, candidates=candidates, **options)  # fmt: skip
            shape = len(stacks), len(bases), len(conditions)
            out = out or {name: values.new_empty(*shape, *values.shape[1:]) for name, values in found.items()}
            for b, basis in enumerate(bases):
                mine = [i for i in members if reader == (conditions[i].host if basis == "host" else basis)]
                for name, values in found.items():
                    out[name][k, b, mine] = values[[place[i] for i in mine]].to(out[name].device)
    return out


def measure(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    continuations: Sequence[Continuation],
    conditions: Sequence[Condition],
    *,
    lenses: Mapping[str, tuned_lens.TunedLens] | None = None,
    teacher: str = "it",
    shared: Sequence[str] = ("pt",),
    layers: Sequence[int] | None = None,
    projected: Sequence[str] = (),
    batch_size: int = 8,
    cells: int | None = None,
    seed: int = 0,
) -> Iterator[xr.Dataset]:
    """Yield every read-out at every step, batch by batch of whole replies; `by_prompt` and `support` reduce them.

    prompts: ids of each prompt, "raw" and "chat". continuations: the teacher's replies, whose tokens all conditions
    read. conditions: see `study_conditions`; the teacher's own, C or A', and every baseline must be among them. lenses:
    tuned lens by variant; None leaves only the raw lens. teacher: "it" or "pt". shared: variants whose lens reads all
    conditions, beside each host's own. layers: those to read; the last always is. projected: conditions whose MLP
    updates `update_directions.projections` measures in the final fifth, and whose best tokens are set beside the
    baseline's there. cells: logits held at once (None: `cells_for`). seed: of random controls.

    Dims: `READOUTS` (lens, basis, condition, layer, step); `delta_cosine`, `update_norm` (component, condition, layer,
    step); `residual_cosine_teacher`, `residual_distance_teacher` (condition, layer, step); `nll`, `free_top1`
    (condition, step); `token_id`, `token_class` (step); and of what is projected `effect`, `projection`, `cosine` (axis,
    condition, layer, step) and `candidate_overlap` (lens, basis, condition, layer, step). InterventionError for a
    condition that is missing, TokenizerError for an id of two meanings.
    """
    layers = sorted({*(range(pair.n_layers) if layers is None else layers), pair.n_layers - 1})
    cells = cells or min(cells_for(decoder.home) for decoder in pair)
    options, bases = {"teacher": TEACHER[teacher], "layers": layers, "cells": cells}, ("host", *shared)
    candidates = (projected, depths.final_fifth(pair.n_layers))
    _check(pair, prompts, continuations, conditions, [options["teacher"], *projected])

    def read(chosen):
        batch = matched_batch(chosen, prompts, continuations, pair.pt.pad_id)
        made = _made(pair, batch, conditions, projected, seed, options)
        targets, residuals = batch["raw"].targets, made.pop("residual")
        values = read_bases(
            pair, conditions, residuals, targets, lenses, bases, candidates=candidates, **options
        )
        found = xr.Dataset({name: (READ_DIMS, narrow(value)) for name, value in values.items()} | made)
        last = found.isel(layer=-1, lens=0, basis=0, drop=True)
        found["nll"], found["free_top1"] = -last.target_log_probability, last.top1
        return _labelled(found, pair, batch["raw"], continuations, conditions, bases, layers)

    order, what = (
        matched_order(prompts, continuations),
        f"{pair.key} matched prefix, {len(conditions)} conditions",
    )
    for _, found in progress(in_batches(order, batch_size, read, what), "matched prefix"):
        yield found


def _check(pair, prompts, continuations, conditions, wanted):
    names = [condition.name for condition in conditions]
    needed = [*wanted, *(condition.baseline for condition in conditions)]
    missing = [name for name in needed if name not in names]
    if missing or len(set(names)) < len(names):
        what = f"{missing[0]!r} is missing" if missing else "a name occurs twice"
        raise InterventionError(f"Conditions {', '.join(names)}: {what}; each must be given once.")
    crossed = {c.prompt_format for c in conditions if c.prompt_format != NATIVE[c.host]}
    used = [c.ids for c in continuations] + [row for name in crossed for row in prompts[name]]
    check_same_ids(pair.pt.tokenizer, pair.it.tokenizer, used)


def _made(pair, batch, conditions, projected, seed, options):
    """{name: (dims, array)} of what needs no lens, and "residual" {condition: [layer][token, d]} at the layers to read."""
    residual, shapes, pushes, layers = {}, {}, {}, options["layers"]
    for condition, stream in streams(pair, batch, conditions, seed):
        residual[condition.name] = [stream.residual[layer] for layer in layers]
        shapes[condition.name] = shape_of(stream)
        if condition.name in projected:
            unembedding = getattr(pair, condition.host).unembedding
            rows = unembedding.rows(batch["raw"].targets)
            pushes[condition.name] = _late_projections(stream, unembedding, rows, pair.n_layers, options)
    names = [condition.name for condition in conditions]
    made = {"residual": residual} | _beside_teacher(residual, names, options)
    for name in ("delta_cosine", "update_norm"):
        values = [narrow(shapes[each][name][:, layers]) for each in names]
        made[name] = ("component", *READ_DIMS[2:]), np.stack(values, axis=1)
    for name in graft_shifts.PROJECTIONS if pushes else ():
        nothing = torch.full_like(pushes[projected[0]][name], torch.nan)
        values = [narrow(pushes[each][name] if each in pushes else nothing) for each in names]
        made[name] = ("axis", *READ_DIMS[2:]), np.stack(values, axis=1)
    return made


def _late_projections(stream, unembedding, rows, n_layers, options):
    """{name: [axis, layer, token]} of `update_directions.projections`, NaN outside the final fifth."""
    layers = options["layers"]
    late = [layer for layer in depths.final_fifth(n_layers) if layer in layers]
    found = update_directions.projections(stream.residual, stream.mlp_update, unembedding, rows,
                                layers=late, cells=options["cells"])  # fmt: skip
    out = {}
    for name, values in found.items():
        out[name] = values.new_full((len(values), len(layers), values.shape[-1]), torch.nan)
        out[name][:, [layers.index(layer) for layer in late]] = values
    return out


def _beside_teacher(residual, names, options):
    """Cosine and relative distance of each condition's residual to the teacher's same layer."""
    made, teacher = {}, residual[options["teacher"]]
    for name, measured in (("cosine", delta_cosine.cosine), ("distance", _distance)):
        values = [
            narrow(torch.stack([measured(h, of.to(h.device)) for h, of in zip(residual[each], teacher)]))
            for each in names
        ]
        made[f"residual_{name}_teacher"] = READ_DIMS[2:], np.stack(values)
    return made


def _distance(h, reference):
    return (h.float() - reference.float()).norm(dim=-1) / reference.float().norm(dim=-1)


def _labelled(found, pair, batch, continuations, conditions, bases, layers):
    """One batch's dataset with its coordinates, token ids and classes."""
    tokenizer = pair.it.tokenizer
    kinds = [token_classes(tokenizer, continuations[row].ids) for row in batch.rows]
    found["token_id"] = "step", narrow(batch.targets)
    found["token_class"] = "step", np.concatenate(kinds)
    of = {name: ("condition", [getattr(c, name) for c in conditions]) for name in DESCRIBED}
    ends = {"first_layer": [min(c.layers, default=-1) for c in conditions],
            "last_layer": [max(c.layers, default=-1) for c in conditions]}  # fmt: skip
    of |= {name: ("condition", values) for name, values in ends.items()}
    dims = {"lens": list(LENSES)[: found.sizes["lens"]], "basis": list(bases), "layer": layers,
            "component": list(delta_cosine.COMPONENTS), "condition": [c.name for c in conditions]}  # fmt: skip
    if "axis" in found.sizes:
        dims["axis"] = list(graft_shifts.AXES)
    steps = {"prompt_index": ("step", batch.row_of_step), "token": ("step", batch.step_of_step)}
    depth = {"depth": ("layer", depths.depth(pair.n_layers)[layers])}
    found = found.assign_coords(dims | of | steps | depth).assign_attrs(n_layers=pair.n_layers)
    return found


STEPWISE = ("top1", "target_rank", "target_log_probability", "kl_layer_final", "entropy", "candidate_overlap",
            "delta_cosine", "update_norm", *graft_shifts.PROJECTIONS, "token_id", "token_class")  # fmt: skip


def matched_prefix(
    pair: Pair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Continuation],
    conditions: Sequence[Condition],
    *,
    grid: Sequence[float] = GRID,
    **options,
) -> xr.Dataset:
    """Return the per-prompt dataset of one pair and one teacher: `by_prompt` of all that `measure` yields.

    PT hosts read each prompt's text, IT hosts (and the template branch) its chat turn. grid: thresholds of the
    commitment layers, nats. options: those of `measure`.
    """
    return with_steps(pair, prompts, continuations, conditions, stepwise=(), grid=grid, **options)[0]


def with_steps(
    pair: Pair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Continuation],
    conditions: Sequence[Condition],
    *,
    stepwise: Sequence[str],
    grid: Sequence[float] = GRID,
    **options,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return what `matched_prefix` returns, and the steps of the same pass that later experiments read.

    The steps: `STEPWISE` of the conditions named in `stepwise` and their baselines, through the host's own lens (basis
    "host"), in the order of the prompts; `prompt_index` counts these. 24 bytes a lens, condition, layer and step, and 60
    for geometry. InterventionError for a name that is not among the conditions.
    """
    wanted = {*stepwise, *(c.baseline for c in conditions if c.name in stepwise)}
    if missing := sorted(wanted - {c.name for c in conditions}):
        raise InterventionError(f"Steps of {missing[0]!r} are asked for, but it is not among the conditions.")
    chosen = [c.name for c in conditions if c.name in wanted]
    rows = {"raw": render(pair.pt, prompts), "chat": render(pair.it, prompts)}
    longest = max((len(c.ids) for c in continuations), default=0)
    for decoder in pair:
        check_fit(decoder, prompts, rows["chat"], longest)
    parts, kept = [], []
    for steps in measure(pair, rows, continuations, conditions, **options):
        parts.append(by_prompt(steps, grid))
        names = [name for name in STEPWISE if name in steps]
        kept.append(steps[names].sel(condition=chosen, basis=["host"]))
    found = xr.concat(parts, "prompt", data_vars="minimal").sortby("prompt")
    found = found.assign_coords(prompt=[prompts[i].id for i in found.prompt.values])
    steps = xr.concat(kept, "step", data_vars="minimal", coords="minimal", compat="override")
    steps = steps.isel(step=np.argsort(steps.prompt_index.values, kind="stable"))
    about = {"teacher": options.get("teacher", "it"), "n_layers": pair.n_layers}
    return found.assign_attrs(about), steps.assign_attrs(about)
