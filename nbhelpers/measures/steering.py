"""Steering runs: arms that differ in place, layers, direction and dose, all prompts under all arms, in few large batches.

Arms (`measures/arms`) become edits by row, so that they decode together (`written`) or are forced through the same
tokens (`forced`). Texts are scored in `measures/scoring`.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers import progress
from nbhelpers.measures.arms import Arm, SteeringError, Vectors, row_edits, row_grafts
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.decoding import decode
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.forward import Batch, forced_batch
from nbhelpers.models.generation import Continuation, by_length
from nbhelpers.models.prompts import Prompt, check_fit, read_as
from nbhelpers.models.row_edits import RowChange, applied, block_outputs, first_layers, resumed


def hosts(arms: Sequence[Arm]) -> list[tuple[str, list[int]]]:
    """Return (host, indices of its arms) for each host that occurs."""
    return [
        (host, found) for host in ("pt", "it") if (found := [i for i, a in enumerate(arms) if a.host == host])
    ]


def groups(arms: Sequence[Arm]) -> list[tuple[str, list[int]]]:
    """Return (host, indices of arms) of the arms that decode together: one host, first edited layer in one half or the other.

    Below the first edited layer a prompt is read once for all arms of a group, so that an early arm must not join late ones.
    """
    found = []
    for host, members in hosts(arms):
        first = {i: min(arms[i].layers) for i in members if arms[i].layers and arms[i].change != "none"}
        middle = (max(first.values(), default=0) + 1) // 2
        early = [i for i in members if first.get(i, middle) < middle]
        found += [(host, part) for part in (early, [i for i in members if i not in early]) if part]
    return found


def changes(arms: Sequence[Arm], pair: Pair, vectors: Vectors) -> list[RowChange]:
    """Return the edits and the grafts of a batch with one row an arm."""
    return [*row_edits(arms, vectors, pair.pt.config.hidden_size), *row_grafts(arms, pair)]


def rendered(decoder: Decoder, arms: Sequence[Arm], prompts: Sequence[Prompt]) -> dict[str, list[list[int]]]:
    """Return the ids of the prompts in every format that the arms use, {format: rows}."""
    return {f: read_as(decoder, prompts, f) for f in {arm.format for arm in arms}}


def written(
    pair: Pair,
    arms: Sequence[Arm],
    prompts: Sequence[Prompt],
    vectors: Vectors,
    *,
    max_new_tokens: int,
    batch_size: int = 256,
) -> xr.Dataset:
    """Return what every arm writes to every prompt: `text`, `n_tokens`, `capped`, `edited_positions` (arm, prompt).

    Also `ids` (arm, prompt), the generated ids as JSON-free text "12 7 3". A prompt's arms decode side by side, so its rows
    have one length. `check_identities` is applied. SteeringError as there; ParameterError if a prompt does not fit.
    """
    shape = len(arms), len(prompts)
    text, ids = np.empty(shape, dtype=object), np.empty(shape, dtype=object)
    n_tokens, positions, capped = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
    for host, members in groups(arms):
        decoder, mine = getattr(pair, host), [arms[i] for i in members]
        own = rendered(decoder, mine, prompts)
        for rows in own.values():
            check_fit(decoder, prompts, rows, max_new_tokens)
        at = [(i, p) for p in range(len(prompts)) for i in range(len(mine))]
        index = torch.as_tensor([i for i, _ in at])
        edits = [edit.of(index) for edit in changes(mine, pair, vectors)]
        made = decode(
            decoder, [own[mine[i].format][p] for i, p in at], edits, max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )  # fmt: skip
        texts = decoder.tokenizer.batch_decode([c.ids for c in made.continuations], skip_special_tokens=True)
        for (i, p), one, said, reached in zip(at, made.continuations, texts, made.positions):
            cell = members[i], p
            text[cell], ids[cell] = said.strip(), " ".join(map(str, one.ids))
            n_tokens[cell], capped[cell], positions[cell] = len(one.ids), not one.stopped, reached
    dims = ("arm", "prompt")
    found = xr.Dataset(
        {
            "text": (dims, text), "ids": (dims, ids), "n_tokens": (dims, n_tokens), "capped": (dims, capped),
            "edited_positions": (dims, positions),
        },
        {"arm": [arm.name for arm in arms], "prompt": [prompt.id for prompt in prompts]},
    )  # fmt: skip
    return check_identities(found, arms)


def check_identities(found: xr.Dataset, arms: Sequence[Arm]) -> xr.Dataset:
    """Return the dataset of `written`; SteeringError if an arm with a neutral dose differs from its host's unedited arm.

    Arms are compared with the arm "none" of the same host and prompt format, if there is one.
    """
    plain = {(arm.host, arm.format): arm.name for arm in arms if arm.change == "none"}
    for arm in arms:
        base = plain.get((arm.host, arm.format))
        if arm.identity and base and not (found["ids"].sel(arm=arm.name) == found["ids"].sel(arm=base)).all():
            raise SteeringError(
                f"The arm {arm.name} must change nothing, and its replies differ from {base}'s."
            )
    return found


def continuations(found: xr.Dataset, arm: str) -> list[Continuation]:
    """Return the replies of one arm of `written` as continuations."""
    rows = found.sel(arm=arm)
    ids = [tuple(map(int, row.split())) for row in rows["ids"].values]
    return [Continuation(i, not bool(c)) for i, c in zip(ids, rows["capped"].values)]


READ = ("nll", "kl_unedited", "agreement", "entropy", "residual_change")


@torch.no_grad()
def forced(
    pair: Pair,
    arms: Sequence[Arm],
    prompts: Sequence[Prompt],
    replies: Sequence[Continuation],
    vectors: Vectors,
    *,
    batch_size: int = 256,
) -> xr.Dataset:
    """Return what every arm predicts on given replies, all arms reading the same tokens: means by prompt, (arm, prompt).

    nll = −log p(token), nats;  kl_unedited = KL(unedited ‖ edited) of the next-token distributions, nats
    agreement: share of steps at which both have the same top-1 token;  entropy of the edited distribution, nats
    residual_change = ‖h′ − h‖ / ‖h‖ of the last block's output
    p over real tokens. The unedited forward of each host and prompt format runs beside its arms. SteeringError if an arm
    with a neutral dose changes anything, or another arm changes nothing at all.
    """
    found = {name: np.full((len(arms), len(prompts)), np.nan) for name in READ}
    for host, members in hosts(arms):
        decoder, mine = getattr(pair, host), [arms[i] for i in members]
        own = rendered(decoder, mine, prompts)
        edits = changes(mine, pair, vectors)
        for prompt_format, rows in own.items():
            here = [k for k, arm in enumerate(mine) if arm.format == prompt_format]
            block = [edit.of(torch.as_tensor(here)) for edit in edits]
            at = [members[k] for k in here]
            _read_forced(decoder, rows, replies, block, at, found, batch_size)
    dims = ("arm", "prompt")
    coords = {"arm": [arm.name for arm in arms], "prompt": [prompt.id for prompt in prompts]}
    read = xr.Dataset({name: (dims, values) for name, values in found.items()}, coords)
    _check_changes(read, arms)
    return read


def _read_forced(decoder, rows, replies, edits, members, found, batch_size) -> None:
    """Fill `found` for some arms of one host that read the same rows of ids; members: their places in `found`.

    Arms with the same first edited layer go together: they take what enters it from the unedited forward.
    """
    per_batch = max(1, batch_size // (len(members) + 1))
    lengths = [range(len(row) + len(reply.ids)) for row, reply in zip(rows, replies)]
    first = first_layers(edits, len(members), decoder.n_layers).numpy()
    order = np.argsort(first, kind="stable")

    def read(chosen):
        batch = forced_batch(chosen, rows, replies, decoder.pad_id)
        states = block_outputs(decoder, batch.input_ids, batch.attention_mask, range(decoder.n_layers))
        compared = partial(_read_arms, decoder, edits, batch, states, first)
        group = max(1, batch_size // len(chosen))
        return list(in_batches(order, group, compared, f"{decoder.name} force, arms of a batch"))

    batches = in_batches(by_length(lengths), per_batch, read, f"{decoder.name} force")
    for chosen, parts in progress(batches, f"{decoder.variant} force"):
        for part, values in parts:
            for name, each in values.items():
                found[name][np.ix_(np.asarray(members)[part], chosen)] = each


def _read_arms(decoder, edits, batch, states, first, part) -> dict[str, np.ndarray]:
    """Return the read-outs of some arms on a batch, {name: [arm, row]}; states: what each block returns without edits."""
    targets, at = decoder.unembedding.rows(batch.targets), int(first[part[0]])
    plain = _measured(states[-1], batch, 1)[0]
    base, found = log_probabilities(decoder, plain), []
    for h in last_residuals(decoder, batch, edits, part, first=at, before=states[at - 1]):
        steps = _compare(base, plain, log_probabilities(decoder, h), h, targets)
        found.append({name: by_row(values, batch) for name, values in steps.items()})
    return {name: np.stack([each[name] for each in found]) for name in READ}


def by_row(values: Tensor, batch: Batch) -> np.ndarray:
    """Return the mean of values [token] over the n measured positions of each row of a batch, [row].

    by_row = (1/n) Σ_t values[t]
    """
    row = np.repeat(np.arange(len(batch.rows)), [len(steps) for steps in batch.steps])
    return np.bincount(row, values.double().cpu().numpy()) / np.bincount(row)


def last_residuals(
    decoder: Decoder, batch, edits: Sequence[RowChange], arms: Sequence[int], *, first: int = 0, before=None
) -> Tensor:
    """Return what leaves the last block at the measured positions of a forced batch, [arm, token, d].

    edits: with one row an arm; arms: the rows of them to run, all in one forward. first, before: the first layer that they
    edit, and what the block below it returns without edits (`row_edits.resumed`).
    """
    n, ids = len(arms), batch.input_ids.repeat(len(arms), 1)
    index = torch.as_tensor(np.repeat(list(arms), len(batch.input_ids)))
    here = [edit.of(index) for edit in edits if edit.layer >= first]
    with applied(decoder, here, len(ids)), resumed(decoder, first, before, n):
        last = block_outputs(decoder, ids, batch.attention_mask.repeat(n, 1), [decoder.n_layers - 1])[0]
    return _measured(last, batch, n)


def _measured(output, batch, n: int) -> Tensor:
    """Return what a block returned at the measured positions, [arm, token, d], from the lines of n arms in turn."""
    h = output[0] if isinstance(output, tuple) else output
    row, column = (each.to(h.device) for each in batch.where)
    return h.view(n, -1, *h.shape[1:])[:, row, column]


def log_probabilities(decoder: Decoder, h: Tensor) -> Tensor:
    """Return log p of the model's own next-token distribution over real tokens, float32 [token, real vocabulary].

    log_probabilities = log softmax(lens_logits(h_L))
    """
    return torch.log_softmax(decoder.unembedding.logits(h).float(), -1)


def _compare(base, plain, logp, h, targets) -> dict[str, Tensor]:
    """Return the read-outs of `forced` at every step of one arm, {name: [token]}; targets: rows of the real vocabulary."""
    return {
        "nll": -logp.gather(-1, targets.to(logp.device)[:, None])[:, 0],
        "kl_unedited": (base.exp() * (base - logp)).sum(-1).clamp_min(0),
        "agreement": (logp.argmax(-1) == base.argmax(-1)).float(),
        "entropy": -(logp.exp() * logp).sum(-1),
        "residual_change": (h.float() - plain.float()).norm(dim=-1) / plain.float().norm(dim=-1),
    }


def _check_changes(read: xr.Dataset, arms: Sequence[Arm]) -> None:
    """Raise SteeringError unless neutral arms change nothing and all others something."""
    change = read["residual_change"].max("prompt").values
    for arm, size in zip(arms, change):
        if arm.identity and size > 1e-6:
            raise SteeringError(
                f"The arm {arm.name} must change nothing, and it moves the last residual by {size:.2g}."
            )
        if not arm.identity and not size > 0:
            raise SteeringError(
                f"The arm {arm.name} changes nothing at dose {arm.dose:g}: its control or dose is broken."
            )
