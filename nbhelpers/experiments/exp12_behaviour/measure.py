"""exp12: what PT, PT with IT's late MLPs, and IT write by themselves, and what rules and judges say of it."""

from collections.abc import Sequence

import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp12_behaviour.experiment import Params
from nbhelpers.measures import behaviour, judge, steering
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.reference_judge import reference_judge
from nbhelpers.measures.rubric_judge import RubricJudge
from nbhelpers.models import evaluation
from nbhelpers.models.decoder import Pair
from nbhelpers.models.prompts import Prompt

EVERY = 8  # one prompt of these is also answered by PT with its own MLPs put in
Known = Sequence[tuple[Prompt, dict]]  # prompts with their records


def chosen(options: Params) -> list[tuple[Prompt, dict]]:
    """Return the prompts of the evaluation with their records: `n_prompts` of them, in proportion to their categories."""
    known = evaluation.read_evaluation(options.prompts)
    return evaluation.proportional(known, options.n_prompts, seed=options.seed)


def conditions(n_layers: int) -> list[Arm]:
    """Return what writes: PT (A), PT with IT's late MLPs (B), IT in its chat format (C), and a control of B.

    B_late_scrambled changes each late MLP's output as far as B does, in no direction of use.
    """
    late = {"host": "pt", "layers": tuple(depths.windows(n_layers)["late"])}
    return [
        Arm("A", host="pt"),
        Arm("B_late", change="graft", **late),
        Arm("C", host="it"),
        Arm("B_late_scrambled", change="scrambled", **late),
    ]


def identities(n_layers: int) -> list[Arm]:
    """Return PT as it is, and with its own late MLPs put in their own place, which must change nothing."""
    late = tuple(depths.windows(n_layers)["late"])
    return [Arm("A", host="pt"), Arm("A_self", host="pt", change="self", layers=late)]


def answered(pair: Pair, known: Known, options: Params) -> xr.Dataset:
    """Return what every condition writes to every prompt: `text`, `n_tokens`, `capped`, `score`, `engagement`.

    Coordinates by prompt: `category`, `source`, `question`. SteeringError if PT's own MLPs change a reply to one of every
    `EVERY` prompts; BehaviourError if another condition changes none.
    """
    prompts, arms = [prompt for prompt, _ in known], conditions(pair.n_layers)
    sizes = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    steering.written(pair, identities(pair.n_layers), prompts[::EVERY], {}, **sizes)
    written = behaviour.checked(steering.written(pair, arms, prompts, {}, **sizes), arms)
    return behaviour.scored(behaviour.labelled(written, known, evaluation.category), known)


def rated(found: xr.Dataset, known: Known) -> xr.Dataset:
    """Return the dataset with `rating` and `missing` by two judges offline: rules, and nearness to references."""
    verdicts = judge.rated([RubricJudge(), reference_judge(known)], known, found["text"])
    return found.merge(verdicts, join="exact", compat="override")
