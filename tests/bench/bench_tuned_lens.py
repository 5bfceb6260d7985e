"""What a joint training step of the tuned lens costs beside its two matrix products, and what its reading costs.

    python tests/bench/bench_tuned_lens.py                   # d = 512, 16 layers, 32,000 tokens; minutes
    python tests/bench/bench_tuned_lens.py --layers 4 --tokens 256 --vocabulary 8192 --repeats 2

A step is the loss and the gradients of all layers' translators; its bound is two products a layer, the logits and their
softmax times the unembedding, the final layer's included, for the others use them. How time and memory are measured:
see bench_lens.py.
"""

from functools import partial

import bench_lens
import torch

from nbhelpers.measures import lens, tuned_lens

STEP_TARGET = 1.25


def inputs(options):
    """Return residuals, an unembedding and translators a little way from their start."""
    residuals, unembedding = bench_lens.inputs(options)
    tuned = tuned_lens.untrained(len(residuals), unembedding)
    tuned.weight.add_(0.01 * torch.randn_like(tuned.weight))
    return residuals, unembedding, tuned


def products(residuals, unembedding, tuned, rows=1024):
    """Both products of every layer and token, into one buffer each, and nothing else: the bound."""
    rows, weight = min(rows, len(residuals[0])), unembedding.weight
    logits, out = torch.empty(rows, len(weight)), torch.empty(rows, weight.shape[1])
    for start in range(0, len(residuals[0]), rows):
        for h in residuals:
            chunk = h[start : start + rows]
            z = torch.mm(chunk, weight.T, out=logits[: len(chunk)])
            torch.mm(z, weight, out=out[: len(chunk)])


def tiled_products(residuals, unembedding, tuned, rows=1024, columns=4096):
    """The same products by tiles, for machines whose caches make that the faster bound."""
    logits, out = torch.empty(rows * columns), torch.zeros(rows, unembedding.weight.shape[1])
    for start in range(0, len(residuals[0]), rows):
        for weight in unembedding.weight.split(columns):
            for h in residuals:
                chunk = h[start : start + rows]
                z = torch.mm(chunk, weight.T, out=logits[: len(chunk) * len(weight)].view(len(chunk), -1))
                out[: len(chunk)].addmm_(z, weight, beta=0)


def step(rows, residuals, unembedding, tuned):
    """Our step."""
    tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=rows)


def losses(residuals, unembedding, parameters):
    """Yield each layer's KL(final ‖ layer), with its graph, from full log-softmaxes."""
    with torch.no_grad():
        log_q = lens.lens_logits(residuals[-1], unembedding).log_softmax(-1)
        q = log_q.exp()
    for h, (weight, bias) in zip(residuals, parameters):
        log_p = (unembedding.norm(h @ weight.T + bias) @ unembedding.weight.T).log_softmax(-1)
        yield (q * (log_q - log_p)).sum()


def leaves(tuned):
    pairs = zip(tuned.weight[:-1], tuned.bias[:-1])
    return [(weight.clone().requires_grad_(), bias.clone().requires_grad_()) for weight, bias in pairs]


@torch.enable_grad()
def layer_loop(residuals, unembedding, tuned):
    """Autograd, one layer after the other."""
    for loss in losses(residuals, unembedding, leaves(tuned)):
        loss.backward()


@torch.enable_grad()
def one_graph(residuals, unembedding, tuned):
    """Autograd, one graph of all layers."""
    sum(losses(residuals, unembedding, leaves(tuned))).backward()


STEPS = {
    "matrix products alone": products,
    "matrix products, tiled": tiled_products,
    "step, ours": partial(step, 512),
    "step, ours, 256 rows": partial(step, 256),
    "step, autograd in a loop over layers": layer_loop,
    "step, autograd in one graph": one_graph,
}
READINGS = {
    "lens, raw": lambda residuals, unembedding, tuned: lens.lens_metrics(residuals, unembedding),
    "lens, tuned": lambda residuals, unembedding, tuned: tuned_lens.metrics(residuals, unembedding, tuned),
}


def report(options):
    """Print the tables, then each target with what was measured."""
    given = residuals, unembedding, _ = inputs(options)
    times = bench_lens.seconds(options, STEPS | READINGS, given, once={"step, autograd in one graph"})
    bound = min(times[name] for name in STEPS if "products" in name)
    peaks = {name: bench_lens.peak(__file__, name, options) for name in STEPS | READINGS}
    bench_lens.heading(options)
    bench_lens.table(times, peaks, bound, peaks["matrix products alone"])
    print()
    bench_lens.verdict("step, ours", times["step, ours"] / bound, STEP_TARGET)
    print(f"lens, tuned: {times['lens, tuned'] / times['lens, raw']:.2f} of the raw lens")


def main():
    options = bench_lens.options_of(__doc__.splitlines()[0], repeats=3)
    with torch.no_grad():
        if not options.peak:
            return report(options)
        residuals, unembedding, tuned = inputs(options)
        few = [h[:8] for h in residuals], unembedding, tuned
        bench_lens.peak_of((STEPS | READINGS)[options.peak], (residuals, unembedding, tuned), few)


if __name__ == "__main__":
    main()
