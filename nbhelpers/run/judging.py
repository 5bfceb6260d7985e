"""`nbh judge`: language models judge the replies that a finished result holds, at an endpoint that the user names.

Nothing is sent unless OPENAI_BASE_URL, OPENAI_API_KEY and a judge model are given. Answers are kept as they come in
_build/judge_cache.sqlite; the same command goes on where it was ended, and pays for nothing again. What was on its way at a
kill, at most `concurrency` requests, is asked again. `make clean` deletes the cache with the rest of _build.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from tqdm import tqdm

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.params import ParameterError
from nbhelpers.core.variables import described
from nbhelpers.measures import judge as judging
from nbhelpers.measures import llm_judge, rubrics
from nbhelpers.measures.judge import PAIRWISE, TASKS, Item, JudgeError
from nbhelpers.measures.llm_judge import EndpointJudge
from nbhelpers.models.endpoint import CONCURRENCY, Ask, Endpoint, EndpointError, guessed
from nbhelpers.models.evaluation import read_evaluation
from nbhelpers.models.verdict_cache import CacheError, VerdictCache
from nbhelpers.run import locks

# Pairs of conditions that are compared, (target, other), where a result has both.
COMPARISONS = {"pt_late_vs_a": ("B_late", "A"), "it_c_vs_dlate": ("C", "D_late")}
ANSWER_TOKENS = 40  # of an answer, about, for predicted costs


class Wanted(NamedTuple):
    """What is to be judged of one result."""

    run: params.Run
    pairs: list
    text: xr.DataArray
    comparisons: dict[str, tuple[str, str]]


class Service(NamedTuple):
    """Where judges are asked: address, key, names of models, and how many requests at a time."""

    url: str
    key: str
    models: list[str]
    concurrency: int = CONCURRENCY


def service(models: Sequence[str] = (), concurrency: int = CONCURRENCY, *, dry_run: bool = False) -> Service:
    """Return the endpoint that the environment names: OPENAI_BASE_URL, OPENAI_API_KEY, and NBH_JUDGE_MODEL without `models`.

    ParameterError says which of them is missing; a dry run needs no key.
    """
    url, key = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")
    names = list(dict.fromkeys(models or os.environ.get("NBH_JUDGE_MODEL", "").split()))
    if not url:
        raise ParameterError(
            "no endpoint is named: set OPENAI_BASE_URL, such as https://host/v1; nothing was sent."
        )
    if not key and not dry_run:
        raise ParameterError(
            "no key is set: put the endpoint's into OPENAI_API_KEY (any word where it asks for none); nothing was sent."
        )
    if not names:
        raise ParameterError(
            "no judge is named: give --judge-model or set NBH_JUDGE_MODEL; nothing was sent."
        )
    return Service(url, key, names, concurrency)


def wanted(experiment: str, model: str, profile: str = "") -> Wanted:
    """Return what can be judged of a finished result: its replies with their prompts, and the comparisons that it allows.

    ParameterError if the experiment holds no replies; `store.ResultError` if it is not measured yet.
    """
    run = experiments.resolve(experiment, model=model, profile=profile or None)
    found = experiments.load(run.profile.name, model, experiment)
    source = getattr(run.experiment, "prompts", run.profile.prompts)
    if "text" not in found or set(found["text"].dims) != {"condition", "prompt"}:
        raise ParameterError(
            f"{experiment} holds no replies by condition and prompt, so there is nothing to judge."
        )
    by_id = {prompt.id: (prompt, record) for prompt, record in read_evaluation(source)}
    ids = [str(name) for name in found["prompt"].values]
    if lost := [name for name in ids if name not in by_id]:
        raise ParameterError(
            f"the prompt {lost[0]!r} of {experiment} is no longer among its prompts; measure it anew."
        )
    conditions = set(found["condition"].values.tolist())
    comparisons = {name: pair for name, pair in COMPARISONS.items() if conditions.issuperset(pair)}
    text = found["text"].transpose("condition", "prompt")
    return Wanted(run, [by_id[name] for name in ids], text, comparisons)


class Collector:
    """A judge that keeps the items that it is asked about, and gives no verdict."""

    name = "collector"

    def __init__(self):
        self.items: list[Item] = []

    def __call__(self, items: Sequence[Item]) -> list[judging.Verdict]:
        """Return a missing verdict for each item."""
        self.items += items
        return [judging.Verdict(np.nan)] * len(items)


def items_of(what: Wanted) -> list[Item]:
    """Return every item that judging a result asks about, each once."""
    collector = Collector()
    _verdicts([collector], what)
    return list(dict.fromkeys(collector.items))


def _verdicts(judges, what: Wanted) -> xr.Dataset:
    """Return ratings and preferences of judges in one dataset; `task` holds the tasks of both."""
    parts = [judging.rated(judges, what.pairs, what.text)]
    if what.comparisons:
        parts.append(judging.preferred(judges, what.pairs, what.text, what.comparisons))
    found = xr.merge(parts, join="outer", compat="override").reindex(
        task=[*TASKS, *(PAIRWISE if parts[1:] else ())]
    )
    marks = {
        name: found[name].fillna(0).assign_attrs(found[name].attrs)
        for name in found
        if "missing" in str(name)
    }
    return found.assign(marks)


def judge(
    experiment: str,
    model: str,
    *,
    profile: str = "",
    judge_models: Sequence[str] = (),
    dry_run: bool = False,
    prices: tuple[float, float] = (0.0, 0.0),
    retry_missing: bool = False,
    concurrency: int = CONCURRENCY,
) -> Iterator[str]:
    """Judge the replies of one result and write <experiment>_judge.nc beside it; yield what was done, line by line.

    Parameters
    ----------
    experiment, model, profile
        The result, which must exist.
    judge_models
        Names of models at the endpoint; by default those of NBH_JUDGE_MODEL.
    dry_run
        Only say how many requests, tokens and how much money it would take; sends nothing.
    prices
        Money for a million tokens read and written.
    retry_missing
        Whether to ask again what could not be read before.
    concurrency
        Requests at a time.

    Raises
    ------
    ParameterError
        If no endpoint, key or judge is named, or the result cannot be judged.
    store.ResultError
        If the result is missing or the endpoint or its cache fails; what was answered is kept.
    """
    at, what = service(judge_models, concurrency, dry_run=dry_run), wanted(experiment, model, profile)
    try:
        if dry_run:
            yield from _predicted(at, what, prices, retry_missing)
            return
        with locks.alone("a judge", "judge"):
            yield from _judged(at, what, prices, retry_missing)
    except (EndpointError, CacheError, JudgeError) as error:
        raise store.ResultError(str(error)) from None


def _endpoints(at: Service, cache: VerdictCache, name: str, retry_missing: bool) -> tuple[Endpoint, Endpoint]:
    """Return one model's endpoint for verdicts, and that for the second verdicts of the retest."""
    options = {"concurrency": at.concurrency, "retry_missing": retry_missing}
    return tuple(Endpoint(at.url, name, at.key, cache, slot=slot, **options) for slot in ("", "retest"))


def cache_path():
    """Return the path of the cache of answers."""
    return params.ROOT / "_build" / "judge_cache.sqlite"


def _predicted(at: Service, what: Wanted, prices, retry_missing: bool) -> Iterator[str]:
    """Yield one line for each judge: requests, those cached already, tokens and cost."""
    items, cache = items_of(what), VerdictCache(cache_path())
    again = llm_judge.retested(items)
    for name in at.models:
        main, retest = _endpoints(at, cache, name, retry_missing)
        asks = [rubrics.ask(item) for item in items], [rubrics.ask(item) for item in again]
        left: list[Ask] = main.waiting(asks[0]) + retest.waiting(asks[1])
        read, written = sum(guessed(ask.messages) for ask in left), ANSWER_TOKENS * len(left)
        cached = len(items) + len(again) - len(left)
        yield (
            f"{name}: {len(left)} requests ({cached} more are cached), about {read} tokens read and {written} written"
            f"{_money(read, written, prices)}"
        )
    cache.close()
    yield "nothing was sent; tokens are guessed as a quarter of the characters, and second tries come on top"


def _money(read: int, written: int, prices: tuple[float, float]) -> str:
    """Return the cost of tokens in words, nothing without prices."""
    return f", {(read * prices[0] + written * prices[1]) / 1e6:.2f} in money" if any(prices) else ""


def _judged(at: Service, what: Wanted, prices, retry_missing: bool) -> Iterator[str]:
    """Ask every judge, write the verdicts, and yield one line for each judge, warning and file."""
    started, cache, parts = time.time(), VerdictCache(cache_path()), []
    items = items_of(what)
    again = llm_judge.retested(items)
    for name in at.models:
        main, retest = _endpoints(at, cache, name, retry_missing)
        with tqdm(total=len(items) + len(again), desc=name, disable=None) as shown:
            asked = EndpointJudge(main, done=shown.update)
            first = dict(zip(items, asked(items)))
            second = EndpointJudge(retest, done=shown.update)(again)
        parts.append(
            _with_retest(_verdicts([Known(name, first)], what), again, [first[i] for i in again], second)
        )
        read, written = (getattr(main, n) + getattr(retest, n) for n in ("tokens_in", "tokens_out"))
        sent, failed = main.sent + retest.sent, main.failed + retest.failed
        yield (
            f"{name}: {len(items)} items, {sent} requests now ({failed} failed), {read} tokens read and {written} written"
            f"{_money(read, written, prices)}"
        )
    cache.close()
    found = xr.concat(parts, "judge")
    yield from _steadiness(found)
    yield from judging.complaints(found)
    if "preference" in found:
        yield from judging.complaints(found[["preference", "preference_missing"]])
    yield f"wrote {store.shown(_saved(found, what, at, started))}"
    run = what.run
    yield f"`nbh run {run.key} --model {run.model.key} --profile {run.profile.name}` draws its page with them"


class Known:
    """A judge whose verdicts are known already."""

    def __init__(self, name: str, verdicts: dict[Item, judging.Verdict]):
        self.name, self.verdicts = name, verdicts

    def __call__(self, items: Sequence[Item]) -> list[judging.Verdict]:
        """Return the verdicts of items."""
        return [self.verdicts[item] for item in items]


def _with_retest(found: xr.Dataset, again, first, second) -> xr.Dataset:
    """Return one judge's dataset with its flips, (judge, task), and its swaps, (judge, task, comparison)."""
    flips = llm_judge.flips(again, first, second, found["task"].values.tolist())
    whole = found.assign(flips.expand_dims(judge=found["judge"].values))
    if "preference" in whole:
        whole["order_swaps"] = judging.order_swaps(whole["preference"])
    return described(whole, llm_judge.STEADINESS)


def _steadiness(found: xr.Dataset) -> Iterator[str]:
    """Yield one line for each judge: how often it says something else when asked again, or in the other order."""
    for name in found["judge"].values:
        one = found.sel(judge=name)
        line = f"{name}: {one['retest_flips'].sum():.0f} of {one['retest_n'].sum():.0f} verdicts differ when asked again"
        if "order_swaps" in one and one["order_swaps"].notnull().any():
            line += f", {one['order_swaps'].mean():.1%} of the preferences in the other order (mean over comparisons)"
        yield line


def _saved(found: xr.Dataset, what: Wanted, at: Service, started: float):
    """Return the path of the verdicts after writing them with what they are of and what they were asked with."""
    run = what.run
    about = store.provenance(run, wall_time_s=time.time() - started, device="endpoint")
    about |= {
        "experiment": f"{run.key}_judge",
        "text_digest": llm_judge.text_digest(what.text),
        "endpoint": at.url,
        "rubrics": " ".join(f"{task}:{rubrics.rubric_hash(task)}" for task in found["task"].values),
    }
    path = llm_judge.judged_path(run.profile.name, run.model.key, run.key)
    return store.save(found, path, provenance=about, expects=judging.VARIABLES)
