"""What measuring costs: capture beside a bare forward, and exp09's raw-lens measurement beside a loop over tokens.

    python tests/bench/bench_capture.py                                        # a minute or two
    python tests/bench/bench_capture.py --layers 4 --vocabulary 4000 --cap 8 --looped 1 --repeats 1

First a random Llama (d = 512, 16 layers, 32,000 tokens): one forward over prompts with their continuations, bare, and
with the residual stream and what attention and MLPs add to it kept at every generated token. Then a pocket pair: both
models write to each prompt, and every layer is read at every token, both KL directions, adjacent KL, entropy, first
token, δ-cosines and norms. The loop does the same as collectors of the field do: it decodes one prompt at a time, reads
each layer by hooks as each token is made, and takes whole softmaxes. It is run on --looped prompts, whose numbers are
compared, and scaled to all tokens. Seconds as in bench_lens.py.
"""

import gc

import bench_graft
import bench_lens
import torch

from nbhelpers.measures import delta_cosine, lens
from nbhelpers.models import forward, generation, prompts
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import load_pair

CAPTURE_TARGET = 1.05
CHECKED = ("kl_final_layer", "kl_layer_final", "entropy", "delta_cosine")


# --- capture ----------------------------------------------------------------------------------------------------------


def bare(decoder, batch):
    """The model's forward alone, with the logits of the last column, as capture makes them."""
    decoder.module(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=1)


def capture_costs(options):
    """Print the seconds of a bare forward and of one that captures, and their ratio beside the target."""
    decoder = bench_graft.random_pair(options).it
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, options.vocabulary, (options.rows, 32 + 96), generator=generator).tolist()
    made = [Continuation(tuple(row[32:]), False) for row in ids]
    (batch,) = forward.replay_batches([row[:32] for row in ids], made, options.rows, 0)
    methods = {"bare forward": bare, "forward with capture": forward.forward}
    times = bench_lens.seconds(options, methods, (decoder, batch))
    bench_lens.heading(options, tokens=batch.input_ids.numel())
    print(f"{len(batch.targets)} of the tokens measured")
    bench_lens.table(times, {}, times["bare forward"], 1, of="bare")
    ratio = times["forward with capture"] / times["bare forward"]
    bench_lens.verdict("capture", ratio, CAPTURE_TARGET, of="a bare forward")


# --- the whole measurement --------------------------------------------------------------------------------------------


def read(decoder, batch, stream):
    """Return {metric: [layer, token] or [component, layer, token]} of one captured batch."""
    lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding)
    updates = stream.attention_update, stream.mlp_update
    shapes = delta_cosine.stream_geometry(stream.embedding, stream.residual, *updates)
    return lens.lens_metrics(stream.residual, decoder.unembedding) | shapes


def measured(decoder, ids, cap):
    """Return what a model writes to prompts, and its readings by prompt, {prompt: {metric: […, token]}}."""
    made, found = generation.generate(decoder, ids, max_new_tokens=cap), {}
    for batch, stream in forward.replay(decoder, ids, made):
        whole, of_step = read(decoder, batch, stream), torch.as_tensor(batch.row_of_step)
        for row in batch.rows.tolist():
            found[row] = {name: values[..., of_step == row] for name, values in whole.items()}
    return made, found


def step_readings(unembedding, seen):
    """Return one token's readings {metric: [layer] or [component, layer]}, and the row of the token to write."""
    h, before, middle, update = (
        torch.stack(seen[name])[:, 0] for name in ("output", "input", "middle", "update")
    )
    p = bench_graft.log_probabilities(unembedding, h)
    found = {
        "kl_final_layer": bench_graft.kl(p[-1:], p), "kl_layer_final": bench_graft.kl(p, p[-1:]),
        "kl_adjacent": bench_graft.kl(p[:-1], p[1:]), "entropy": -(p.exp() * p).sum(-1), "top1": p.argmax(-1),
        "delta_cosine": bench_graft.geometry(seen, None)["delta_cosine"][..., 0], "residual_norm": h.norm(dim=-1),
        "update_norm": torch.stack([h - before, middle - before, update]).norm(dim=-1),
    }  # fmt: skip
    return found, int(found["top1"][-1])


def looped(decoder, ids, cap):
    """Return what a model writes to one prompt, token by token, and its readings {metric: […, token]}."""
    seen, found, written, cache = {}, [], [], None
    handles = bench_graft.hooked(decoder, decoder, (), seen)
    given = torch.tensor([ids])
    while len(written) < cap and not (written and written[-1] in decoder.stop_ids):
        seen.update({name: [] for name in ("input", "middle", "update", "output")})
        cache = decoder.module(given, past_key_values=cache, use_cache=True).past_key_values
        readings, row = step_readings(decoder.unembedding, seen)
        found.append(readings)
        written.append(int(decoder.unembedding.token_ids[row]))
        given = torch.tensor([written[-1:]])
    for handle in handles:
        handle.remove()
    return written, {name: torch.stack([each[name] for each in found], dim=-1) for name in found[0]}


def measurement_costs(options):
    """Print the seconds of both ways on a pocket pair, and how far their numbers lie apart."""
    pair = load_pair(options.model)
    chosen = prompts.load_prompts("pocket/prompts.jsonl", options.prompts, seed=0)
    ids = {decoder.variant: prompts.render(decoder, chosen) for decoder in pair}
    best, ours = float("inf"), {}
    for _ in range(options.repeats + 1):
        gc.collect()
        start = options.clock()
        ours = {decoder.variant: measured(decoder, ids[decoder.variant], options.cap) for decoder in pair}
        best = min(best, options.clock() - start)
    total, apart = 0.0, dict.fromkeys(CHECKED, 0.0)
    for decoder in pair:
        made, found = ours[decoder.variant]
        start = options.clock()
        loop = [looped(decoder, row, options.cap) for row in ids[decoder.variant][: options.looped]]
        spent, n = options.clock() - start, sum(len(written) for written, _ in loop)
        total += spent / n * sum(len(text.ids) for text in made)
        for row, (written, theirs) in enumerate(loop):
            assert tuple(written) == made[row].ids, "both ways must write the same"
            for name in CHECKED:
                apart[name] = max(apart[name], float((found[row][name] - theirs[name]).abs().max()))
    tokens = sum(len(text.ids) for made, _ in ours.values() for text in made)
    print(
        f"\n{options.model}: {options.prompts} prompts, {tokens} tokens of both models, every layer read at each"
    )
    print(f"  loop over tokens, {options.looped} prompts scaled to all {total:8.1f} s")
    print(f"  generation, one forward, one pass of the lens {best:6.1f} s\n  ratio {total / best:46.1f}")
    print("  largest difference: " + ", ".join(f"{name} {value:.1e}" for name, value in apart.items()))


def main():
    parser = bench_lens.parser_of(__doc__.splitlines()[0])
    for name, default in dict(rows=8, prompts=96, cap=48, looped=4).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="llama_pocket", help="a key of params/models")
    options = parser.parse_args()
    with torch.no_grad():
        capture_costs(options)
        measurement_costs(options)


if __name__ == "__main__":
    main()
