"""The tables and the verdict of exp10."""

import hashlib
from functools import partial

import pandas as pd

from nbhelpers.experiments.exp10_contrastive_patching.figures import SPACES
from nbhelpers.experiments.exp10_contrastive_patching.quantities import quantities
from nbhelpers.report.directions import (
    LEAST,
    among,
    answer,
    claim,
    fitting,
    larger_side,
    levels_of,
    sentence,
)
from nbhelpers.report.families import interval_table, turned
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import number, percent, written
from nbhelpers.report.verdicts import DOWN, UP, Verdict, sides, span

PREDICTS, MOVES, BEYOND = "r2.residual.tuned.late", "moved.conv", "patch_beyond.conv.own"
STEERS, WHOLE = "steer_gap.conv.0", "patch.full.own"
MATRIX = {
    "predicts the gap (R²)": PREDICTS,
    "the same, MLP outputs": "r2.mlp_output.tuned.late",
    "moved, of what it predicts": MOVES,
    "patch, beyond random": BEYOND,
    "whole difference, patched": WHOLE,
    "gap, direction removed from IT": STEERS,
}
P = 0.05


def verdict(results) -> Verdict:
    """Return the verdict: whether a direction that predicts the convergence gap also moves it."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    predicts, moves = (sides(results, quantities, name) for name in (PREDICTS, MOVES))
    says = {
        UP: "On unseen prompts, one direction of IT − PT predicts {size} of the late gap's variation",
        DOWN: "On unseen prompts, probes of IT − PT predict the late gap worse than its mean",
    }
    size = claim(
        results, quantities, PREDICTS, says[larger_side(predicts)],
        "On unseen prompts, no direction of IT − PT surely predicts the late gap",
        ("predicted", "mispredicted"), shown=percent, detail=detail,
    )  # fmt: skip
    expected = levels_of(results, quantities, "unit_predicted")
    moved = span(results, quantities, "unit_effect.conv", signed=True)
    # Where not even the positive control moves it, "no" would say too much.
    unseen = answer(moves) == "no" and not controlled(results)
    return Verdict(
        f"Predicts it: {answer(predicts)}; moves it: {'not seen' if unseen else answer(moves)}",
        sentence(size),
        f"A standard deviation along it should move PT's distance {expected} nats; it moves {moved} ({beyond(results)}).",
        whole(results),
    )


def beyond(results) -> str:
    """Return the clause on the direction among random ones of its length: where it does more, or p, and what would show.

    More: by the joint interval of the difference and by the rank among random directions.
    """
    found = sides(results, quantities, BEYOND)
    more = [t for t in found[UP] + found[DOWN] if value(quantities, results[t], "patch_p.conv") <= P]
    if more:
        return f"more than random directions {among(more, results, LEAST)}".rstrip()
    p = levels_of(results, quantities, "patch_p.conv")
    return f"p {p} among random ones; {levels_of(results, quantities, 'moved_detectable', fine)} would show"


def fine(share: float) -> str:
    """Return a share as text, in per cent with a decimal."""
    return f"{number(100 * share, 1)} %"


def controlled(results) -> list[str]:
    """Return the pairs in which the positive control works: a patch of the whole difference surely moves the distance."""
    found = sides(results, quantities, WHOLE)
    return found[UP] + found[DOWN]


def whole(results) -> str:
    """Return the sentence on the positive control: whether a patch of the whole difference moves the distance."""
    surely = controlled(results)
    if not surely:
        return "Nor does the whole difference, the positive control."
    return sentence(f"the whole difference does move it {among(surely, results, LEAST)}".rstrip())


def prediction_table(results) -> pd.DataFrame:
    """Return a table of mean R² over late layers on unseen prompts, with intervals, and what R² is without the difference."""
    rows = {}
    for title, d in results.items():
        row = {}
        for space, name in SPACES.items():
            found = [
                getattr(kept(quantities, d)[f"r2.{space}.tuned.late"].values, end)
                for end in ("mean", "low", "high")
            ]
            row[f"probe, {name}"] = written(pd.DataFrame([found], columns=["mean", "low", "high"]))[0]
        row["left-out training folds"] = number(value(quantities, d, "r2_folds.residual.late"))
        row["step of the reply alone"] = number(value(quantities, d, "r2_position"))
        row["permuted gap, largest"] = number(value(quantities, d, "r2_permuted.residual"))
        rows[title] = row
    return turned(pd.DataFrame(rows).T.rename_axis(None), results)


P_OF = {
    "conv": "its own length",
    "conv_full": "length of IT − PT",
    "mean_full": "mean difference, that length",
}


def unit_table(results) -> pd.DataFrame:
    """Return a table of one standard deviation along the probe's direction: what it should move, what it moves, what this
    run could have seen, and rank p values of patches among random directions.
    """
    effect, share = (
        interval_table(results, named(quantities, name), pool=False) for name in ("unit_effect.conv", MOVES)
    )
    columns = {
        "should move, nats": column(results, "unit_predicted", 2), "moves, nats": written(effect, 3),
        "share": written(share, 3), "least share that this run could see": column(results, "moved_detectable", 3),
    }  # fmt: skip
    columns |= {f"p, {said_of}": column(results, f"patch_p.{part}", 2) for part, said_of in P_OF.items()}
    return turned(pd.DataFrame(columns, index=list(results)), results)


def column(results, name: str, digits: int, factor: float = 1, unit: str = "") -> list[str]:
    """Return a quantity of every pair as text, times a factor."""
    return [f"{number(factor * value(quantities, d, name), digits)}{unit}" for d in results.values()]


ALONG = {"conv": "probe's direction", "pattern": "what varies with it", "mean": "mean difference"}
ARMS = {
    "conv.0": "probe's direction removed",
    "mean.0": "mean difference removed",
    "equal.0": "probe's, sized as the mean's",
}


def size_table(results) -> pd.DataFrame:
    """Return a table of how much of IT − PT lies along each direction, and how much the removal of each changes IT."""
    columns = {
        ("energy of IT − PT", said_of): column(results, f"energy_share.{part}.residual", 1, 100, " %")
        for part, said_of in ALONG.items()
    }
    for arm, said_of in ARMS.items():
        columns["change of IT's last state", said_of] = column(results, f"steer_size.{arm}", 1, 100, " %")
    columns["p of the gap", "probe's, sized as the mean's"] = column(results, "equal_p.gap", 2)
    columns["p of the gap", "mean difference removed"] = column(results, "mean_p.gap", 2)
    table = pd.DataFrame(columns, index=list(results))
    table.columns = pd.MultiIndex.from_tuples(columns)
    return turned(table, results)


SCORES = {"format": "form as asked", "choice": "right choice", "structure": "markup", "length": "tokens"}


def score_table(results) -> pd.DataFrame:
    """Return a table of what removals change in IT's replies, with intervals over prompts."""
    columns = {}
    for arm, said_arm in ARMS.items():
        for metric, said_metric in SCORES.items():
            table = interval_table(results, named(quantities, f"shift.{arm}.{metric}"), pool=False)
            columns[said_arm, said_metric] = pd.Series(written(table), index=table["family"])
    for metric, said_metric in SCORES.items():
        least = column(results, f"detectable.{metric}", 2)
        columns["least that this run could see", said_metric] = pd.Series(least, index=list(results))
    table = pd.DataFrame(columns).reindex(list(results)).rename_axis(None)
    table.columns = pd.MultiIndex.from_tuples(columns)
    return turned(table, results)


SHOWN_ARMS = {
    "it": "IT",
    "conv 0": "probe's direction removed",
    "mean 0": "mean difference removed",
    "mean 3": "mean difference, α = 3",
}


def examples(results, n: int = 3) -> pd.DataFrame:
    """Return replies of a few arms to the first n prompts by the hash of their id, of those that ask for a form.

    Where none asks for a form, of all but harmful requests.
    """
    rows = []
    for title, d in results.items():
        arms = [arm for arm in SHOWN_ARMS if arm in d["shown_arm"].values]
        for name in hashed(d)[:n]:
            of = d.sel(prompt=name)
            said_by = {SHOWN_ARMS[arm]: str(of["text"].sel(shown_arm=arm).values) for arm in arms}
            rows.append({"pair": title, "request": str(of["message"].values)} | said_by)
    table = pd.DataFrame(rows).set_index("pair").rename_axis(None)
    return table if len(results) > 1 else table.reset_index(drop=True)


def hashed(dataset) -> list[str]:
    """Return the ids of prompts that may be shown, in the order of their hashes."""
    roles = dict(zip(map(str, dataset["prompt"].values), dataset["role"].values))
    shown = [name for name, role in roles.items() if role == "format"]
    shown = shown or [name for name, role in roles.items() if role != "harmful"]
    return sorted(shown, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
