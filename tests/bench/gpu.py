"""What the measurements cost on a GPU, at the full size of two of the study's models with random weights; 8 minutes at most.

    python tests/bench/gpu.py --out gpu.json        # Llama 3.1 8B and Gemma 3 4B shapes, one GPU of 80 GB; no download
    python tests/bench/gpu.py --small               # the same code on tiny models, on the CPU too; seconds

For each shape: tokens a second of generation and of the forced capture; capture, the lens (eager and compiled) and a step of
the tuned lens as multiples of the forward or the matrix products that they cannot do without; grafted forwards beside bare
ones; and the peak of GPU memory, of each part beside what the dry run counts of it. Weights are bfloat16, products float32,
with whatever precision PyTorch gives them by default. No cost depends on the values of weights and tokens.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.core import cost
from nbhelpers.core.schemas import Size
from nbhelpers.measures import forced_tokens, lens, matched_prefix, tuned_lens
from nbhelpers.models import conditions, decoder, forward, generation
from nbhelpers.models.generation import Continuation

SHAPES = {
    "llama31_8b": ("llama", dict(num_hidden_layers=32, hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
                                 num_key_value_heads=8, head_dim=128, vocab_size=128256)),
    "gemma3_4b": ("gemma3_text", dict(num_hidden_layers=34, hidden_size=2560, intermediate_size=10240, num_attention_heads=8,
                                      num_key_value_heads=4, head_dim=256, vocab_size=262208)),
}  # fmt: skip
SMALL = dict(num_hidden_layers=3, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
             head_dim=16, vocab_size=640)  # fmt: skip
TARGETS = {"lens, compiled": 1.3, "tuned lens, step": 1.25, "capture": 1.05}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def model(kind: str, shape: dict, seed: int):
    """Return a model of random weights, made where it is used, in bfloat16."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device()):
            return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**shape), attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)


def pair_of(kind: str, shape: dict) -> decoder.Pair:
    """Return two models of one shape under one tokenizer of as many words as the vocabulary has rows."""
    words = {f"w{i}": i for i in range(shape["vocab_size"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w1"
    )
    both = [decoder.wrap(model(kind, shape, i), tokenizer, variant=v) for i, v in enumerate(("pt", "it"))]
    return decoder.Pair("random", None, *both)


def seconds(function, repeats: int) -> float:
    """Return the best wall-clock seconds of a function, all work on the GPU included, after one call that does not count."""
    best = float("inf")
    for repeat in range(repeats + 1):
        gc.collect()
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        best = min(best, time.perf_counter() - start) if repeat else best
    return best


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def texts(pair, rows: int, prompt: int, reply: int):
    """Return random prompts and replies of one length each."""
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(
        20, pair.pt.unembedding.weight.shape[0], (rows, prompt + reply), generator=draw
    ).tolist()
    return [row[:prompt] for row in ids], [Continuation(tuple(row[prompt:]), False) for row in ids]


def generated(pair, prompts, reply: int, repeats: int) -> dict:
    """Return the tokens that one model writes in a second."""
    spent = seconds(
        lambda: generation.generate(pair.it, prompts, max_new_tokens=reply, batch_size=len(prompts)), repeats
    )
    return {"generation, tokens a second": len(prompts) * reply / spent}


def captured(pair, prompts, replies, repeats: int) -> tuple[dict, list]:
    """Return what the forced capture costs beside a bare forward, and the residuals that it captured."""
    (batch,) = forward.replay_batches(prompts, replies, len(prompts), pair.it.pad_id)
    ids, mask = batch.input_ids.to(device()), batch.attention_mask.to(device())
    with torch.no_grad():
        bare = seconds(
            lambda: pair.it.module(ids, attention_mask=mask, use_cache=False, logits_to_keep=1), repeats
        )
    spent = seconds(lambda: forward.forward(pair.it, batch), repeats)
    residual = forward.forward(pair.it, batch).residual
    return {"capture": spent / bare, "capture, tokens a second": len(batch.targets) / spent}, residual


@torch.no_grad()
def products(residual, weight, rows: int, backward: bool = False) -> None:
    """The unembedding of every layer and token, and nothing else; with `backward`, also its transpose."""
    for start in range(0, len(residual[0]), rows):
        for h in residual:
            z = h[start : start + rows].float() @ weight.T
            if backward:
                z @ weight


def read(pair, residual, rows: int, repeats: int) -> dict:
    """Return the lens and a step of the tuned lens as multiples of their matrix products."""
    unembedding, found = pair.it.unembedding, {}
    weight = unembedding.weight.float()
    bound = seconds(lambda: products(residual, weight, rows), repeats)
    twice = seconds(lambda: products(residual, weight, rows, backward=True), repeats)
    for name, compile in {"lens, eager": False, "lens, compiled": True}.items():
        given = dict(metrics=("kl_final_layer",), rows=rows, compile=compile)
        found[name] = (
            seconds(lambda given=given: lens.lens_metrics(residual, unembedding, **given), repeats) / bound
        )
    translators = tuned_lens.untrained(len(residual), unembedding)
    step = seconds(lambda: tuned_lens.kl_gradients(translators, residual, unembedding, rows=rows), repeats)
    return found | {"tuned lens, step": step / twice}


def grafted(pair, prompts, replies, repeats: int) -> dict:
    """Return what the eight symmetric conditions cost as forwards, beside as many bare forwards."""
    chosen = conditions.symmetric_conditions(pair.n_layers)
    formats = {"raw": prompts, "chat": prompts}
    batches = forced_tokens.matched_batch(range(len(prompts)), formats, replies, pair.it.pad_id)
    ids, mask = (batches["raw"].input_ids.to(device()), batches["raw"].attention_mask.to(device()))
    with torch.no_grad():
        bare = seconds(
            lambda: pair.it.module(ids, attention_mask=mask, use_cache=False, logits_to_keep=1), repeats
        )
    spent = seconds(lambda: [None for _ in forced_tokens.streams(pair, batches, chosen, 0)], repeats)
    whole = seconds(lambda: list(matched_prefix.measure(
        pair, {"raw": prompts, "chat": prompts}, replies, chosen, batch_size=len(prompts))), 1)  # fmt: skip
    return {"grafts, forwards": spent / (len(chosen) * bare), "grafts, read, seconds": whole}


def counted(shape: dict, pair, rows: int, prompt: int, reply: int, lens_rows: int) -> dict:
    """Return what the dry run counts of each part, bytes."""
    run = SimpleNamespace(
        model=SimpleNamespace(dtype="bfloat16", attention="sdpa"), profile=SimpleNamespace(gpus=1)
    )
    size = Size(
        layers=shape["num_hidden_layers"], width=shape["hidden_size"], vocabulary=shape["vocab_size"],
        heads=shape["num_attention_heads"], parameters=sum(p.numel() for p in pair.it.module.parameters()),
        inner=shape["intermediate_size"], cached=2 * shape["num_key_value_heads"] * shape["head_dim"],
    )  # fmt: skip
    stream = cost.states(run, size, rows * reply, 4)
    return {
        "models": 2 * 2 * size.parameters,
        "generation": cost.decoded(run, size, rows, prompt, reply),
        "capture": stream + cost.forwarded(run, size, rows, prompt + reply),
        "lens": cost.lens_buffers(run, size, lens_rows),
    }


def held() -> int:
    """Return the bytes of GPU memory in use, after resetting the peak to them; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peaks(pair, prompts, replies, options) -> dict:
    """Return the most that each part holds beside what was held before it, bytes; empty without a GPU."""
    (batch,) = forward.replay_batches(prompts, replies, len(prompts), pair.it.pad_id)
    found, before = {"models": held()}, held()
    if not before:
        return {}
    generation.generate(pair.it, prompts, max_new_tokens=options.reply, batch_size=len(prompts))
    found["generation"], before = torch.cuda.max_memory_allocated() - before, held()
    stream = forward.forward(pair.it, batch)
    found["capture"], before = torch.cuda.max_memory_allocated() - before, held()
    lens.lens_metrics(
        stream.residual, pair.it.unembedding, metrics=("kl_final_layer",), rows=options.lens_rows
    )
    return found | {"lens": torch.cuda.max_memory_allocated() - before}


def measured(kind: str, shape: dict, options) -> dict:
    """Return all figures of one shape."""
    pair = pair_of(kind, shape)
    prompts, replies = texts(pair, options.rows, options.prompt, options.reply)
    most = peaks(pair, prompts, replies, options)
    said = counted(shape, pair, options.rows, options.prompt, options.reply, options.lens_rows)
    memory = {f"{part}, counted, GiB": value / 2**30 for part, value in said.items()}
    memory |= {f"{part}, peak, GiB": value / 2**30 for part, value in most.items()}
    held()
    found = generated(pair, prompts, options.reply, options.repeats)
    costs, residual = captured(pair, prompts, replies, options.repeats)
    found |= costs | read(pair, residual, options.lens_rows, options.repeats)
    del residual
    few = max(1, options.rows // 8)
    found |= grafted(pair, prompts[:few], replies[:few], options.repeats)
    if torch.cuda.is_available():
        found["peak GPU memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return found | dict(sorted(memory.items()))


def show(name: str, found: dict, small: bool) -> None:
    print(f"\n{name}")
    for what, value in found.items():
        target = None if small else TARGETS.get(what)
        said = f"   target ≤ {target}: {'met' if value <= target else 'MISSED'}" if target else ""
        print(f"  {what:32}{value:12,.2f}{said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--small", action="store_true", help="tiny models, to see that all of it runs")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    for name, value in dict(rows=32, prompt=64, reply=96, lens_rows=512, repeats=3).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    options = parser.parse_args()
    if not (options.small or torch.cuda.is_available()):
        sys.exit("There is no GPU that PyTorch can use; --small runs the same code on tiny models.")
    if options.small:
        options.rows, options.prompt, options.reply, options.lens_rows, options.repeats = 8, 4, 6, 16, 1
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    found = {
        "device": where,
        "torch": torch.__version__,
        "options": {k: str(v) for k, v in vars(options).items()},
    }
    print(
        f"{where}, PyTorch {torch.__version__}; {options.rows} rows, {options.prompt} + {options.reply} tokens"
    )
    for name in options.shapes:
        kind, shape = SHAPES[name]
        found[name] = measured(kind, SMALL if options.small else shape, options)
        show(name, found[name], options.small)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
