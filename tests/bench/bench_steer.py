"""Time what an edit costs per token of generation, and a sweep of nine doses in one batch against nine runs.

    python tests/bench/bench_steer.py                                     # a random Llama and two pocket models; minutes
    python tests/bench/bench_steer.py --layers 4 --vocabulary 4000 --new 16 --repeats 2

The edits are doses of 1 on MLP outputs in the late 40 % of the layers: they cost what any dose costs and change no token, so
that every way makes the same tokens, none of them a stop. Ways, against plain `generate`: folded weights (folding and
unfolding counted), plain hooks in `generate`, nnsight's edits in `generate`, and the loop of `decoding.decode` without
edits and with them by row. They take turns, and of each the best repeat counts. The sweep is timed on pocket models with
their stops, at doses from −1 to 3. On a busy machine, --cpu-time counts the seconds of this process.
"""

import argparse
import gc
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.core import depths
from nbhelpers.models import decoder as decoders
from nbhelpers.models import loading, prompts
from nbhelpers.models.decoding import decode
from nbhelpers.models.edits import edited
from nbhelpers.models.folding import folded
from nbhelpers.models.generation import generate
from nbhelpers.models.row_edits import RowEdit, applied, as_edits

TARGETS = {"fold": 1.02, "hook": 1.08, "nnsight": 1.20}
SWEEP = 3.0


def random_model(options, seed=0):
    """Return a Llama with random weights and a tokenizer of as many words as its vocabulary has rows."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0", eos_token="w1"
    )
    config = LlamaConfig(
        vocab_size=options.vocabulary, hidden_size=options.width, num_hidden_layers=options.layers,
        intermediate_size=options.width * 11 // 4, num_attention_heads=8, initializer_range=0.05,
    )  # fmt: skip
    torch.manual_seed(seed)
    return decoders.wrap(LlamaForCausalLM(config), tokenizer)


def endless(decoder):
    """Return the decoder with a stop that is no token of its."""
    decoder.__dict__["stop_ids"] = (decoder.n_rows,)  # in place of the cached property
    return decoder


def late_edits(decoder, alphas):
    """Return doses [row] of one random direction a layer in the late window, and the directions [layer, d]."""
    shape = decoder.n_layers, decoder.config.hidden_size
    d = torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), dim=-1)
    late = depths.windows(decoder.n_layers)["late"]
    return [RowEdit(i, alpha=torch.as_tensor(alphas), direction=d[i : i + 1]) for i in late], d


def ways(decoder, rows, n_new):
    """Return {name: a call that generates n_new tokens after every row}."""
    ones = [1.0] * len(rows)
    edits, d = late_edits(decoder, ones)
    late, traced = [edit.layer for edit in edits], endless(edited(decoder, as_edits(edits)))

    def plain(under=nullcontext, model=decoder):
        with under():
            return generate(model, rows, max_new_tokens=n_new, batch_size=len(rows))

    def ours(edits=()):
        return decode(decoder, rows, edits, max_new_tokens=n_new).continuations

    return {
        "plain": plain,
        "fold": lambda: plain(lambda: folded(decoder, late, d, 1.0)),
        "hook": lambda: plain(lambda: applied(decoder, edits, len(rows))),
        "nnsight": lambda: plain(model=traced),
        "decode": ours,
        "decode with edits": lambda: ours(edits),
    }


def best_of(calls, repeats, clock):
    """Return ({name: best seconds}, {name: what the last call returned}); the calls take turns, a first turn is not timed."""
    seconds, made = {name: [] for name in calls}, {}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            gc.collect()
            start = clock()
            made[name] = call()
            if turn:
                seconds[name].append(clock() - start)
    return {name: min(values) for name, values in seconds.items()}, made


def overhead(title, decoder, options):
    """Print each way's milliseconds a token and its ratio to plain `generate`, beside the target."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(20, decoder.n_rows, (options.rows, options.prompt), generator=generator).tolist()
    seconds, made = best_of(ways(endless(decoder), rows, options.new), options.repeats, options.clock)
    assert all(texts == made["plain"] for texts in made.values()), "a dose of 1 changed a token"
    print(f"{title}: {options.rows} rows, prompt of {options.prompt}, {options.new} new tokens, "
          f"{len(late_edits(decoder, [1.0])[0])} of {decoder.n_layers} layers edited")  # fmt: skip
    for name, value in seconds.items():
        ratio = value / seconds["plain"]
        met = f"   target ≤ {TARGETS[name]:.2f}: {verdict(ratio <= TARGETS[name])}" if name in TARGETS else ""
        print(f"  {name:18}{1e3 * value / options.new:9.2f} ms a token   ratio {ratio:.3f}{met}")
    own = seconds["decode with edits"] / seconds["decode"]
    print(f"  edits by row in `decode`, against it without: ratio {own:.3f}   "
          f"target ≤ {TARGETS['hook']:.2f}: {verdict(own <= TARGETS['hook'])}")  # fmt: skip


def verdict(met):
    return "met" if met else "MISSED"


def sweep(key, options):
    """Print the seconds of nine doses as nine runs and as one, and their ratio beside the target."""
    decoder = loading.load_pair(key).it
    rows = prompts.render(decoder, prompts.load_prompts("pocket/prompts.jsonl", options.prompts, seed=0))
    alphas = torch.linspace(-1, 3, 9).tolist()
    repeated = [row for _ in alphas for row in rows]
    all_at_once, _ = late_edits(decoder, [alpha for alpha in alphas for _ in rows])
    apart = [late_edits(decoder, [alpha])[0] for alpha in alphas]

    def nine():
        return [c for edits in apart for c in decode(decoder, rows, edits, max_new_tokens=48).continuations]

    calls = {
        "nine runs": nine,
        "one batch": lambda: decode(decoder, repeated, all_at_once, max_new_tokens=48).continuations,
    }
    seconds, made = best_of(calls, options.repeats, options.clock)
    same = sum(a == b for a, b in zip(made["nine runs"], made["one batch"])) / len(repeated)
    ratio = seconds["nine runs"] / seconds["one batch"]
    print(f"{key}: nine doses of {len(rows)} prompts, at most 48 tokens")
    for name, value in seconds.items():
        print(f"  {name:18}{value:9.2f} s")
    print(
        f"  ratio {ratio:.2f}   target ≥ {SWEEP:g}: {verdict(ratio >= SWEEP)}; {same:.1%} of the texts are the same"
    )


def processor():
    """Return the processor's name, as the kernel gives it."""
    found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return found[0].partition(": ")[2] if found else "unknown processor"


def arguments(about):
    """Return the sizes of a run and its clock, from the command line, after saying where and how it is timed."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    sizes = dict(layers=16, width=512, vocabulary=32000, rows=32, prompt=32, new=48, prompts=16, repeats=5)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu-time", action="store_const", dest="clock", const=time.process_time,
                        default=time.perf_counter)  # fmt: skip
    options = parser.parse_args()
    clock = "CPU seconds" if options.clock is time.process_time else "seconds"
    print(f"{processor()}; float32, {torch.get_num_threads()} threads; {clock}, best of {options.repeats}; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    return options


def main():
    options = arguments(__doc__)
    with torch.no_grad():
        overhead(
            f"random, d = {options.width}, {options.vocabulary} vocabulary rows",
            random_model(options),
            options,
        )
        for key in ("llama_pocket", "deepseek_pocket"):
            overhead(key, loading.load_pair(key).it, options)
            sweep(key, options)


if __name__ == "__main__":
    main()
