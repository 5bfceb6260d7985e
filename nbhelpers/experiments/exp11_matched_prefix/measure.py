"""exp11: one pair under every graft, from the replies that exp00 kept to the dataset that later experiments read.

Each model is the teacher once. IT's replies, as in the study, are read under all conditions and controls, PT's replies
under eight. A second pass over IT's replies slides windows over the depth and reads only the final fifth of the layers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import blocks, depths
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp11_matched_prefix.experiment import Params, step_bytes
from nbhelpers.measures import tuned_lens
from nbhelpers.measures.graft_shifts import STUDY_THRESHOLD, by_window, shifts
from nbhelpers.measures.matched_prefix import matched_prefix, with_steps
from nbhelpers.models.conditions import (
    BASELINES,
    Condition,
    control_conditions,
    sliding_windows,
    study_conditions,
    swaps,
    symmetric_conditions,
    window_widths,
)
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt

# Conditions whose late MLP updates are read along the axes of `update_directions`.
PROJECTED = ("A'", "B_late", "C", "D_late")
SWEPT = ("kl_layer_final", "kl_final_layer", "kl_layer_teacher", "js_teacher", "nll")


def main_conditions(n_layers: int) -> list[Condition]:
    """Return the conditions of the study and the late controls, each once."""
    return list(dict.fromkeys([*study_conditions(n_layers), *control_conditions(n_layers)]))


def swept_windows(n_layers: int, options: Params) -> dict[str, range]:
    """Return the windows of the sweep: one width over all depths, then early, mid and late of other widths.

    ParameterError if the model has fewer layers than a window.
    """
    for name, widest in {"sliding_width": options.sliding_width, "widths": max(options.widths)}.items():
        if widest > n_layers:
            raise ParameterError(
                f"{name} asks for a window of {widest} layers, and this model has {n_layers}: lower it"
            )
    sliding = sliding_windows(n_layers, options.sliding_width, options.sliding_step)
    return sliding | window_widths(n_layers, options.widths)


def forced_replies(
    pair: Pair, prompts: Sequence[Prompt], written: Mapping[str, Sequence[Continuation]], **shared
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return all conditions' read-outs of both teachers' replies, and the steps of IT's replies that later experiments read.

    `graft_shifts.by_prompt` has a dim `teacher` here. written: the replies of each teacher, "it" and "pt". IT's are
    read under all conditions and controls, PT's under the eight of `symmetric_conditions`; the others are NaN.
    """
    eight = symmetric_conditions(pair.n_layers)
    options = dict(stepwise=[condition.name for condition in eight], projected=PROJECTED)
    forced, steps = with_steps(
        pair, prompts, written["it"], main_conditions(pair.n_layers), **options, **shared
    )
    back = matched_prefix(pair, prompts, written["pt"], eight, teacher="pt", **shared)
    teacher, how = xr.IndexVariable("teacher", ["it", "pt"]), {"coords": "minimal", "compat": "override"}
    both = xr.concat([forced, back], teacher, join="outer", **how)
    return both.sel(condition=forced.condition.values), steps


def block_spans(n_layers: int, written: Mapping[str, Sequence[Continuation]], options: Params) -> list[range]:
    """Return the prompts of each block that is read and written at once."""
    longest = max(len(reply.ids) for reply in written["it"])
    return blocks.spans(len(written["it"]), longest * step_bytes(n_layers), options.batch_size)


def block(
    pair: Pair,
    prompts: Sequence[Prompt],
    written: Mapping[str, Sequence[Continuation]],
    lenses: Mapping[str, tuned_lens.TunedLens],
    part: range,
    options: Params,
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return all read-outs of one block of prompts, but for `with_windows`, and the steps that later experiments read.

    prompts, written: of all blocks; replies by teacher. lenses: by variant. part: the indices of the block's prompts.
    """
    some = [prompts[i] for i in part]
    replies = {v: [made[i] for i in part] for v, made in written.items()}
    shared = shared_options(lenses, options)
    forced, steps = forced_replies(pair, some, replies, **shared)
    swept = sweep(pair, some, replies["it"], options, **shared)
    texts = {"category": [p.category for p in some], "message": [p.message for p in some]}
    found = forced.merge(swept, combine_attrs="drop").assign_attrs(n_layers=forced.attrs["n_layers"])
    found = found.assign({name: ("prompt", np.array(values, dtype=object)) for name, values in texts.items()})
    steps = blocks.rounded(steps.sel(component=["mlp"]), options.kept_bits)
    return found, steps.assign_coords(prompt_index=steps.prompt_index + np.int64(part.start))


def with_windows(found: xr.Dataset, options: Params) -> xr.Dataset:
    """Return the read-outs of all blocks with `sweep_first` and `sweep_width` (sweep), first layer and width of windows."""
    windows = swept_windows(found.attrs["n_layers"], options)
    ends = {"first": [layers.start for layers in windows.values()], "width": list(map(len, windows.values()))}
    return found.assign({f"sweep_{name}": ("sweep", values) for name, values in ends.items()})


def shared_options(lenses: Mapping[str, tuned_lens.TunedLens], options: Params) -> dict:
    """Return the options of `matched_prefix` that all passes of exp11 share."""
    grid = sorted({STUDY_THRESHOLD, *options.kl_grid})
    return dict(lenses=lenses, batch_size=options.batch_size, seed=options.seed, grid=grid)


def sweep(pair: Pair, prompts, written, options: Params, **shared) -> xr.Dataset:
    """Return the shifts in the final fifth by windows of other places and widths, on IT's replies, each host's own lens.

    `sweep_<read-out>` (side, sweep, lens, prompt) for each of `SWEPT`. side: as in `graft_shifts.by_window`.
    """
    windows = swept_windows(pair.n_layers, options)
    late = list(depths.final_fifth(pair.n_layers))
    conditions = [*BASELINES, *swaps(windows)]
    found = matched_prefix(pair, prompts, written, conditions, shared=(), layers=late, **shared)
    changed = by_window(shifts(found)).sel(region="final_fifth", basis="host", drop=True)
    changed = changed[list(SWEPT)].reset_coords(drop=True).sel(window=list(windows)).rename(window="sweep")
    return changed.rename({name: f"sweep_{name}" for name in SWEPT})
