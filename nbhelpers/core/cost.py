"""The cost of a run, counted from its parameters: tokens, forward passes, bytes. Each slice has its experiment's own count.

Token counts are upper bounds: every text is assumed to reach its cap. Memory is what arrays and tensors take at once when
most is held: on the model's device (`memory`) and on the host (`host`). Python, its libraries and what a library keeps for
itself come on top; `tests/bench/bench_memory.py` compares the counts with what processes hold.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from nbhelpers.core import blocks, params
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import PromptSet, Size, Texts

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_COPIES = 4.0  # a block of prompts and its copies while it is made, joined or read
PROMPT_TOKENS = 128  # assumed length of a prompt; the study's mean is about 60, with a template 90
TEXT_TOKENS = 512  # assumed mean length of a text of a corpus that is not here; C4's is about 480
CHARACTERS, TEMPLATE = 4, 24  # characters a token; tokens that a chat template adds
TOKENS = (
    1000.0  # bytes that the host holds of a word of the vocabulary: in two tokenizers and in tables of Python
)
REPLY = 50.0  # bytes that the host holds of a generated token: its id in Python, as text, decoded


@dataclass(frozen=True)
class Cost:
    """The cost of one notebook on one model: prompts, generated and forced tokens, forward passes, memory, result (bytes).

    memory: tensors of the model's device; host: arrays beside it, without Python and its libraries. read: residuals that a
    lens unembeds.
    """

    prompts: int = 0
    generated: int = 0
    forced: int = 0
    forwards: int = 0
    memory: float = 0.0
    result: float = 0.0
    host: float = 0.0
    read: float = 0.0


def in_blocks(n_bytes: float) -> float:
    """Return what the host holds of numbers that are written or read block by block, with their copies, bytes."""
    return min(n_bytes, BLOCK_COPIES * blocks.LARGEST)


def afterwards(run: Run, host: float, before: float) -> float:
    """Return what the host holds beyond `before`, which is then free again: on a processor of one memory, else all, bytes."""
    return host if run.profile.gpus else max(0.0, host - before)


def stored(n_bytes: float, kept_bits: int) -> float:
    """Return the size on disk of float32 numbers of which `kept_bits` bits of mantissa are kept, bytes.

    stored = n_bytes · (kept_bits + 2) / 32: compressed, sign and exponent take some two bits more (measured on captures of
    pocket pairs: 0.21 for 5 bits, 0.24 for 6, 0.32 for 8, 0.64 for all 23).
    """
    return n_bytes * (kept_bits + 2) / 32


def lengths(source: str | Texts) -> tuple[float, float] | None:
    """Return the mean and the largest length of the texts of a source, in tokens without a template; None if it is not here.

    A token is taken to be `CHARACTERS` characters.
    """
    path = source if isinstance(source, str) else source.path
    file = params.ROOT / path if path else None
    if file is None or not file.is_file():
        return None
    field = None if isinstance(source, str) else source.field
    return _lengths(file, file.stat().st_mtime_ns, field)


@functools.cache
def _lengths(file, _mtime: int, field: str | None) -> tuple[float, float] | None:
    """Return `lengths` of one file; None if a record has no text."""
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [len(each[field] if field else each.get("message") or each["text"]) for each in records]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (sum(found) / len(found) / CHARACTERS, max(found) / CHARACTERS) if found else None


def prompt_tokens(source: str | PromptSet) -> float:
    """Return the length of the longest prompt of a set, with a template, in tokens; `PROMPT_TOKENS` if it is not here."""
    known = lengths(source)
    return known[1] + TEMPLATE if known else PROMPT_TOKENS


def text_tokens(source: Texts, cap: int) -> float:
    """Return the mean length of a corpus's texts, in tokens, at most `cap`; `TEXT_TOKENS` if it is not here."""
    known = lengths(source)
    return min(cap, known[0] if known else TEXT_TOKENS)


def weights(run: Run, size: Size, n_models: int) -> float:
    """Return the size of the weights of n models, and of a copy of the rows of real tokens of their unembeddings, bytes."""
    copies = size.vocabulary * size.width
    return n_models * (size.parameters + copies) * BYTES[run.model.dtype]


def states(run: Run, size: Size, tokens: float, n: float = 1) -> float:
    """Return the size of n tensors [layer, token, d] in the model's dtype, bytes."""
    return n * size.layers * tokens * size.width * BYTES[run.model.dtype]


def forwarded(run: Run, size: Size, rows: float, tokens: float) -> float:
    """Return what a forward of rows [row, token] holds of one block at its widest, bytes.

    The MLP holds the activated gate, the other branch and their product beside the residual, its norm and the output;
    attention holds queries, keys and values before and after rotation, and, if it is eager, its weights twice in float32.
    """
    here = rows * tokens
    mlp = here * (3 * size.mlp + 3 * size.width)
    attention = here * (8 * size.width)
    eager = 2 * 4 * size.heads * here * tokens if run.model.attention == "eager" else 0
    return max(mlp, attention) * BYTES[run.model.dtype] + eager


def replayed(run: Run, size: Size, rows: int, n_prompts: int, prompt: float, reply: int) -> float:
    """Return what forcing replies in batches holds: a forward, its stream of four tensors, and the batch before, bytes."""
    stream = states(run, size, rows * reply, 4)
    return min(2, batches(n_prompts, rows)) * stream + forwarded(run, size, rows, prompt + reply)


def cache(run: Run, size: Size, rows: float, tokens: float) -> float:
    """Return the size of the KV cache of rows of so many tokens, one layer of it twice while it grows, bytes."""
    return (size.layers + 1) * rows * tokens * size.kv * BYTES[run.model.dtype]


def decoded(run: Run, size: Size, rows: float, prompt: float, new: float) -> float:
    """Return what decoding holds: the cache, three copies of logits and, while prompts are read, a forward, bytes."""
    reading = cache(run, size, rows, prompt) + forwarded(run, size, rows, prompt)
    writing = cache(run, size, rows, prompt + new) + forwarded(run, size, rows, 1)
    return max(reading, writing) + logits(size, rows, 3)


def logits(size: Size, tokens: float, n: float = 1) -> float:
    """Return the size of n float32 tensors [token, vocabulary], bytes."""
    return 4.0 * n * tokens * size.vocabulary


def lens_buffers(run: Run, size: Size, rows: float, *, tiles: int = 6) -> float:
    """Return the size of the lens's work tiles and of a float32 copy of one block of the unembedding, bytes."""
    columns = min(32768 if run.profile.gpus else 4096, size.vocabulary)
    return 4.0 * columns * (tiles * rows + size.width)


def translators(size: Size, n: int) -> float:
    """Return the size of n tuned lenses, or of tensors like their weights, in float32, bytes."""
    return 4.0 * n * size.layers * size.width**2


def edits(size: Size, rows: float) -> float:
    """Return the size of edits by row that rescale every layer's MLP output: a direction and what is written, bytes."""
    return 2 * 4.0 * rows * size.layers * size.width


def steered(
    run: Run, size: Size, arms: int, rows: int, prompt: float, reply: int, *, n_prompts: int
) -> float:
    """Return what `steering.forced` holds: prompts that fit beside their arms into `rows`, states of all layers, five log p.

    Of each batch the unedited states of all layers are kept, from which arms resume; then the log-probabilities of a
    prompt's steps unedited and under one arm, and three tensors as large while they are compared.
    """
    few = max(1, min(n_prompts, rows // (arms + 1)))
    together, tokens = min(rows, few * arms), prompt + reply
    moving = (
        forwarded(run, size, together, tokens) + 3.0 * together * tokens * size.width * BYTES[run.model.dtype]
    )
    return states(run, size, few * tokens) + max(moving + edits(size, together), logits(size, few * reply, 5))


def batches(n: int, batch_size: int) -> int:
    """Return the number of batches of n rows."""
    return math.ceil(n / batch_size)


def generation_cost(run: Run, size: Size, conditions: int) -> Cost:
    """Return the cost of an experiment that generates a continuation of each prompt under several conditions."""
    e = run.experiment
    tokens = conditions * e.n_prompts * e.max_new_tokens
    rows = min(e.batch_size, e.n_prompts)
    prompt = prompt_tokens(getattr(e, "prompts", run.profile.prompts))
    measured = rows * e.max_new_tokens
    stream = states(run, size, measured, 4)
    read = stream + lens_buffers(run, size, min(e.lens_rows, measured))
    forced = replayed(run, size, rows, e.n_prompts, prompt, e.max_new_tokens)
    batch = max(read, forced, decoded(run, size, rows, prompt, e.max_new_tokens))
    held = weights(run, size, 2) + batch
    result = conditions * e.n_prompts * size.layers * 8 * 12.0
    passes = conditions * batches(e.n_prompts, e.batch_size)
    # Nine numbers of a step and layer, in float32, then whole in float64 while means are taken.
    steps = 9 * 4.0 * size.layers * e.n_prompts * e.max_new_tokens
    host = max(steps, afterwards(run, 3 * steps, batch)) + result
    return Cost(e.n_prompts, tokens, tokens, passes, held, result, host, 1.0 * tokens * size.layers)


def reading_cost(needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of an experiment that only reads the results of others: memory of the host alone."""
    return Cost(host=in_blocks(2.0 * sum(cost.result for _, cost in needs.values())))
