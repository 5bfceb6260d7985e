"""Measuring a sample of a supplement's tokens again, from the checkpoints, and comparing it with the stored numbers.

Two kinds of datasets are sampled. A *capture* holds every layer's numbers at every single token; tokens are drawn from it,
forced through both models and read through both lenses. A *profile* holds each prompt's means over the tokens that a model
wrote itself; prompts are drawn from it. Their texts come from the capture if the supplement has it, else the model writes
them again. Which experiments these are is read from the variables that they declare.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.params import VARIANTS, ParameterError
from nbhelpers.measures import lens, tuned_lens, tuned_lens_files
from nbhelpers.measures.steps import LENSES
from nbhelpers.models import prompts as prompt_sets
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import forced_batch, forward
from nbhelpers.models.generation import Continuation, generate
from nbhelpers.models.loading import load_pair

METRICS = ("kl_final_layer", "kl_layer_final", "entropy", "top1")
CAPTURE, PROFILE = {"variant", "lens", "layer", "step"}, {"variant", "lens", "layer", "prompt"}
# Of max(1 nat, value): float32 rounding differs with machine and batch by some 1e-5 of it. To this comes what a
# capture with fewer bits of mantissa (`kept_bits`) rounds.
TOLERANCE = 1e-4
TIES = 1e-3  # the share of top-1 tokens that may differ, where two are as likely within rounding
ROWS = 32  # texts in one forward


def kind_of(key: str, dims: set[str]) -> bool:
    """Return whether an experiment's dataset holds KL(final ‖ layer) with these dimensions."""
    found = experiments.variables(key).get("kl_final_layer")
    return bool(found) and set(found.dims) == dims


def check(folder: Path, sound: Sequence[Path], report, *, share: float, seed: int) -> None:
    """Compare a sample of each capture and profile among the sound datasets of a supplement; add to its report.

    folder: the unpacked supplement. share: of its tokens or prompts, at least one of each variant's.
    """
    captures = [key for key in experiments.slices() if kind_of(key, CAPTURE)]
    by_model: dict[Path, list[Path]] = {}
    for path in sorted(sound):
        if path.stem in captures or kind_of(path.stem, PROFILE):
            by_model.setdefault(path.parent, []).append(path)
    for place, paths in by_model.items():
        names = [path.relative_to(folder).as_posix() for path in paths]
        try:
            source = source_of(paths[0], captures[0], place / f"{captures[0]}.nc" in paths)
        except ParameterError as error:
            report.skipped += [f"{name} was not measured again: {error}" for name in names]
            continue
        for path, name in zip(paths, names):
            compare = compare_tokens if path.stem in captures else compare_prompts
            try:
                found = compare(source, path, share, np.random.default_rng([seed, *name.encode()]))
            except (ParameterError, tuned_lens_files.TunedLensError, ValueError) as error:
                report.problems.append(f"{name} cannot be of these checkpoints, prompts and lenses: {error}")
                continue
            judge(report, name, source.allowed, *found)


def judge(report, name: str, allowed: float, what: str, worst: float, ties: float) -> None:
    """Add to the report what a comparison found: a problem if it passes what is allowed."""
    found = f"{what}, largest difference {worst:.1e} of max(1 nat, value)"
    found += f", {ties:.2%} of top-1 tokens differ" if ties else ""
    if worst > allowed or ties > TIES:
        limits = f"{allowed:.1e} and {TIES:.1%} of top-1 tokens are allowed"
        report.problems.append(f"{name} does not hold what its model computes: {found}; {limits}.")
    else:
        report.checked.append(f"measured again: {name}, {found} (allowed: {allowed:.1e})")


@dataclass(frozen=True)
class Source:
    """What a sample is measured with: the pair, the run of the capture and, if the supplement has it, its dataset."""

    pair: Pair
    run: params.Run
    steps: xr.Dataset | None

    @cached_property
    def sizes(self) -> dict:
        """The sizes of the capture: those that its dataset records, else those of its profile."""
        recorded = json.loads(self.steps.attrs["parameters"]) if self.steps is not None else {}
        return self.run.experiment.model_dump() | recorded

    @property
    def allowed(self) -> float:
        """By how much of max(1 nat, value) a number may differ."""
        return TOLERANCE + 2.0 ** -(self.sizes["kept_bits"] + 1)

    @cached_property
    def ids(self) -> dict[str, list[list[int]]]:
        """The ids that each variant reads of every prompt of the capture."""
        chosen = prompt_sets.load_prompts(
            self.run.profile.prompts, self.sizes["n_prompts"], self.sizes["seed"]
        )
        return {decoder.variant: prompt_sets.render(decoder, chosen) for decoder in self.pair}


def source_of(path: Path, capture: str, held: bool) -> Source:
    """Return what the datasets beside `path` are measured with; held: whether the capture's is among them."""
    pair, run = loaded(path, capture)
    return Source(pair, run, store.load(path.with_name(f"{capture}.nc")) if held else None)


def loaded(path: Path, capture: str) -> tuple[Pair, params.Run]:
    """Return the pair behind a dataset and its run of the capture; ParameterError if its weights are not those measured."""
    found = store.attributes(path)
    run = experiments.resolve(capture, model=found["model"], profile=found["profile"])
    measured = json.loads(found["model_revisions"])
    for variant in VARIANTS:
        checkpoint = getattr(run.model, variant)
        if checkpoint.folder is None:
            raise ParameterError(
                f"the {variant.upper()} checkpoint {checkpoint.source} is on the hub; this check downloads nothing."
            )
        params.require(checkpoint, run.model.key)
        if checkpoint.version != measured[variant]:
            raise ParameterError(
                f"the checkpoint {checkpoint.path} is not the one that was measured ({measured[variant]})."
            )
    if run.model.dtype != "float32":
        raise ParameterError(
            f"{run.model.key} is measured in {run.model.dtype}, whose rounding depends on the machine."
        )
    return load_pair(run.model), run


def read(decoder: Decoder, folder: Path, rows, texts: Sequence[Continuation]) -> list[dict[str, np.ndarray]]:
    """Return, for each text, {metric: [lens, layer, token]} of the model at every token of it, forced after its prompt."""
    tuned = tuned_lens_files.load(folder / f"tuned_lens_{decoder.variant}.safetensors", decoder.unembedding)
    found = []
    for start in range(0, len(rows), ROWS):
        part = range(start, min(start + ROWS, len(rows)))
        batch = forced_batch(part, rows, texts, decoder.pad_id)
        residual = forward(decoder, batch).residual
        both = {
            "raw": lens.lens_metrics(residual, decoder.unembedding, metrics=METRICS),
            "tuned": tuned_lens.metrics(residual, decoder.unembedding, tuned, metrics=METRICS),
        }
        stacked = {name: np.stack([both[each][name].cpu().numpy() for each in LENSES]) for name in METRICS}
        found += [
            {name: values[..., batch.row_of_step == i] for name, values in stacked.items()} for i in part
        ]
    return found


def written(steps: xr.Dataset, history: str, prompt: int) -> np.ndarray:
    """Return the places in a capture of the tokens that a variant wrote to a prompt, in order."""
    at = np.flatnonzero((steps.history.values == history) & (steps.prompt_index.values == prompt))
    return at[np.argsort(steps.token.values[at])]


def compare_tokens(source: Source, path: Path, share: float, rng) -> tuple[str, float, float]:
    """Return (what was compared, largest difference, share of top-1 tokens that differ) for tokens drawn from a capture."""
    steps, texts = source.steps, {}
    n = steps.sizes["step"]
    drawn = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
    for at in drawn:
        texts.setdefault((str(steps.history.values[at]), int(steps.prompt_index.values[at])), []).append(at)
    wholes = [written(steps, *text) for text in texts]
    forced = [Continuation(tuple(steps.token_id.values[whole].tolist()), False) for whole in wholes]
    worst, differ, count = 0.0, 0, 0
    for decoder in source.pair:
        rows = [source.ids[decoder.variant][prompt] for _, prompt in texts]
        own = steps[list(METRICS)].sel(variant=decoder.variant).transpose("lens", "layer", "step")
        for seen, whole, chosen in zip(read(decoder, path.parent, rows, forced), wholes, texts.values()):
            inside = np.flatnonzero(np.isin(whole, chosen))
            there = {name: own[name].values[..., whole[inside]] for name in METRICS}
            worst = max(worst, *(apart(seen[name][..., inside], there[name]) for name in METRICS[:-1]))
            differ += (seen["top1"][..., inside] != there["top1"]).sum()
            count += there["top1"].size
    return f"{len(drawn)} of {n} tokens", worst, differ / count


def compare_prompts(source: Source, path: Path, share: float, rng) -> tuple[str, float, float]:
    """Return (what was compared, largest difference, 0) for prompts drawn from a profile: means over their later tokens."""
    stored, worst, n_tokens = store.load(path), 0.0, 0
    n = min(stored.sizes["prompt"], source.sizes["n_prompts"])
    for decoder in source.pair:
        drawn = np.sort(rng.choice(n, max(1, round(share * n)), replace=False))
        rows = [source.ids[decoder.variant][i] for i in drawn]
        own = stored[list(METRICS[:-1])].sel(variant=decoder.variant).transpose("prompt", "lens", "layer")
        for i, seen in zip(drawn, read(decoder, path.parent, rows, own_texts(source, decoder, drawn, rows))):
            n_tokens += seen["entropy"].shape[-1]
            # Free running starts at the second token.
            later = {name: seen[name][..., 1:].astype(float) for name in METRICS[:-1]}
            if later["entropy"].shape[-1]:
                worst = max(worst, *(apart(later[name].mean(-1), own[name].values[i]) for name in later))
    whose = "the capture's texts" if source.steps is not None else "texts written again"
    return f"{n_tokens} tokens of {len(drawn)} prompts of each variant, {whose}", worst, 0.0


def own_texts(source: Source, decoder: Decoder, drawn: Sequence[int], rows) -> list[Continuation]:
    """Return what a model wrote to some prompts: by the capture, else written again."""
    if source.steps is None:
        return generate(decoder, rows, max_new_tokens=source.sizes["max_new_tokens"])
    tokens = (source.steps.token_id.values[written(source.steps, decoder.variant, i)] for i in drawn)
    return [Continuation(tuple(of.tolist()), False) for of in tokens]


def apart(now: np.ndarray, before: np.ndarray) -> float:
    """Return the largest difference of two arrays, as a share of values above 1; infinite where one is NaN."""
    error = np.abs(now - before) / np.maximum(1, np.abs(before))
    return float(np.where(np.isnan(error), np.inf, error).max(initial=0))
