"""exp15: replies of a pair under grafts of three windows on both sides, their scores, ratings and preferences."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.depths import windows
from nbhelpers.experiments.exp15_symmetric_behaviour.experiment import COMPARISONS, Params
from nbhelpers.measures import behaviour, judge, scoring, steering
from nbhelpers.measures import forced_choice as choice
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.reference_judge import reference_judge
from nbhelpers.measures.rubric_judge import RubricJudge
from nbhelpers.models import evaluation
from nbhelpers.models.decoder import Pair
from nbhelpers.models.prompts import Prompt

Known = list[tuple[Prompt, dict]]  # prompts with their records
HOSTS = {"B": "pt", "D": "it"}  # letter of a grafted condition → its host
BASELINES = {"pt": "A", "it": "C"}  # host → its condition as it is
SCRAMBLED = ("B_late", "D_early", "D_mid", "D_late")  # grafts with a control of the same size
EVERY = 8  # one prompt of these is also answered by the identities
EXTRA = ("choice_logprob", "parsed")
EXP14 = {"readout": "kl_layer_final", "region": "final_fifth", "lens": "tuned", "basis": "host"}


def arms(n_layers: int) -> list[Arm]:
    """Return the arms of exp15: A and C, grafts of three windows in both, and scrambled controls.

    B is PT with IT's MLPs in a window, D is IT with PT's. A scrambled control changes each MLP output as far as the graft
    does, in a direction without meaning.
    """
    spans = {name: tuple(span) for name, span in windows(n_layers).items()}
    found = [Arm(name, host=host) for host, name in BASELINES.items()]
    for letter, host in HOSTS.items():
        grafts = {f"{letter}_{name}": layers for name, layers in spans.items()}
        found += [Arm(name, host=host, change="graft", layers=layers) for name, layers in grafts.items()]
        controls = [name for name in grafts if name in SCRAMBLED]
        found += [
            Arm(f"{name}_scrambled", host=host, change="scrambled", layers=grafts[name]) for name in controls
        ]
    return found


def identities(n_layers: int) -> list[Arm]:
    """Return A and C with their own late MLPs put back, which changes nothing, and both as they are."""
    late = tuple(windows(n_layers)["late"])
    own = [Arm(f"{letter}_self", host=host, change="self", layers=late) for letter, host in HOSTS.items()]
    return [*(Arm(name, host=host) for host, name in BASELINES.items()), *own]


def chosen(options: Params) -> Known:
    """Return the prompts of the core subset with their records; ParameterError if a bucket is short."""
    pairs = evaluation.read_evaluation(options.prompts)
    return evaluation.core_subset(pairs, options.counts, seed=options.subset_seed)


def written(pair: Pair, prompts: Sequence[Prompt], options: Params) -> xr.Dataset:
    """Return what all `arms` write, by condition: `text`, `n_tokens`, `capped` (condition, prompt).

    The `identities` answer every eighth prompt first. SteeringError if one of them changes a reply, BehaviourError if a graft
    changes none. A scrambled control may change no reply to a few prompts; `forced_choice` asserts that it changes residuals.
    """
    sizes = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    steering.written(pair, identities(pair.n_layers), prompts[::EVERY], {}, **sizes)
    every = arms(pair.n_layers)
    grafts = [arm for arm in every if arm.change != "scrambled"]
    return behaviour.checked(steering.written(pair, every, prompts, {}, **sizes), grafts)


def forced_choice(pair: Pair, known: Known, *, batch_size: int) -> xr.DataArray:
    """Return `forced_choice.forced_choice` of all `arms`, 0 or 1 (condition, prompt); NaN where a prompt is no choice."""
    found = choice.forced_choice(pair, arms(pair.n_layers), known, {}, batch_size=batch_size)
    return found.rename(arm="condition")


def parsed(asked: scoring.Task, text: str) -> float:
    """Return whether a reply holds an answer that the strict parsers read, 0 or 1; NaN if it is neither choice nor sum."""
    if asked.role == "choice":
        return float(scoring.by_letter(text) is not None)
    return float(scoring.by_number(text) is not None) if asked.role == "arithmetic" else np.nan


def scored(found: xr.Dataset, known: Known, likely: xr.DataArray) -> xr.Dataset:
    """Return `behaviour.scored` of replies, with what each prompt is, and two more metrics of `score`.

    likely: from `forced_choice`, as "choice_logprob". "parsed" is 0 where a choice or a sum has no answer to read.
    """
    whole = behaviour.scored(behaviour.labelled(found, known, evaluation.category), known)
    tasks = [scoring.task(record) for _, record in known]
    read = [[parsed(asked, str(text)) for asked, text in zip(tasks, row)] for row in found["text"].values]
    more = np.stack([likely.sel(condition=found["condition"]).values, read]).astype(np.float32)
    added = xr.DataArray(more, {"metric": list(EXTRA)}, ("metric", "condition", "prompt"))
    score = xr.concat([whole["score"].reset_coords(drop=True), added], "metric")
    return whole.drop_vars(["score", "metric"]).assign(score=score)


def judges(known: Known) -> list[judge.Judge]:
    """Return the judges that need no endpoint: rules and, if records hold replies, nearness to these."""
    held = any(record.get("reply") for _, record in known)
    return [RubricJudge(), *([reference_judge(known)] if held else [])]


def judged(text: xr.DataArray, known: Known) -> xr.Dataset:
    """Return the ratings of both judges, and the preferences of the rubric judge in both orders of presentation.

    `rating`, `missing` (judge, task, condition, prompt); `preference`, `preference_missing` (pair_task, comparison, order,
    prompt).
    """
    both = judges(known)
    rated = judge.rated(both, known, text)
    preferred = judge.preferred(both[:1], known, text, comparisons=COMPARISONS)
    preferred = preferred.isel(judge=0, drop=True).rename(task="pair_task")
    return xr.merge([rated, preferred], join="exact", combine_attrs="drop")


def internal(caused: xr.Dataset) -> xr.DataArray:
    """Return exp14's shifts of late KL to the own final under the same grafts, nats (side, window, internal_prompt).

    Larger is what the study claims of the window: on IT's side, where PT's MLPs lower the distance, the sign is turned.
    """
    shift = caused["shift"].sel(**EXP14, drop=True).rename(prompt="internal_prompt").astype(float)
    sign = xr.DataArray([1.0, -1.0], {"side": ["sufficiency", "necessity"]}, ("side",))
    return (shift * sign).reset_coords(drop=True).astype(np.float32)


def assembled(found: xr.Dataset, verdicts: xr.Dataset, inside: xr.DataArray, n_layers: int) -> xr.Dataset:
    """Return exp15's dataset: replies with their scores (`scored`), ratings and preferences, and exp14's shifts."""
    whole = xr.merge([found, verdicts, inside.rename("internal_shift")], join="exact", combine_attrs="drop")
    return whole.assign_attrs(n_layers=n_layers)
