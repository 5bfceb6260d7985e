"""exp06: replies of all arms and their scores, what arms predict on IT's own replies, the gap under each dose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from nbhelpers.core.store import ResultError
from nbhelpers.experiments.exp06_steering.arms import PROMPTED, described
from nbhelpers.experiments.exp06_steering.content import content
from nbhelpers.experiments.exp06_steering.experiment import CONTROLLED, ROWS, Params
from nbhelpers.measures import lens, replies, scoring, steering
from nbhelpers.measures.arms import Arm, Vectors
from nbhelpers.measures.forced_choice import forced_choice, runs
from nbhelpers.measures.refusal import CLASSES, engagement
from nbhelpers.models import corpora, tokens
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import read_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, read_as

Known = list[tuple[Prompt, dict]]  # prompts with their records
PLAINLY = "Answer in plain running text, without any formatting. "  # the prompt-only baseline
EXTRA = ("content", "choice_logprob", "capped", "length", "nll_unedited")
METRICS = (*scoring.METRICS, *EXTRA)
UNREAD = ("matched", "unit", "single")  # groups whose choices are not read by log-probability


def chosen(known: Known, used: Sequence[str], options: Params) -> tuple[Known, Known]:
    """Return the prompts of the evaluation, and further ones of role format that choose the dose; all are disjoint.

    known: every prompt with its record. used: ids of the prompts that directions were collected on; none of them is taken.
    """

    def role(record):
        return scoring.task(record).role

    evaluation = replies.held_out(known, role, options.counts, without=used, seed=options.seed)
    taken = [*used, *(prompt.id for prompt, _ in evaluation)]
    left = [pair for pair in known if pair[0].id not in set(taken) and role(pair[1]) == "format"]
    if not options.n_tuning or not left:
        return evaluation, []
    return evaluation, replies.held_out(
        left, role, {"format": options.n_tuning}, without=taken, seed=options.seed + 1
    )


def steered(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], vectors: Vectors, options: Params
) -> xr.Dataset:
    """Return `steering.written` for any number of prompts; the edits of at most about 2,048 rows are held at once."""
    at_once = max(1, ROWS // len(arms))
    parts = [
        steering.written(
            pair, arms, prompts[start : start + at_once], vectors,
            max_new_tokens=options.max_new_tokens, batch_size=options.batch_size,
        )
        for start in range(0, len(prompts), at_once)
    ]  # fmt: skip
    return xr.concat(parts, "prompt")


def narrow(groups: Mapping[str, list[Arm]], options: Params) -> set[str]:
    """Return the names of the random controls that answer only prompts of `CONTROLLED` roles: all but a few at each dose."""
    by_dose: dict[float, list[str]] = {}
    for arm in groups.get("matched", ()):
        by_dose.setdefault(arm.dose, []).append(arm.name)
    return {name for names in by_dose.values() for name in names[options.n_elsewhere :]}


def with_baseline(
    pair: Pair, groups: Mapping[str, list[Arm]], known: Known, vectors: Vectors, options: Params
) -> xr.Dataset:
    """Return `steered` of all arms, and of IT as it is if the message first asks for plain text: the baseline by a prompt.

    `answered` (arm, prompt) says which replies there are: arms of `narrow` answer requests for a form and choices alone.
    """
    prompts, fewer = [prompt for prompt, _ in known], narrow(groups, options)
    arms = [arm for group in groups.values() for arm in group]
    wide = [arm for arm in arms if arm.name not in fewer]
    found = [steered(pair, wide, prompts, vectors, options)]
    some = [prompt for prompt, record in known if scoring.task(record).role in CONTROLLED]
    if fewer and some:
        found.append(steered(pair, [arm for arm in arms if arm.name in fewer], some, vectors, options))
    asked = [replace(prompt, message=PLAINLY + prompt.message) for prompt in prompts]
    found.append(steered(pair, [PROMPTED], asked, {}, options))
    blank = {"text": "", "ids": "", "n_tokens": 0, "capped": False, "edited_positions": 0, "answered": False}
    whole = [
        part.assign(answered=xr.ones_like(part["capped"])).reindex(prompt=found[0].prompt, fill_value=blank)
        for part in found
    ]
    return xr.concat(whole, "arm").sel(arm=[*(arm.name for arm in arms), PROMPTED.name])


@torch.no_grad()
def mean_nll(
    decoder: Decoder, rows: Sequence[Sequence[int]], read: Sequence[Continuation], *, batch_size: int
) -> np.ndarray:
    """Return the mean negative log-probability of the forced tokens after each row under the unedited model, nats [row]."""
    found = np.zeros(len(rows))

    def nll(batch):
        h = steering.last_residuals(decoder, batch, (), [0])[0]
        own = {"metrics": ("target_log_probability",), "targets": batch.targets.to(h.device)}
        values = lens.lens_metrics([h], decoder.unembedding, **own)["target_log_probability"][0]
        return batch.rows, steering.by_row(-values, batch)

    for chosen, values in read_batches(decoder, rows, read, nll, batch_size=batch_size, what="NLL"):
        found[chosen] = values
    return found


def reply_nll(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], found: xr.Dataset, *, batch_size: int
) -> np.ndarray:
    """Return the mean NLL of a token of each arm's reply under its unedited host, nats [arm, prompt].

    nll = −(1/n) Σ_t log p(y_t | prompt, y_<t), p of the host with nothing changed
    A text that several arms write is read once.
    """
    nll = np.full((len(arms), len(prompts)), np.nan)
    for decoder, prompt_format, members in runs(pair, arms):
        written = {i: steering.continuations(found, arms[i].name) for i in members}
        cells = list({(p, written[i][p].ids): None for i in members for p in range(len(prompts))})
        rows = read_as(decoder, prompts, prompt_format)
        texts = [Continuation(ids, True) for _, ids in cells]
        values = mean_nll(decoder, [rows[p] for p, _ in cells], texts, batch_size=batch_size)
        known = dict(zip(cells, values))
        for i in members:
            nll[i] = [known[p, written[i][p].ids] for p in range(len(prompts))]
    return nll


def on_own_replies(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], read: Sequence[Continuation], vectors: Vectors,
    options: Params,
) -> xr.Dataset:  # fmt: skip
    """Return `steering.forced` on IT's unedited replies to every `force_every`-th prompt, as `forced_<readout>`."""
    some = slice(None, None, options.force_every)
    found = steering.forced(pair, arms, prompts[some], read[some], vectors, batch_size=options.batch_size)
    return found.rename({name: f"forced_{name}" for name in steering.READ}).astype("float32")


def _ids(known: Known) -> list[str]:
    return [prompt.id for prompt, _ in known]


def scored(found: xr.Dataset, known: Known, extra: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return `score` (metric, arm, prompt) and `engagement` (arm, prompt) of written replies, NaN and −1 without a reply.

    extra: {metric: [arm, prompt]} beside those of the texts.
    """
    tasks = [scoring.task(record) for _, record in known]
    values = np.full((len(METRICS), *found["text"].shape), np.nan, dtype=np.float32)
    kinds, seen = np.full(found["text"].shape, -1), {}
    there = found["answered"].values if "answered" in found else np.ones(kinds.shape, bool)
    for a, p in np.argwhere(there):
        text = str(found["text"].values[a, p])
        if (p, text) not in seen:
            own = scoring.scores(tasks[p], text) | {"content": content(tasks[p], known[p][1], text)}
            seen[p, text] = own, CLASSES.index(engagement(text, tasks[p].message))
        own, kinds[a, p] = seen[p, text]
        values[[METRICS.index(name) for name in own], a, p] = list(own.values())
    more = {"capped": found["capped"].values, "length": found["n_tokens"].values} | dict(extra)
    for name, each in more.items():
        values[METRICS.index(name)] = np.where(there, each, np.nan)
    dims = ("arm", "prompt")
    coords = {"metric": list(METRICS)} | {dim: found[dim].values for dim in dims}
    return xr.Dataset({"score": (("metric", *dims), values), "engagement": (dims, kinds)}, coords)


def all_scores(
    pair: Pair,
    groups: Mapping[str, list[Arm]],
    known: Known,
    found: xr.Dataset,
    vectors: Vectors,
    options: Params,
) -> xr.Dataset:
    """Return `scored` of the replies of all arms, with their NLL under the unedited host and choices by log-probability.

    The NLL is not read under the many random controls that answer fewer prompts; choices under no random control, nor under
    single layers.
    """
    arms = [arm for group in groups.values() for arm in group]
    fewer = [arm for name, group in groups.items() if name not in UNREAD for arm in group]
    read = [arm for arm in arms if arm.name not in narrow(groups, options)] + [PROMPTED]
    prompts = [prompt for prompt, _ in known]
    likely = forced_choice(pair, fewer, known, vectors, batch_size=options.batch_size)
    nll = reply_nll(pair, read, prompts, found, batch_size=options.batch_size)
    nll = xr.DataArray(nll, {"arm": [arm.name for arm in read]}, ("arm", "prompt"))
    extra = {
        "nll_unedited": nll.reindex(arm=found["arm"].values).values,
        "choice_logprob": likely.reindex(arm=found["arm"].values).values,
    }
    return scored(found, known, extra)


def neutral_prompts(decoder: Decoder, options: Params) -> tuple[list[Prompt], list[Continuation]]:
    """Return neutral texts as a start of five words and the tokens that follow it, `text_tokens` of each at most."""
    starts, rest = [], []
    for text in corpora.texts(options.corpus):
        words = text.split(" ")
        ids = tokens.plain_ids(decoder.tokenizer, " " + " ".join(words[5:]))[: options.text_tokens]
        if ids:
            start = " ".join(words[:5])
            starts.append(Prompt(f"text-{len(starts)}", "text", start, start))
            rest.append(Continuation(tuple(ids), True))
        if len(starts) == options.n_texts:
            break
    return starts, rest


def on_neutral_text(pair: Pair, arms: Sequence[Arm], vectors: Vectors, options: Params) -> xr.Dataset:
    """Return the size of each dose on neutral text, `neutral_kl` and `neutral_residual_change` (neutral_arm, text_id)."""
    starts, rest = neutral_prompts(pair.it, options)
    raw = [replace(arm, prompt_format="raw") for arm in arms]
    read = steering.forced(pair, raw, starts, rest, vectors, batch_size=options.batch_size)
    read = read.rename(arm="neutral_arm", prompt="text_id")
    return xr.Dataset(
        {"neutral_kl": read["kl_unedited"], "neutral_residual_change": read["residual_change"]}
    ).astype("float32")


def on_tuning_prompts(
    pair: Pair, arms: Sequence[Arm], known: Known, vectors: Vectors, options: Params
) -> xr.Dataset:
    """Return `tuning_format` and `tuning_incoherent` (tuned_arm, tuning_prompt) on the prompts that choose a dose."""
    found = steered(pair, arms, [prompt for prompt, _ in known], vectors, options)
    score = scored(found, known, {})["score"]
    parts = {
        f"tuning_{name.removesuffix('_loose')}": score.sel(metric=name, drop=True)
        for name in ("format", "incoherent")
    }
    names = {"arm": "tuned_arm", "prompt": "tuning_prompt"}
    return xr.Dataset(
        {name: (tuple(names.values()), values.values) for name, values in parts.items()},
        {names[dim]: found[dim].values for dim in names},
    )


def assembled(
    groups: Mapping[str, list[Arm]],
    known: Known,
    found: xr.Dataset,
    parts: Sequence[xr.Dataset],
    n_layers: int,
) -> xr.Dataset:
    """Return one dataset of all parts, with what each arm is and each prompt asks; values that a part lacks are NaN.

    `text` (shown_arm, prompt): the replies of the doses, of the prompt-only baseline and of the unedited models.
    """
    about = described({**groups, "prompted": [PROMPTED]}, n_layers)
    prompts, shown = (
        _ids(known),
        [*(arm.name for key in ("dose", "plain") for arm in groups[key]), PROMPTED.name],
    )
    whole = {"arm": about["arm"], "prompt": prompts}
    aligned = [part.reindex({dim: whole[dim] for dim in part.dims if dim in whole}) for part in parts]
    result = xr.merge([*aligned, found[["edited_positions"]]], join="exact", combine_attrs="drop")
    asked = [scoring.task(record) for _, record in known]
    return result.assign_coords(about).assign_coords(
        role=("prompt", np.array([task.role for task in asked], dtype=object)),
        message=("prompt", np.array([prompt.message for prompt, _ in known], dtype=object)),
    ).assign(
        text=(("shown_arm", "prompt"), found["text"].sel(arm=shown).values)
    ).assign_coords(shown_arm=shown).assign_attrs(n_layers=n_layers)  # fmt: skip


def check_upstream(artifact: xr.Dataset, prompts: Sequence[Prompt]) -> None:
    """Raise ResultError if a prompt of the evaluation is one that the directions were collected on."""
    both = sorted(set(artifact.prompt.values.tolist()) & {prompt.id for prompt in prompts})
    if both:
        raise ResultError(
            f"the prompt {both[0]!r} is among those of the directions: give exp06 other prompts (`prompts`)."
        )
