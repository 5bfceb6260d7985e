"""exp06: replies of all arms and their scores, what arms predict on IT's own replies, the gap under each dose."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from nbhelpers.core.depths import onset
from nbhelpers.core.store import ResultError
from nbhelpers.experiments.exp06_steering.arms import PROMPTED, described
from nbhelpers.experiments.exp06_steering.content import content
from nbhelpers.experiments.exp06_steering.experiment import ROWS, Params
from nbhelpers.measures import lens, replies, scoring, steering, tuned_lens
from nbhelpers.measures.commitment import kl_stays, top1_strict
from nbhelpers.measures.refusal import CLASSES, engagement
from nbhelpers.measures.steering import Arm, Vectors
from nbhelpers.models import corpora, tokens
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import forced_batch, forward, replay_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, read_as
from nbhelpers.models.row_edits import as_edits

Known = list[tuple[Prompt, dict]]  # prompts with their records
PLAINLY = "Answer in plain running text, without any formatting. "  # the prompt-only baseline
EXTRA = ("content", "choice_logprob", "capped", "length", "nll_unedited")
METRICS = (*scoring.METRICS, *EXTRA)
RULES = {
    "kl_stays_0.1": lambda read: kl_stays(read["kl_layer_final"]),
    "top1_strict": lambda read: top1_strict(read["top1"]),
}


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
    """Return `steering.written` for any number of arms and prompts.

    Arms that act in late layers alone decode together, so that no other row pays for an edit of early layers; the edits of at
    most about 2,048 rows are held at once.
    """
    late = onset(pair.n_layers)
    parts = [
        [arm for arm in arms if (min(arm.layers, default=late) >= late) is here] for here in (True, False)
    ]
    found = []
    for part in filter(None, parts):
        at_once = max(1, ROWS // len(part))
        pieces = [
            steering.written(
                pair, part, prompts[start : start + at_once], vectors,
                max_new_tokens=options.max_new_tokens, batch_size=options.batch_size,
            )
            for start in range(0, len(prompts), at_once)
        ]  # fmt: skip
        found.append(xr.concat(pieces, "prompt"))
    return xr.concat(found, "arm").sel(arm=[arm.name for arm in arms])


def prompted(pair: Pair, prompts: Sequence[Prompt], options: Params) -> xr.Dataset:
    """Return what unedited IT writes if the message first asks for plain text: the baseline that needs no steering."""
    asked = [replace(prompt, message=PLAINLY + prompt.message) for prompt in prompts]
    return steered(pair, [PROMPTED], asked, {}, options)


def _runs(pair: Pair, arms: Sequence[Arm]) -> Iterator[tuple[Decoder, str, list[int]]]:
    """Yield (decoder, prompt format, indices of its arms)."""
    for host, prompt_format in dict.fromkeys((arm.host, arm.format) for arm in arms):
        members = [i for i, arm in enumerate(arms) if (arm.host, arm.format) == (host, prompt_format)]
        yield getattr(pair, host), prompt_format, members


@torch.no_grad()
def mean_nll(
    decoder: Decoder, rows: Sequence[Sequence[int]], read: Sequence[Continuation], *, batch_size: int
) -> np.ndarray:
    """Return the mean negative log-probability of the forced tokens after each row under the unedited model, nats [row]."""
    found = np.zeros(len(rows))
    for batch in replay_batches(rows, read, batch_size, decoder.pad_id):
        h = steering.last_residuals(decoder, batch, (), [0])[0]
        targets = decoder.unembedding.rows(batch.targets).to(h.device)
        nll = -steering.log_probabilities(decoder, h).gather(-1, targets[:, None])[:, 0]
        count = [len(steps) for steps in batch.steps]
        sums = np.bincount(np.repeat(np.arange(len(count)), count), nll.double().cpu().numpy())
        found[batch.rows] = sums / count
    return found


def reply_nll(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], found: xr.Dataset, *, batch_size: int
) -> np.ndarray:
    """Return the mean NLL of a token of each arm's reply under its unedited host, nats [arm, prompt].

    nll = −(1/n) Σ_t log p(y_t | prompt, y_<t), p of the host with nothing changed. A text that several arms write is read
    once.
    """
    nll = np.full((len(arms), len(prompts)), np.nan)
    for decoder, prompt_format, members in _runs(pair, arms):
        written = {i: steering.continuations(found, arms[i].name) for i in members}
        cells = list({(p, written[i][p].ids): None for i in members for p in range(len(prompts))})
        rows = read_as(decoder, prompts, prompt_format)
        texts = [Continuation(ids, True) for _, ids in cells]
        values = mean_nll(decoder, [rows[p] for p, _ in cells], texts, batch_size=batch_size)
        known = dict(zip(cells, values))
        for i in members:
            nll[i] = [known[p, written[i][p].ids] for p in range(len(prompts))]
    return nll


def candidate_ids(decoder: Decoder, prompt_format: str, text: str) -> Continuation:
    """Return a candidate reply as the tokens that the model reads after a prompt; after raw text it opens with a space."""
    text = text.strip() if prompt_format == "chat" else f" {text.strip()}"
    return Continuation(tuple(tokens.plain_ids(decoder.tokenizer, text)), True)


def forced_choice(
    pair: Pair, arms: Sequence[Arm], known: Known, vectors: Vectors, *, batch_size: int
) -> xr.DataArray:
    """Return whether each arm gives the right candidate the largest log p, 0 or 1 (arm, prompt); NaN without candidates.

    log p(candidate) = Σ_t log p(y_t | prompt, y_<t) of the whole reply with one option's value and letter.
    """
    right = np.full((len(arms), len(known)), np.nan)
    places = [p for p, (_, record) in enumerate(known) if scoring.task(record).role == "choice"]
    sets = {p: scoring.candidates(known[p][1]) for p in places}
    repeated = [known[p][0] for p in places for _ in sets[p][0]]
    ends = np.cumsum([0, *(len(sets[p][0]) for p in places)])
    for decoder, prompt_format, members in _runs(pair, arms) if places else ():
        read = [candidate_ids(decoder, prompt_format, text) for p in places for text in sets[p][0]]
        mine = [arms[i] for i in members]
        nll = steering.forced(pair, mine, repeated, read, vectors, batch_size=batch_size)["nll"].values
        total = nll * [len(one.ids) for one in read]
        for p, start, stop in zip(places, ends, ends[1:]):
            right[members, p] = total[:, start:stop].argmin(1) == sets[p][1]
    return xr.DataArray(right, {"arm": [arm.name for arm in arms], "prompt": _ids(known)}, ("arm", "prompt"))


def on_own_replies(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], read: Sequence[Continuation], vectors: Vectors,
    options: Params,
) -> xr.Dataset:  # fmt: skip
    """Return `steering.forced` of all arms on IT's unedited replies to every `force_every`-th prompt, as `forced_<readout>`."""
    some = slice(None, None, options.force_every)
    found = steering.forced(pair, arms, prompts[some], read[some], vectors, batch_size=options.batch_size)
    return found.rename({name: f"forced_{name}" for name in steering.READ}).astype("float32")


def _ids(known: Known) -> list[str]:
    return [prompt.id for prompt, _ in known]


def scored(found: xr.Dataset, known: Known, extra: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return `score` (metric, arm, prompt) and `engagement` (arm, prompt) of written replies.

    extra: {metric: [arm, prompt]} beside those of the texts.
    """
    tasks = [scoring.task(record) for _, record in known]
    values = np.full((len(METRICS), *found["text"].shape), np.nan, dtype=np.float32)
    kinds, seen = np.zeros(found["text"].shape, dtype=np.int64), {}
    for a, p in np.ndindex(found["text"].shape):
        text = str(found["text"].values[a, p])
        if (p, text) not in seen:
            own = scoring.scores(tasks[p], text) | {"content": content(tasks[p], known[p][1], text)}
            seen[p, text] = own, CLASSES.index(engagement(text, tasks[p].message))
        own, kinds[a, p] = seen[p, text]
        values[[METRICS.index(name) for name in own], a, p] = list(own.values())
    more = {"capped": found["capped"].values, "length": found["n_tokens"].values} | dict(extra)
    for name, each in more.items():
        values[METRICS.index(name)] = each
    dims = ("arm", "prompt")
    return xr.Dataset(
        {"score": (("metric", *dims), values), "engagement": (dims, kinds)}, {"metric": list(METRICS)}
    )


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
    """Return `tuning_format` and `tuning_incoherent` (tuned_arm, tuning_prompt) of the doses on the prompts that choose one."""
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


def _by_prompt(values: torch.Tensor, batch, n: int) -> np.ndarray:
    """Return means over each row's tokens of values [layer, token], [row of the batch, layer]."""
    row = np.repeat(np.arange(n), [len(steps) for steps in batch.steps])
    flat = values.double().cpu().numpy()
    return (
        np.stack([np.bincount(row, layer, n) for layer in flat], 1) / np.bincount(row, minlength=n)[:, None]
    )


def _lens_read(decoder, stream, translators, unedited_final, options) -> dict[str, dict[str, torch.Tensor]]:
    """Return {lens: {metric: [layer, token]}} of a stream, own final and unedited IT's final as end points."""
    found = {}
    for name, states in {
        "raw": stream.residual, "tuned": tuned_lens.translate(translators, stream.residual),
    }.items():  # fmt: skip
        own = lens.lens_metrics(
            states, decoder.unembedding, metrics=("kl_layer_final", "top1"), rows=options.lens_rows
        )
        ends = [*states, unedited_final]
        far = lens.lens_metrics(
            ends, decoder.unembedding, metrics=("kl_layer_final",), rows=options.lens_rows
        )
        found[name] = own | {"kl_layer_unedited_final": far["kl_layer_final"][:-1]}
    return found


def gap(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], read: Sequence[Continuation], vectors: Vectors,
    lenses: Mapping[str, tuned_lens.TunedLens], options: Params,
) -> xr.Dataset:  # fmt: skip
    """Return how far each layer lies from the end under every dose, all on IT's own replies, with PT as reference.

    `kl_layer_final`, `kl_layer_unedited_final` (reader, lens, layer, prompt) and `commitment` (reader, lens, rule, prompt),
    means over a prompt's tokens. KL = Σ_v p_ℓ(v) (log p_ℓ(v) − log p_end(v)). reader: the arms' names, then "pt", which reads
    the same tokens after its raw prompt through its own lens.
    """
    readers = [*(arm.name for arm in arms), "pt"]
    L, shape = pair.n_layers, (len(readers), 2)
    kl = np.full((2, *shape, L, len(prompts)), np.nan, dtype=np.float32)
    commit = np.full((*shape, len(RULES), len(prompts)), np.nan, dtype=np.float32)
    rows = {"it": read_as(pair.it, prompts, "chat"), "pt": read_as(pair.pt, prompts, "raw")}
    order = [batch.rows for batch in replay_batches(rows["it"], read, options.batch_size, pair.it.pad_id)]
    for chosen_rows in order:
        for r, stream, batch, decoder, final in _readers(pair, arms, rows, read, vectors, chosen_rows):
            values = _lens_read(decoder, stream, lenses[decoder.variant], final, options)
            for i, own in enumerate(values.values()):
                for k, name in enumerate(("kl_layer_final", "kl_layer_unedited_final")):
                    kl[k, r, i, :, chosen_rows] = _by_prompt(own[name], batch, len(chosen_rows))
                layers = {name: each.T.cpu().numpy() for name, each in own.items()}
                settled = torch.as_tensor(np.stack([rule(layers) for rule in RULES.values()]))
                commit[r, i, :, chosen_rows] = _by_prompt(settled, batch, len(chosen_rows))
    dims = ("reader", "lens", "layer", "prompt")
    return xr.Dataset(
        {
            "kl_layer_final": (dims, kl[0]), "kl_layer_unedited_final": (dims, kl[1]),
            "commitment": (("reader", "lens", "rule", "prompt"), commit),
        },
        {"reader": readers, "lens": ["raw", "tuned"], "rule": list(RULES), "prompt": [p.id for p in prompts]},
    )  # fmt: skip


def _readers(pair, arms, rows, read, vectors, chosen_rows):
    """Yield (index, stream, batch, decoder, unedited IT's last residual) of every dose and of PT, for some prompts."""
    batch = forced_batch(chosen_rows, rows["it"], read, pair.it.pad_id)
    keep = sorted({min(arm.layers) for arm in arms})
    plain = forward(pair.it, batch, keep=keep)
    lens.check_identity(plain.last_residual, plain.last_logits, pair.it.unembedding)
    final = plain.residual[-1]
    for r, arm in enumerate(arms):
        edits = as_edits(steering.row_edits([arm], vectors, pair.it.config.hidden_size))
        stream = forward(pair.it, batch, edits, resume=plain) if edits and not arm.identity else plain
        yield r, stream, batch, pair.it, final
    other = forced_batch(chosen_rows, rows["pt"], read, pair.pt.pad_id)
    yield len(arms), forward(pair.pt, other), other, pair.pt, final


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
