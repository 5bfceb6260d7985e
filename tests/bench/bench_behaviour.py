"""Time grafted generation against plain generation, and four grafts in one routed batch against four runs.

    python tests/bench/bench_behaviour.py                                 # a random Llama and three pocket pairs; minutes
    python tests/bench/bench_behaviour.py --layers 4 --vocabulary 4000 --new 16 --repeats 2

The graft takes the donor's MLPs in the late 40 % of the layers. Ways, per token against plain `generate`: the donor's
modules put in the host's place, and the loop of `decoding.decode` without a graft, with one graft in all rows, and with the
graft in every second row. Then A and the early, mid and late graft of pocket pairs: as four runs, and as one batch in which
rows have donors of their own. Ways take turns, and of each the best repeat counts. On a busy machine, --cpu-time counts the
seconds of this process.
"""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.core import depths
from nbhelpers.measures.arms import Arm, row_grafts
from nbhelpers.models import loading, prompts
from nbhelpers.models.decoder import Pair
from nbhelpers.models.decoding import decode
from nbhelpers.models.generation import generate
from tests.bench.bench_steer import arguments, best_of, endless, random_model, verdict

SWAP, ROUTED = 1.02, 2.0


@contextmanager
def swapped(pair, layers):
    """The donor's MLP modules in the host's place."""
    host, donor = (one.stack._module.layers for one in (pair.pt, pair.it))
    own = {layer: host[layer].mlp for layer in layers}
    for layer in layers:
        host[layer].mlp = donor[layer].mlp
    try:
        yield
    finally:
        for layer, mlp in own.items():
            host[layer].mlp = mlp


def arms(n_layers):
    """A, then its early, mid and late graft."""
    spans = depths.windows(n_layers).items()
    return [
        Arm("A", host="pt"),
        *(Arm(name, host="pt", change="graft", layers=tuple(s)) for name, s in spans),
    ]


def overhead(title, pair, options):
    """Print each way's milliseconds a token and its ratio to plain `generate`, beside the target of a module swap."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(20, pair.pt.n_rows, (options.rows, options.prompt), generator=generator).tolist()
    host, late = endless(pair.pt), tuple(depths.windows(pair.n_layers)["late"])
    graft = Arm("late", host="pt", change="graft", layers=late)
    every = row_grafts([graft] * len(rows), pair)
    half = row_grafts([(graft, Arm("A", host="pt"))[i % 2] for i in range(len(rows))], pair)
    sizes = {"max_new_tokens": options.new, "batch_size": len(rows)}

    def swap():
        with swapped(pair, late):
            return generate(host, rows, **sizes)

    calls = {
        "plain": lambda: generate(host, rows, **sizes),
        "module swap": swap,
        "decode": lambda: decode(host, rows, **sizes).continuations,
        "decode, all rows": lambda: decode(host, rows, every, **sizes).continuations,
        "decode, every second": lambda: decode(host, rows, half, **sizes).continuations,
    }
    seconds, made = best_of(calls, options.repeats, options.clock)
    assert made["decode"] == made["plain"], "the own loop wrote other tokens than `generate`"
    assert made["decode, all rows"] == made["module swap"], (
        "a graft by row wrote other tokens than a module swap"
    )
    print(f"{title}: {options.rows} rows, prompt of {options.prompt}, {options.new} new tokens, {len(late)} of "
          f"{pair.n_layers} layers grafted")  # fmt: skip
    for name, value in seconds.items():
        ratio, target = value / seconds["plain"], name == "module swap"
        met = f"   target ≤ {SWAP:.2f}: {verdict(ratio <= SWAP)}" if target else ""
        print(f"  {name:22}{1e3 * value / options.new:9.2f} ms a token   ratio {ratio:.3f}{met}")
    own = seconds["decode, all rows"] / seconds["decode"]
    print(f"  one graft in all rows of `decode`, against it without: ratio {own:.3f}   "
          f"target ≤ {SWAP:.2f}: {verdict(own <= SWAP)}")  # fmt: skip


def routed(key, options):
    """Print the seconds of four conditions as four runs and as one routed batch, and their ratio beside the target."""
    pair = loading.load_pair(key)
    rows = prompts.render(pair.pt, prompts.load_prompts("pocket/prompts.jsonl", options.prompts, seed=0))
    conditions = arms(pair.n_layers)
    apart = [row_grafts([arm] * len(rows), pair) for arm in conditions]
    index = torch.arange(len(conditions)).repeat_interleave(len(rows))
    together = [graft.of(index) for graft in row_grafts(conditions, pair)]
    calls = {
        "four runs": lambda: [
            c for one in apart for c in decode(pair.pt, rows, one, max_new_tokens=48).continuations
        ],
        "one batch": lambda: (
            decode(pair.pt, rows * len(conditions), together, max_new_tokens=48).continuations
        ),
    }
    seconds, made = best_of(calls, options.repeats, options.clock)
    same = sum(a == b for a, b in zip(*made.values())) / len(index)
    ratio = seconds["four runs"] / seconds["one batch"]
    print(f"{key}: A and three grafts of {len(rows)} prompts, at most 48 tokens")
    for name, value in seconds.items():
        print(f"  {name:22}{value:9.2f} s")
    print(
        f"  ratio {ratio:.2f}   target ≥ {ROUTED:g}: {verdict(ratio >= ROUTED)}; {same:.1%} of the texts are the same"
    )


def main():
    options = arguments(__doc__)
    with torch.no_grad():
        pt = random_model(options)
        it = random_model(options, seed=1)
        overhead("random Llama", Pair("random", None, pt, it), options)
        for key in ("llama_pocket", "gemma_pocket", "deepseek_pocket"):
            routed(key, options)


if __name__ == "__main__":
    main()
