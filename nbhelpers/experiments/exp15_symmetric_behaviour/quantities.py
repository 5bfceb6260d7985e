"""The quantities of exp15, from one pair's dataset. Ratings are those of the rubric judge.

An effect is what IT's MLPs in a window bring: B_w − A on the side of sufficiency, where PT gets them, and C − D_w on that of
necessity, where IT loses them. `s2` counts harmless requests that are answered, `s1` harmful ones that are refused.
"""

from functools import cache
from itertools import permutations

import numpy as np
import xarray as xr

from nbhelpers.core import dose_stats
from nbhelpers.core.closure import closure
from nbhelpers.core.paired_tests import sign_test, wilcoxon
from nbhelpers.experiments.exp15_symmetric_behaviour.experiment import COMPARISONS
from nbhelpers.measures import behaviour
from nbhelpers.measures.graft_shifts import WINDOWS, strongest_window
from nbhelpers.report.graft_charts import lead
from nbhelpers.report.quantities import Quantities, levels, shifts

SIDES = {"sufficiency": ("B", "A"), "necessity": ("D", "C")}  # side → letter of its grafts, its host as it is
POINTS = ("g1", "g2")  # ratings from 1 to 5
RATES = {"s1": "s1_refuses", "s2": "s2_answers"}  # task → the outcome that counts
TASKS = (*POINTS, *RATES)
RULES = ("structure", "format", "arithmetic", "choice", "choice_logprob")  # scored by rule alone
PAIRWISE = {"g2": "pairwise_g2", "s2": "pairwise_s2"}
COMPARED = dict(zip(SIDES, COMPARISONS))
RESAMPLES = 2000  # of the order of windows
BY_RUBRIC = "published protocol: an LLM judge; here rules alone"
SELECTED = "only prompts whose two replies are coherent by rule, which the graft itself decides"


def values_of(result: xr.Dataset, name: str, condition: str, **at) -> xr.DataArray:
    """Return one variable of one condition's replies by prompt, [prompt]."""
    return result[name].sel(condition=condition, **at, drop=True).reset_coords(drop=True).astype(float)


def outcome(result: xr.Dataset, name: str, condition: str, judge: str = behaviour.RUBRIC) -> xr.DataArray:
    """Return what an effect is measured on, [prompt]: a judge's rating, whether a reply has a class, or a score by rule."""
    if name in TASKS:
        return behaviour.outcome(result, RATES.get(name, name), condition, judge).reset_coords(drop=True)
    return values_of(result, "score", condition, metric=name)


def effect(
    result: xr.Dataset, name: str, side: str, window: str, of: str = "", judge: str = behaviour.RUBRIC
) -> xr.DataArray:
    """Return what IT's MLPs of a window bring on a side, [prompt]: B_w − A or C − D_w; of: "_scrambled" for the control."""
    letter, base = SIDES[side]
    moved = outcome(result, name, f"{letter}_{window}{of}", judge) - outcome(result, name, base, judge)
    return moved if side == "sufficiency" else -moved


def conditions(result: xr.Dataset) -> list[str]:
    """Return the names of the conditions of a result, in its order."""
    return result["condition"].values.tolist()


def level(result: xr.Dataset) -> Quantities:
    """Return `<outcome>_<condition>`: mean ratings; shares of the classes of S1 and S2; scores by rule; and the shares of
    replies that are incoherent, end at the cap, go on to another question (`thread`), or hold no answer that a strict parser
    reads (`unparsed`).
    """
    points, shares = {}, {}
    for name in conditions(result):
        for task, about in behaviour.OUTCOMES.items():
            held = behaviour.outcome(result, task, name).reset_coords(drop=True)
            (points if about.unit == "points" else shares)[f"{task}_{name}"] = held
        decided = [shares[f"s1_{held}_{name}"] for held in behaviour.RATED["s1"][:-1]]
        shares[f"s1_undecided_{name}"] = 1 - sum(decided)
        shares |= {f"{rule}_{name}": outcome(result, rule, name) for rule in (*RULES, "incoherent")}
        shares[f"unparsed_{name}"] = 1 - outcome(result, "parsed", name)
        shares[f"capped_{name}"] = values_of(result, "capped", name)
        shares[f"thread_{name}"] = behaviour.new_thread(result, name).reset_coords(drop=True)
    return levels(points, "points", BY_RUBRIC) | levels(shares, "1", BY_RUBRIC)


def effects(result: xr.Dataset) -> Quantities:
    """Return `<outcome>_effect.<side>.<window>`, by prompt, and `<outcome>_lead.<side>`, how far the late window is ahead of
    the larger of the others or, if none of them is above zero, of zero.
    """
    points, shares = {}, {}
    for name in (*TASKS, *RULES):
        found = points if name in POINTS else shares
        for side in SIDES:
            by_window = {window: effect(result, name, side, window) for window in WINDOWS}
            found |= {f"{name}_effect.{side}.{window}": values for window, values in by_window.items()}
            found[f"{name}_lead.{side}"] = lead(by_window)
    return shifts(points, "points", BY_RUBRIC) | shifts(shares, "1", BY_RUBRIC)


def stopping(result: xr.Dataset) -> Quantities:
    """Return `<rating>_stopping.<side>.<window>`, by prompt: the part of an effect that comes from prompts on which one of
    the two replies goes on to another question and the other stops. Its mean and the rest's add up to the effect.
    """
    found = {}
    for side, (letter, base) in SIDES.items():
        for window in WINDOWS:
            goes_on = (behaviour.new_thread(result, name).values for name in (base, f"{letter}_{window}"))
            changed = np.not_equal(*goes_on)
            for name in POINTS:
                found[f"{name}_stopping.{side}.{window}"] = effect(result, name, side, window) * changed
    return shifts(found, "points", BY_RUBRIC)


def controls(result: xr.Dataset) -> Quantities:
    """Return, for grafts with a control that changes activations as much: `<outcome>_control.<side>.<window>`, its effect,
    and `<outcome>_over_control.…`, the graft's less it; `<outcome>_coherent.…`: the effect where both replies are coherent.
    """
    found = {}
    for name in TASKS:
        unit = "points" if name in POINTS else "1"
        for side in SIDES:
            for window in WINDOWS:
                own, at = effect(result, name, side, window), f"{side}.{window}"
                if f"{SIDES[side][0]}_{window}_scrambled" in conditions(result):
                    other = effect(result, name, side, window, "_scrambled")
                    beside = {f"{name}_control.{at}": other, f"{name}_over_control.{at}": own - other}
                    found |= shifts(beside, unit, BY_RUBRIC)
                whole = own.where(coherent(result, side, window))
                found |= shifts({f"{name}_coherent.{at}": whole}, unit, SELECTED)
    return found


def coherent(result: xr.Dataset, side: str, window: str) -> xr.DataArray:
    """Return whether both replies of an effect are coherent by rule, bool [prompt]."""
    letter, base = SIDES[side]
    return outcome(result, "incoherent", base) + outcome(result, "incoherent", f"{letter}_{window}") == 0


def paired(result: xr.Dataset, name: str, side: str, window: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return outcomes of a side's replies with PT's MLPs in a window, and with IT's there, [prompt] each."""
    letter, base = SIDES[side]
    both = outcome(result, name, base), outcome(result, name, f"{letter}_{window}")
    return both if side == "sufficiency" else both[::-1]


def tests(result: xr.Dataset) -> Quantities:
    """Return paired tests by side and window: `p.<outcome>.…`, exact McNemar of rates with `lost` and `gained` prompts,
    Wilcoxon of ratings with `win_share`; `equivalence_p`, that a rate moves by less than 5 points; `detectable`.
    """
    counts, found = {}, {}
    for side in SIDES:
        for window in WINDOWS:
            at = f"{side}.{window}"
            for task in POINTS:
                p, share, _ = wilcoxon(*paired(result, task, side, window))
                found |= {f"p.{task}.{at}": p, f"win_share.{task}.{at}": share}
            for task in RATES:
                changed = dose_stats.mcnemar(*paired(result, task, side, window))
                moved = effect(result, task, side, window)
                p = changed.p if moved.notnull().any() else np.nan
                counts |= {f"lost.{task}.{at}": changed.lost, f"gained.{task}.{at}": changed.gained}
                found |= {f"p.{task}.{at}": p, f"detectable.{task}.{at}": dose_stats.detectable(moved)}
                found[f"equivalence_p.{task}.{at}"] = dose_stats.equivalence(moved, 0.05)
    return levels(counts, "prompts") | levels(found, "1")


@cache
def _orders() -> np.ndarray:
    """Return the six orders of three windows, [order, window]."""
    return np.array(list(permutations(range(len(WINDOWS)))))


def order_p(values: np.ndarray, *, n_resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the chance that the last window is as far ahead of the others if windows are exchangeable in each prompt.

    values: [prompt, window], late last. Statistic: mean of the last less the largest mean of the others. p = (1 +
    #{permuted ≥ observed}) / (n + 1), windows permuted within prompts. NaN with fewer than two prompts, 1 if none varies.
    """
    values = values[~np.isnan(values).any(1)]
    if len(values) < 2:
        return np.nan
    moves = values[np.ptp(values, axis=1) > 0]  # the others add the same to every mean
    if not len(moves):
        return 1.0
    rng, every = np.random.default_rng(seed), moves[:, _orders()]  # [prompt, order, window]
    drawn = rng.integers(len(_orders()), size=(n_resamples, len(moves)))
    sums = sum(every[i][drawn[:, i]] for i in range(len(moves)))
    ahead = sums[:, -1] - sums[:, :-1].max(1)
    seen = moves.sum(0)[-1] - moves.sum(0)[:-1].max()
    return float((1 + (ahead >= seen - 1e-9).sum()) / (n_resamples + 1))


def order(result: xr.Dataset) -> Quantities:
    """Return `order_p.<outcome>.<side>`, see `order_p`, and `strongest.<outcome>.<side>.<window>`: the share of resamples of
    prompts in which a window's mean effect is the largest and above zero.
    """
    found = {}
    for name in TASKS:
        for side in SIDES:
            table = xr.concat([effect(result, name, side, w) for w in WINDOWS], "window").transpose(
                "prompt", ...
            )
            known = table.dropna("prompt")
            found[f"order_p.{name}.{side}"] = order_p(known.values)
            enough = known.sizes["prompt"] > 1
            share = strongest_window(known, n_resamples=RESAMPLES).values if enough else [np.nan] * 3
            found |= {f"strongest.{name}.{side}.{w}": float(s) for w, s in zip(WINDOWS, share)}
    return levels(found, "1")


def preference(result: xr.Dataset, task: str, side: str) -> xr.DataArray:
    """Return the judge's preferences of a side's comparison, (order, prompt): +1 for the reply with IT's late MLPs."""
    at = {"pair_task": PAIRWISE[task], "comparison": COMPARED[side]}
    return result["preference"].sel(**at, drop=True).reset_coords(drop=True).astype(float)


def preferences(result: xr.Dataset) -> Quantities:
    """Return, by task and side, `net_preference`, wins less losses by prompt over both orders of presentation; `win`, `tie`,
    `loss` and `flip`, shares of prompts (flip: the orders disagree); `sign_p`, the sign test of wins against losses.
    """
    net, shares, p = {}, {}, {}
    for task in PAIRWISE:
        for side in SIDES:
            both, at = preference(result, task, side), f"{task}.{side}"
            known = both.notnull().all("order")
            same = both.isel(order=0, drop=True) == both.isel(order=-1, drop=True)
            net[f"net_preference.{at}"] = both.mean("order", skipna=False)
            one = both.isel(order=0, drop=True)
            for word, sign in (("win", 1), ("tie", 0), ("loss", -1)):
                shares[f"{word}.{at}"] = ((one == sign) & same).astype(float).where(known)
            shares[f"flip.{at}"] = (~same).astype(float).where(known)
            p[f"sign_p.{at}"] = sign_test(one.where(same & known)).p if known.any() else np.nan
    return shifts(net, "1", BY_RUBRIC) | levels(shares | p, "1", BY_RUBRIC)


def closures(result: xr.Dataset) -> Quantities:
    """Return `<outcome>_closure.<side>.<window>`: the share of the way between A and C that a graft goes, a ratio of means;
    no interval where C − A is not separated from zero. On the side of necessity it is the way from C to A.
    """
    found = {}
    for name in TASKS:
        for side, (letter, base) in SIDES.items():
            ends = [outcome(result, name, one).values for one in (base, "C" if base == "A" else "A")]
            for window in WINDOWS:
                moved, at = outcome(result, name, f"{letter}_{window}").values, f"{side}.{window}"
                if np.isfinite(moved + sum(ends)).sum() > 1:
                    ratio = closure(ends[0], moved, ends[1], n_resamples=RESAMPLES).ratio_of_means
                    found[f"{name}_closure.{at}"] = ratio
    return levels(found, "1", centre=0.0)


def internals(result: xr.Dataset) -> Quantities:
    """Return `internal.<side>.<window>`, nats [internal_prompt]: what the same graft does to late KL(layer ‖ own final)."""
    inside = result["internal_shift"].astype(float)
    found = {
        f"internal.{side}.{window}": inside.sel(side=side, window=window, drop=True).reset_coords(drop=True)
        for side in SIDES
        for window in WINDOWS
    }
    return shifts(found, "nats", "on forced replies to other prompts; necessity with its sign turned")


def quantities(result: xr.Dataset) -> Quantities:
    """Return the quantities of exp15."""
    found = level(result) | effects(result) | stopping(result) | controls(result) | tests(result)
    return found | order(result) | preferences(result) | closures(result) | internals(result)


STORED = "a count or setting of the study's files; this run has its own prompts, and counts of its own"
COUNTS = {
    "coverage": ("prompts_per_condition", "forced_choice_per_condition", "families", "judge_files", "max_new_tokens_t200",
                 "max_new_tokens_t512"),
    "subset": ("assistant_facing", "conversation_source", "safety_benign", "safety_harmful", "human_audit_rows",
               "audit_overlap", "audit_holdout", "gov_register", "safety", "gov_format", "content_fact", "content_reason",
               "baseline_easy", "gov_conv_extra"),
    "source": ("mmlu", "gsm8k", "ifeval", "mt_bench", "wildchat", "advbench", "custom_safe", "custom"),
}  # fmt: skip
UNMEASURED = {f"{kind}.{name}": STORED for kind, names in COUNTS.items() for name in names}
# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "*_effect.*": ("main_figure", effects),
    "*_lead.*": ("order", effects),
    "*_stopping.*": ("stopping", stopping),
    "order_p.*": ("order", order),
    "strongest.*": ("order", order),
    "*_closure.*": ("closure", closures),
    "net_preference.*": ("preferences", preferences),
    "internal.*": ("internal", internals),
    "*": ("levels", level),
}
