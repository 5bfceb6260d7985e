"""What matched prefix costs: all eight conditions of experiment 14 at once, beside a loop that decodes them step by step.

    python tests/bench/bench_graft.py                  # d = 512, 16 layers, 32,000 tokens; and a pocket pair; minutes
    python tests/bench/bench_graft.py --layers 4 --vocabulary 4000 --forced 32 --steps 8

Both read the same numbers, which are compared, through the host's lens and through PT's: KL in both directions to the
own final layer, to the baseline's and the teacher's, to and from the teacher's same layer, Jensen-Shannon, entropy,
top-1, probability and rank of the forced token, δ-cosines, and the residual beside the teacher's. The loop keeps a KV
cache, captures with hooks, computes both MLPs where it grafts, and unembeds all layers of a step in one product. It is
run for the first --steps tokens and scaled up to all. Tokens are random: no cost depends on them. On a busy machine,
--cpu-time counts the seconds of this process.
"""

import argparse
import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nbhelpers.measures import lens_conditions, matched_prefix
from nbhelpers.models import decoder, edits, loading
from nbhelpers.models.conditions import OTHER, symmetric_conditions
from nbhelpers.models.generation import Continuation

TARGETS = {"random": 5.0, "pocket": 15.0}
CHECKED = ("kl_layer_final", "kl_final_layer", "kl_layer_teacher", "js_teacher", "entropy", "delta_cosine")


def random_pair(options):
    """Return two Llamas with random weights under one tokenizer of `vocabulary` words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(options.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")),
                                        pad_token="w0", eos_token="w1")  # fmt: skip
    config = LlamaConfig(vocab_size=options.vocabulary, hidden_size=options.width, num_hidden_layers=options.layers,
                         intermediate_size=options.width * 11 // 4, num_attention_heads=8,
                         initializer_range=0.05)  # fmt: skip
    torch.manual_seed(0)
    pt, it = (decoder.wrap(LlamaForCausalLM(config), tokenizer, variant=name) for name in ("pt", "it"))
    return decoder.Pair("random", None, pt, it)


def inputs(pair, rows, prompt, forced):
    """Return prompts by rendering and forced replies, random real tokens of one length each."""
    generator = torch.Generator().manual_seed(1)
    ids = pair.it.unembedding.token_ids[20:]  # past the special tokens, some of which embed as zero

    def draw(length):
        return ids[torch.randint(len(ids), (rows, length), generator=generator)].tolist()

    return {"raw": draw(prompt), "chat": draw(prompt)}, [
        Continuation(tuple(row), False) for row in draw(forced)
    ]


def ours(pair, prompts, replies, cells=lens_conditions.CELLS):
    conditions = symmetric_conditions(pair.n_layers)
    (steps,) = matched_prefix.measure(
        pair, prompts, replies, conditions, batch_size=len(replies), cells=cells
    )
    return steps


# --- the loop ---------------------------------------------------------------------------------------------------------


def hooked(host, donor, layers, seen):
    """Return the handles of hooks that graft the donor's MLPs and collect the stream of every block."""
    handles = []
    for layer, block in enumerate(host.module.get_submodule(host.stack_path).layers):
        before, after = edits.mlp_norms(block)
        collect = [(block, "input"), (before or block.mlp, "middle")]
        for module, name in collect:
            handles.append(module.register_forward_pre_hook(lambda m, a, k=name: seen[k].append(a[0][:, -1])))
        if layer in layers:
            mlp = donor.module.get_submodule(donor.stack_path).layers[layer].mlp
            handles.append(block.mlp.register_forward_hook(lambda m, a, out, mlp=mlp: mlp(a[0])))
        for module, name in ((after or block.mlp, "update"), (block, "output")):
            handles.append(module.register_forward_hook(lambda m, a, out, k=name: seen[k].append(out[:, -1])))
    return handles


def log_probabilities(unembedding, h):
    return (unembedding.norm(h) @ unembedding.weight.T).log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def readings(unembedding, h, teacher, baseline, rows):
    """Return one step's numbers through one lens, [layer, row]; teacher, baseline: residuals, None for h itself."""
    p = log_probabilities(unembedding, h)
    q = p if teacher is None else log_probabilities(unembedding, teacher)
    base = p[-1] if baseline is None else log_probabilities(unembedding, baseline)
    mixed = torch.logaddexp(p, q) - 0.6931471805599453
    target = p.gather(-1, rows[None, :, None].expand(len(p), -1, 1))
    return {
        "kl_layer_final": kl(p, p[-1:]), "kl_final_layer": kl(p[-1:], p), "kl_layer_baseline_final": kl(p, base),
        "kl_layer_teacher_final": kl(p, q[-1:]), "kl_layer_teacher": kl(p, q), "kl_teacher_layer": kl(q, p),
        "js_teacher": (kl(p, mixed) + kl(q, mixed)) / 2, "entropy": -(p.exp() * p).sum(-1), "top1": p.argmax(-1),
        "target_log_probability": target[..., 0], "target_rank": 1 + (p > target).sum(-1),
    }  # fmt: skip


def geometry(seen, teacher):
    """Return one step's δ-cosines [component, layer, row], and the residual beside the teacher's [layer, row]."""
    h, before, middle, update = (torch.stack(seen[name]) for name in ("output", "input", "middle", "update"))
    teacher = h if teacher is None else teacher
    cosine = torch.nn.functional.cosine_similarity
    updates = ((h - before, before), (middle - before, before), (update, middle))
    return {
        "delta_cosine": torch.stack([cosine(*pair, dim=-1) for pair in updates]),
        "residual_cosine_teacher": cosine(h, teacher, dim=-1),
        "residual_distance_teacher": (h - teacher).norm(dim=-1) / teacher.norm(dim=-1),
    }


def decode(condition, pair, prompts, replies, steps, kept, clock):
    """Return one condition's readings at its first steps and the seconds of each; kept: all residuals so far."""
    host, donor = getattr(pair, condition.host), getattr(pair, OTHER[condition.host])
    ids, forced = torch.tensor(prompts[condition.prompt_format]), torch.tensor([c.ids for c in replies])
    lenses = [host.unembedding] + [pair.pt.unembedding] * (condition.host == "it")
    rows = [host.unembedding.rows(column) for column in forced.T.contiguous()]
    seen, found, seconds, cache = {}, [], [], None
    own, handles = kept.setdefault(condition.name, []), hooked(host, donor, condition.layers, seen)
    for step in range(steps):
        start = clock()
        seen.update({name: [] for name in ("input", "middle", "update", "output")})
        cache = host.module(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
        own.append(torch.stack(seen["output"]))
        teacher = None if condition.name == "C" else kept["C"][step]
        baseline = None if condition.name == condition.baseline else kept[condition.baseline][step][-1]
        read = [readings(lens, own[-1], teacher, baseline, rows[step]) for lens in lenses]
        read = {name: torch.stack([read[0][name], read[-1][name]]) for name in read[0]}  # [basis, layer, row]
        found.append(read | geometry(seen, teacher))
        ids = forced[:, step : step + 1]
        seconds.append(clock() - start)
    for handle in handles:
        handle.remove()
    return {name: torch.stack([each[name] for each in found], dim=-1) for name in found[0]}, seconds


def loop(pair, prompts, replies, steps, clock):
    """Return ({condition: readings}, seconds scaled to all steps)."""
    total, found, kept, forced = 0.0, {}, {}, len(replies[0].ids)
    for condition in symmetric_conditions(pair.n_layers):
        found[condition.name], seconds = decode(condition, pair, prompts, replies, steps, kept, clock)
        total += seconds[0] + sum(seconds[1:]) / (len(seconds) - 1) * (forced - 1)
    return found, total


def largest_difference(steps, found):
    """Return {reading: largest absolute difference} of both ways over the steps that the loop made."""
    out = {}
    for name in CHECKED:
        mine = steps[name].isel(lens=0) if "lens" in steps[name].dims else steps[name]
        out[name] = 0.0
        for condition, theirs in found.items():
            theirs = theirs[name].flatten(-2)  # […, layer, row × step]
            few = theirs.shape[-1] // len(set(steps.prompt_index.values))
            ours = torch.as_tensor(mine.sel(condition=condition).isel(step=(steps.token < few).values).values)
            out[name] = max(out[name], float((ours - theirs).abs().max()))
    return out


# --- the report -------------------------------------------------------------------------------------------------------


def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_of(options):
    """Print the bytes of resident memory that the measurement adds at its peak (Linux)."""
    pair = random_pair(options)
    ours(pair, *inputs(pair, 1, 4, 4))
    prompts, replies = inputs(pair, options.rows, options.prompt, options.forced)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    ours(pair, prompts, replies)
    print(status("VmHWM") - before)


def peak(options, **changes):
    """Return the peak in bytes, from a process of its own whose malloc gives memory back."""
    shape = {name: changes.get(name, getattr(options, name))
             for name in ("layers", "width", "vocabulary", "rows", "prompt", "forced")}  # fmt: skip
    flags = ["--peak", *(f"--{name}={value}" for name, value in shape.items())]
    run = subprocess.run([sys.executable, __file__, *flags], env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"},
                         capture_output=True, text=True, check=True)  # fmt: skip
    return int(run.stdout)


def compare(title, pair, options):
    """Print both ways' seconds, their ratio beside the target, and how far their numbers lie apart."""
    rows, prompt, forced, steps = options.rows, options.prompt, options.forced, options.steps
    prompts, replies = inputs(pair, rows, prompt, forced)
    times = []
    for _ in range(options.repeats + 1):
        gc.collect()
        start = options.clock()
        measured = ours(pair, prompts, replies)
        times.append(options.clock() - start)
    found, looped = loop(pair, prompts, replies, steps, options.clock)
    ratio, best = looped / min(times[1:]), min(times[1:])
    differences = largest_difference(measured, found)
    print(
        f"{title}: {rows} rows, prompt of {prompt}, {forced} forced tokens, 8 conditions, raw lens of the host and of PT"
    )
    print(f"  loop, {steps} steps scaled to {forced}{looped:10.2f} s\n  one pass {best:27.2f} s\n  ratio {ratio:30.1f}   "
          f"target ≥ {TARGETS[title]:g}: {'met' if ratio >= TARGETS[title] else 'MISSED'}")  # fmt: skip
    print("  largest difference: " + ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))


def report(options):
    clock = "CPU seconds" if options.clock is time.process_time else "seconds"
    print(f"d = {options.width}, {options.layers} layers, {options.vocabulary} vocabulary rows, float32, "
          f"{torch.get_num_threads()} threads; {clock}, best of {options.repeats}; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    compare("random", random_pair(options), options)
    compare("pocket", loading.load_pair("llama_pocket"), options)
    shapes = {"as above": {}, "half the layers": {"layers": options.layers // 2},
              "half the vocabulary": {"vocabulary": options.vocabulary // 2}}  # fmt: skip
    peaks = {name: peak(options, **change) for name, change in shapes.items()}
    whole = 4 * 8 * options.layers * options.rows * options.forced * options.vocabulary
    print("peak memory: " + ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in peaks.items())
          + f"; the logits of all conditions and layers would be {whole / 1e6:.0f} MB")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = dict(layers=16, width=512, vocabulary=32000, rows=4, prompt=64, forced=192, steps=16, repeats=2)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cpu-time", action="store_const", dest="clock", const=time.process_time,
                        default=time.perf_counter)  # fmt: skip
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with torch.no_grad():
        peak_of(options) if options.peak else report(options)


if __name__ == "__main__":
    main()
