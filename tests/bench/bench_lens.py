"""What the lens costs: seconds and memory of every way to get the KL curve, beside the matrix products alone.

    python tests/bench/bench_lens.py                         # Llama shape: d = 512, 16 layers, 32,000 tokens; minutes
    python tests/bench/bench_lens.py --layers 4 --tokens 256 --vocabulary 8192 --repeats 2

Seconds are the best of interleaved repeats in this process. Memory is the peak of resident memory above inputs and
libraries, each method in a process of its own. The residuals are random: no method's cost depends on them. On a busy
machine, --cpu-time counts the seconds of this process only.
"""

import argparse
import gc
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.measures import lens
from nbhelpers.models.unembedding import Unembedding

ONE = ("kl_final_layer",)
TARGETS = {"lens, eager": 1.35, "lens, compiled": 1.15}


def inputs(options):
    """Return residuals, a list of [token, d], and an unembedding of the asked shape."""
    torch.manual_seed(0)
    residuals = list(torch.randn(options.layers, options.tokens, options.width).cumsum(0))
    weight = 4 * torch.randn(options.vocabulary, options.width) / options.width**0.5
    norm = torch.nn.RMSNorm(options.width)
    return residuals, Unembedding(norm, weight, torch.arange(options.vocabulary))


def products(residuals, unembedding):
    """The unembedding of every layer and token into one buffer, and nothing else: the bound."""
    rows = min(1024, len(residuals[0]))
    out = torch.empty(rows, len(unembedding.weight))
    for start in range(0, len(residuals[0]), rows):
        for h in residuals:
            chunk = h[start : start + rows]
            torch.mm(chunk, unembedding.weight.T, out=out[: len(chunk)])


def tiled_products(residuals, unembedding, rows=1024, columns=4096):
    """The same products by tiles: what of the cost is the tiling's."""
    buffer = torch.empty(rows * columns)
    for start in range(0, len(residuals[0]), rows):
        for weight in unembedding.weight.split(columns):
            for h in residuals:
                chunk = h[start : start + rows]
                torch.mm(chunk, weight.T, out=buffer[: len(chunk) * len(weight)].view(len(chunk), -1))


def layer_loop(residuals, unembedding):
    """One layer at a time at all tokens: the full log-softmax of the layer beside that of the last."""
    final = lens.lens_logits(residuals[-1], unembedding).log_softmax(-1)
    kl = []
    for h in residuals:
        log_p = lens.lens_logits(h, unembedding).log_softmax(-1)
        kl.append((final.exp() * (final - log_p)).sum(-1))
    return torch.stack(kl)


def stack(residuals, unembedding):
    """All layers' logits at once."""
    log_p = torch.stack([lens.lens_logits(h, unembedding) for h in residuals]).log_softmax(-1)
    return (log_p[-1].exp() * (log_p[-1] - log_p)).sum(-1)


def ours(metrics, compile):
    return lambda residuals, unembedding: lens.lens_metrics(
        residuals, unembedding, metrics=metrics, compile=compile
    )


METHODS = {
    "matrix products alone": products,
    "matrix products, tiled": tiled_products,
    "lens, eager: one KL": ours(ONE, False),
    "lens, eager: all metrics": ours(lens.METRICS, False),
    "lens, compiled: one KL": ours(ONE, True),
    "lens, compiled: all metrics": ours(lens.METRICS, True),
    "loop over layers, full log-softmax": layer_loop,
    "stack of all layers": stack,
}
COLLECTOR = "hooks, token by token"


def collector_seconds(options, steps=6, prompt=64):
    """Seconds that a hooked collector takes for all tokens, scaled up from a few decoded ones, model time left out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=options.vocabulary, hidden_size=options.width, num_hidden_layers=options.layers,
                         intermediate_size=options.width * 11 // 4, num_attention_heads=8)  # fmt: skip
    model, seen, spent = LlamaForCausalLM(config).eval(), [], 0.0
    for block in model.model.layers:
        block.register_forward_hook(lambda module, args, out: seen.append(out))
    ids, cache = torch.randint(options.vocabulary, (1, prompt)), None
    for _ in range(steps + 1):
        seen.clear()
        out = model(ids, past_key_values=cache, use_cache=True)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        start = options.clock()
        log_p = [model.lm_head(model.model.norm(h[:, -1])).log_softmax(-1) for h in seen]
        _ = [((log_p[-1].exp() * (log_p[-1] - p)).sum().item(), p.argmax().item()) for p in log_p]
        spent += options.clock() - start
    return spent / (steps + 1) * options.tokens


def seconds(options, methods, given, once=()):
    """Return {method: best seconds}, all methods in turn in every repeat, after one turn that does not count.

    methods: {name: function of *given}; those in `once` run in that turn and one repeat only.
    """
    best = {}
    for repeat in range(options.repeats + 1):
        for name, method in methods.items():
            if name in once and 1 < repeat:
                continue
            print(f"\r{name:60}", end="", file=sys.stderr, flush=True)
            gc.collect()
            start = options.clock()
            method(*given)
            best.setdefault(name, []).append(options.clock() - start)
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    return {name: min(times[1:]) for name, times in best.items()}


def peak_of(method, given, few):
    """Print the bytes of resident memory that one method adds at its peak (Linux), loaded on `few` inputs before."""
    method(*few)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    method(*given)
    print(status("VmHWM") - before)


def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak(script, name, options, **changes):
    """Return the peak in bytes of one method of a script, in a process of its own whose malloc gives memory back."""
    shape = {
        key: changes.get(key, getattr(options, key)) for key in ("layers", "tokens", "vocabulary", "width")
    }
    flags = [f"--{key}={value}" for key, value in shape.items()]
    run = subprocess.run(
        [sys.executable, script, f"--peak={name}", *flags],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(run.stdout)


def processor():
    """Return what multiplies here: the processor's name, the vector instructions that torch uses, and its threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def heading(options, tokens=None):
    """Print what was measured, on what, and how."""
    print(processor())
    clock = "CPU seconds" if options.clock is time.process_time else "seconds"
    print(f"{options.layers} layers, {tokens or options.tokens} tokens, d = {options.width}, {options.vocabulary} vocabulary "
          f"rows, float32; {clock}, best of {options.repeats}")  # fmt: skip


def table(times, peaks, bound, unit, of="products"):
    """Print seconds and megabytes of every method, and both as multiples of the bound."""
    print(f"\n{'method':42}{'s':>8}{f'× {of}':>12}{'MB':>8}{f'× {of}':>12}")
    for name, spent in times.items():
        memory = f"{peaks[name] / 1e6:8.0f}{peaks[name] / unit:12.2f}" if name in peaks else ""
        print(f"{name:42}{spent:8.2f}{spent / bound:12.2f}{memory}")


def verdict(name, ratio, target, of="the products"):
    """Print whether a ratio meets its target."""
    print(f"{name}: {ratio:.2f} of {of}, target ≤ {target}: {'met' if ratio <= target else 'MISSED'}")


def report(options):
    """Print the table, then each target with what was measured."""
    times = seconds(options, METHODS, inputs(options), once={"stack of all layers"})
    bound = times["matrix products alone"]
    times[COLLECTOR] = collector_seconds(options)
    peaks = {name: peak(__file__, name, options) for name in METHODS}
    heading(options)
    table(times, peaks, bound, peaks["matrix products alone"])
    print(f"({COLLECTOR}: scaled from 7 tokens; without the time of the model)\n")
    for prefix, target in TARGETS.items():
        for name in (name for name in METHODS if name.startswith(prefix)):
            verdict(name, times[name] / bound, target)
    name = "lens, eager: all metrics"
    twice = {
        key: peak(__file__, name, options, **{key: getattr(options, key) * 2}) for key in ("layers", "tokens")
    }
    same = max(abs(value - peaks[name]) for value in twice.values()) <= 0.1 * peaks[name]
    print(f"memory, {name}: {peaks[name] / 1e6:.0f} MB; twice the layers {twice['layers'] / 1e6:.0f}, twice the tokens "
          f"{twice['tokens'] / 1e6:.0f}; target the same within 10 %: {'met' if same else 'MISSED'}")  # fmt: skip


def parser_of(description, **defaults):
    """Return a parser of the shape, the number of repeats and the clock."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in (
        dict(layers=16, tokens=1024, width=512, vocabulary=32000, repeats=5) | defaults
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu-time", action="store_const", dest="clock", const=time.process_time,
                        default=time.perf_counter)  # fmt: skip
    return parser


def options_of(description, **defaults):
    """Return the command line's options, for benchmarks that also measure memory."""
    parser = parser_of(description, **defaults)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = options_of(__doc__.splitlines()[0])
    with torch.no_grad():
        if not options.peak:
            return report(options)
        residuals, unembedding = inputs(options)
        few = residuals if "compiled" in options.peak else [h[:8] for h in residuals[:2]]
        peak_of(METHODS[options.peak], (residuals, unembedding), (few, unembedding))


if __name__ == "__main__":
    main()
