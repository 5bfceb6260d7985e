"""exp07_0g: training and checks of a pair's tuned lenses on running text.

Texts are split before anything is measured: the first are for the final check, the next for validation, the rest for
training. PT reads plain text; IT reads each text as a user's turn of its chat template, as in the study.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers.core import stats
from nbhelpers.core.depths import depth
from nbhelpers.core.params import VARIANTS, ParameterError, Run
from nbhelpers.measures import lens, tuned_lens
from nbhelpers.measures.steps import LENSES
from nbhelpers.models import corpora, forward
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.prompts import chat_ids, text_ids
from nbhelpers.models.unembedding import Unembedding

PARTS = ("test", "validation", "training")
CHECKED = ("kl_final_layer", "kl_layer_final", "top1")
CLOSER_SHARE, LAST_LAYER_KL = (
    0.9,
    0.05,
)  # the gate: least share of closer layers; largest KL of the last translator, nats


def rate(run: Run) -> float:
    """Return the learning rate of a run: the experiment's, scaled for the family."""
    return run.experiment.learning_rate * run.experiment.scales.get(run.model.family, 1.0)


def read_as(decoder: Decoder, text: str, longest: int) -> list[int]:
    """Return a text's ids, as plain text for PT and as a chat turn for IT, cut to `longest` ids."""
    ids = chat_ids(decoder, text) if decoder.variant == "it" else text_ids(decoder, text)
    return ids[:longest]


def split_rows(decoder: Decoder, run: Run, parts: Sequence[str] = PARTS) -> dict[str, list[list[int]]]:
    """Return {part: rows of ids}, one text a row; no text is in two parts. parts: the first or all of `PARTS`.

    Test and validation take the number of tokens that the parameters state. Training takes the tokens that its steps use if
    each is read once, or what the corpus has left. Raises `ParameterError` if a part has no text.
    """
    e = run.experiment
    wanted = dict(zip(PARTS, (e.n_test_tokens, e.n_validation_tokens, e.steps * e.tokens_per_step)))
    rows, texts = {name: [] for name in parts}, corpora.texts(e.corpus)
    for name in parts:
        while wanted[name] > 0 and (text := next(texts, None)) is not None:
            rows[name].append(read_as(decoder, text, e.max_text_tokens))
            # The state at a row's first position depends on no context and is left out.
            wanted[name] -= len(rows[name][-1]) - 1
    if not all(rows.values()):
        raise ParameterError(
            f"the corpus of {run.key} ends before there is a text to train on: name a longer one, or lower n_test_tokens "
            "and n_validation_tokens."
        )
    return rows


def epochs(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    batch_size: int,
    seed: int,
    *,
    pool: int = 1,
    tokens_per_step: int = 1,
) -> Iterator[list[Tensor]]:
    """Yield residuals [layer][token, d] of rows endlessly, in a new random order in each epoch.

    The rows of `pool` passes are drawn together, and rows of similar length share a pass, which saves padding. If a pool
    has more tokens than a gradient step, they are yielded as one batch in random order, so that no step has long texts
    only. Otherwise the passes are yielded one by one, longest texts first: a step sums over most of a pool anyway.
    """
    rng, mixing = random.Random(seed), np.random.default_rng(seed)
    while True:
        order = rng.sample(range(len(rows)), len(rows))
        for start in range(0, len(order), pool * batch_size):
            drawn = [rows[i] for i in order[start : start + pool * batch_size]]
            passes = forward.residuals(decoder, drawn, batch_size=batch_size)
            n_tokens = sum(len(row) - 1 for row in drawn)
            if pool == 1 or n_tokens <= tokens_per_step:
                yield from passes
            else:
                mixed = torch.as_tensor(mixing.permutation(n_tokens))
                yield [torch.cat(layer)[mixed.to(layer[0].device)] for layer in zip(*passes)]


def joined_residuals(decoder: Decoder, rows: Sequence[Sequence[int]], batch_size: int) -> list[Tensor]:
    """Return the residuals of all rows at once, [layer][token, d]."""
    batches = list(forward.residuals(decoder, rows, batch_size=batch_size))
    return [torch.cat(layer) for layer in zip(*batches)]


def train(decoder: Decoder, run: Run) -> tuple[tuned_lens.TunedLens, xr.Dataset]:
    """Return one variant's tuned lens, trained as the run's parameters say, and its log."""
    e, rows = run.experiment, split_rows(decoder, run)
    return tuned_lens.train(
        epochs(
            decoder, rows["training"], e.batch_size, e.seed, pool=e.pool, tokens_per_step=e.tokens_per_step
        ),
        decoder.unembedding,
        validation=joined_residuals(decoder, rows["validation"], e.batch_size),
        learning_rate=rate(run),
        form=e.form,
        steps=e.steps,
        tokens_per_step=e.tokens_per_step,
        momentum=e.momentum,
        clip=e.clip,
        validate_every=e.validate_every,
        rows=e.lens_rows,
        metadata={"model": run.model.key, "variant": decoder.variant, "parameter_hash": run.hash},
    )


def last_layer_kl(tuned: tuned_lens.TunedLens, residual: Tensor, unembedding: Unembedding) -> float:
    """Return KL(final ‖ last layer through its own translator), nats, mean over tokens: the error of the last translator."""
    h = residual.float()
    moved = h @ tuned.weight[-1].mT + tuned.bias[-1] + (h if tuned.form == "residual" else 0)
    found = lens.lens_metrics([moved.to(residual.dtype), residual], unembedding, metrics=("kl_final_layer",))
    return float(found["kl_final_layer"][0].mean())


def by_text(values: Tensor, row: np.ndarray, n_rows: int) -> np.ndarray:
    """Return each text's mean over its tokens, [text, layer], of values [layer, token]."""
    return stats.prompt_means(values.double().cpu().numpy(), row, n_rows)


def check(
    decoder: Decoder, tuned: tuned_lens.TunedLens, run: Run, other: tuned_lens.TunedLens | None = None
) -> xr.Dataset:
    """Return the held-out quality of the raw and the tuned lens by text and layer, and of `other` translators if given."""
    e, rows = run.experiment, split_rows(decoder, run, PARTS[:1])["test"]
    # One text per batch keeps tokens in the order of texts; there are few texts.
    residuals = [list(forward.residuals(decoder, [row], batch_size=1))[0] for row in rows]
    row = np.repeat(np.arange(len(rows)), [len(r[0]) for r in residuals])
    whole = [torch.cat(layer) for layer in zip(*residuals)]
    tiles, unembedding = {"rows": e.lens_rows, "compile": run.profile.lens_compile}, decoder.unembedding
    found = [
        lens.lens_metrics(whole, unembedding, metrics=CHECKED, **tiles),
        tuned_lens.metrics(whole, unembedding, tuned, metrics=CHECKED, **tiles),
    ]
    for one in found:
        one["top1_agreement"] = (one["top1"] == one.pop("top1")[-1]).double()
    data = {
        name: (("lens", "text", "layer"), np.stack([by_text(one[name], row, len(rows)) for one in found]))
        for name in found[0]
    }
    if other is not None:
        through = tuned_lens.metrics(whole, unembedding, other, metrics=("kl_final_layer",), **tiles)
        data["kl_transfer"] = (("text", "layer"), by_text(through["kl_final_layer"], row, len(rows)))
    data["last_layer_kl"] = ((), last_layer_kl(tuned, whole[-1], unembedding))
    return xr.Dataset(data, coords={"lens": list(LENSES)})


def gate(checked: xr.Dataset) -> bool:
    """Return whether the tuned lens is closer than the raw one at 0.6 of the depth and at nine tenths of all layers but the
    last, and its last translator changes next to nothing.
    """
    mean = checked.kl_final_layer.mean("text")
    closer = (mean.sel(lens="tuned") < mean.sel(lens="raw")).values[:-1]
    at = int(0.6 * (len(closer) + 1))
    return bool(closer[at] and closer.mean() >= CLOSER_SHARE and checked.last_layer_kl < LAST_LAYER_KL)


def evaluate(pair: Pair, trained: dict[str, tuple[tuned_lens.TunedLens, xr.Dataset]], run: Run) -> xr.Dataset:
    """Return exp07_0g's dataset for one pair: held-out quality, gate and learning curves."""
    lenses = {name: found[0] for name, found in trained.items()}
    checked = [check(pair.pt, lenses["pt"], run), check(pair.it, lenses["it"], run, lenses["pt"])]
    transfer = checked[1]["kl_transfer"]
    logs = xr.concat([trained[name][1] for name in VARIANTS], "variant")
    n_texts = min(one.sizes["text"] for one in checked)
    both = [one.drop_vars("kl_transfer", errors="ignore").isel(text=slice(n_texts)) for one in checked]
    found = xr.concat(both, "variant").assign(
        gate=("variant", [gate(one) for one in checked]), kl_transfer=transfer.isel(text=slice(n_texts))
    )
    found = found.assign({name: logs[name] for name in ("train_loss", "validation_loss", "chosen_step")})
    n_layers = found.sizes["layer"]
    coords = {"variant": list(VARIANTS), "layer": np.arange(n_layers), "depth": ("layer", depth(n_layers))}
    return found.assign_coords(coords)
