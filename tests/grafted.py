"""Matched prefix the slow way, and made-up steps: what the tests of grafts compare with.

`slow` decodes one prompt with a KV cache, token by token, through a plain copy of the host with the donor's modules in
place, and reads every step with full softmaxes in float64.
"""

from collections import namedtuple
from functools import cache

import numpy as np
import torch
import xarray as xr

from nbhelpers.measures import matched_prefix
from nbhelpers.measures.graft_shifts import AXES, PROJECTIONS
from nbhelpers.measures.lens_conditions import INTEGERS, READOUTS
from nbhelpers.models import generation, prompts
from nbhelpers.models.conditions import study_conditions
from nbhelpers.models.token_classes import CLASSES
from tests.measures.test_tuned_lens import perturbed
from tests.models.test_interventions import blocks, pair, swapped

LENSES, BASES = ("raw", "tuned"), ("host", "pt", "it")
LENGTHS = (4, 1, 3)  # forced tokens of each prompt
PROJECTED = ("C", "A'", "B_late", "D_late")
Case = namedtuple("Case", "pair chosen ids made lenses conditions")


@cache
def case(family):
    """A pair, three prompts, IT's replies cut short, translators away from the identity, and six conditions."""
    found = pair(family)
    chosen = prompts.load_prompts("pocket/prompts.jsonl", 3, seed=5)
    ids = {"raw": prompts.render(found.pt, chosen), "chat": prompts.render(found.it, chosen)}
    made = generation.generate(found.it, ids["chat"], max_new_tokens=max(LENGTHS))
    made = [generation.Continuation(text.ids[:n], False) for text, n in zip(made, LENGTHS)]
    lenses = {d.variant: perturbed(d.n_layers, d.unembedding, seed=i) for i, d in enumerate(found)}
    names = ("C", "A'", "B_late", "D_late", "A'_tmpl", "B2")
    conditions = [c for c in study_conditions(found.n_layers) if c.name in names]
    return Case(found, chosen, ids, made, lenses, conditions)


def measured(given, **options):
    """All steps that `measure` yields, in the order of the prompts."""
    arguments = {"lenses": given.lenses, "shared": ("pt", "it"), "batch_size": 2} | options
    conditions = arguments.pop("conditions", given.conditions)
    parts = matched_prefix.measure(given.pair, given.ids, given.made, conditions, **arguments)
    whole = xr.concat(list(parts), "step", data_vars="minimal", coords="minimal", compat="override")
    return whole.isel(step=np.argsort(whole.prompt_index.values, kind="stable"))


# --- the slow way -----------------------------------------------------------------------------------------------------


def places(block):
    """Where a block shows its stream: (module, side, name)."""
    post = getattr(block, "post_feedforward_layernorm", None)
    before = getattr(
        block, "pre_feedforward_layernorm", block.mlp if post else block.post_attention_layernorm
    )
    return (block, 0, "before"), (before, 0, "middle"), (post or block.mlp, 1, "update"), (block, 1, "after")


def decoded(module, stack_path, prompt, reply):
    """The stream at every step of one prompt, {name: [step, layer, d]}, and logits [step, row], with a KV cache."""
    seen, found, handles = {}, [], []
    for block in module.get_submodule(stack_path).layers:
        for part, side, name in places(block):

            def keep(m, args, out, side=side, name=name):
                seen.setdefault(name, []).append((out if side else args[0])[0, -1].clone())

            handles.append(part.register_forward_hook(keep))
    kept, ids = None, torch.tensor([prompt])
    for token in reply:
        seen.clear()
        with torch.no_grad():
            out = module(ids, past_key_values=kept, use_cache=True)
        found.append(
            {name: torch.stack(values) for name, values in seen.items()} | {"logits": out.logits[0, -1]}
        )
        kept, ids = out.past_key_values, torch.tensor([[token]])
    for handle in handles:
        handle.remove()
    return {name: torch.stack([step[name] for step in found]) for name in found[0]}


@cache
def slow(family):
    """{condition: [prompt] of `decoded`}."""
    given = case(family)
    found = {}
    for condition in given.conditions:
        host = getattr(given.pair, condition.host)
        donor = getattr(given.pair, {"pt": "it", "it": "pt"}[condition.host])
        module = swapped(host, donor, condition.layers)
        found[condition.name] = [
            decoded(module, host.stack_path, prompt, text.ids)
            for prompt, text in zip(given.ids[condition.prompt_format], given.made)
        ]
    return found


def real_log_probabilities(decoder, residual, tuned=None):
    """Float64 log-probabilities [layer, real vocabulary] of residuals [layer, d]; the last layer stays raw."""
    stack, h = decoder.module.get_submodule(decoder.stack_path), residual
    if tuned is not None:
        moved = torch.einsum("lij,lj->li", tuned.weight.double(), h.double()) + tuned.bias.double()
        h = torch.cat([moved[:-1].to(h.dtype), h[-1:]])
    with torch.no_grad():
        z = stack.norm(h).double() @ decoder.module.get_output_embeddings().weight.double().T
    return z[:, torch.as_tensor(decoder.real_tokens)].log_softmax(-1)


def kl(p, q):
    """KL(p ‖ q) of float64 log-probabilities [..., row]."""
    return (p.exp() * (p - q)).sum(-1)


def slow_readings(own, baseline, teacher, target):
    """{read-out: [layer]} of log-probabilities [layer, row]; target: the row of the forced token. Ids are rows."""
    middle = torch.logaddexp(own, teacher) - np.log(2)
    return {
        "kl_layer_final": kl(own, own[-1:]),
        "kl_final_layer": kl(own[-1:], own),
        "kl_layer_baseline_final": kl(own, baseline[-1:]),
        "kl_layer_teacher_final": kl(own, teacher[-1:]),
        "kl_layer_teacher": kl(own, teacher),
        "kl_teacher_layer": kl(teacher, own),
        "js_teacher": (kl(own, middle) + kl(teacher, middle)) / 2,
        "entropy": -(own.exp() * own).sum(-1),
        "target_log_probability": own[:, target],
        "target_rank": 1 + (own > own[:, target : target + 1]).sum(-1),
        "top1": own.argmax(-1),
    }


# --- made up ----------------------------------------------------------------------------------------------------------


def made_up(lengths=(4, 2, 3), *, n_layers=10, conditions=None, seed=0, vocabulary=6):
    """Random steps with the schema of `measure`, projections of `PROJECTED` included; assign what a test is about."""
    rng, conditions = np.random.default_rng(seed), conditions or study_conditions(n_layers)
    n, late = sum(lengths), np.arange(n_layers) >= int(0.8 * n_layers)
    shape, sizes = ("lens", "basis", "condition", "layer", "step"), (2, 2, len(conditions), n_layers, n)
    found = {name: (shape, rng.lognormal(size=sizes)) for name in READOUTS}
    found |= {name: (shape, rng.integers(1, vocabulary, sizes)) for name in INTEGERS}
    for name in ("kl_layer_final", "kl_final_layer"):
        found[name][1][..., -1, :] = 0
    component, length = ("component", *shape[2:]), rng.lognormal(size=(3, *sizes[2:]))
    found |= {
        "delta_cosine": (component, rng.uniform(-1, 1, (3, *sizes[2:]))),
        "update_norm": (component, length),
    }
    pushed = np.array([c.name in PROJECTED for c in conditions])[:, None, None] & late[:, None]
    cosine, change = rng.uniform(-1, 1, (3, *sizes[2:])), rng.normal(size=(3, *sizes[2:]))
    for name, values in zip(PROJECTIONS, (change, cosine * length[2], cosine)):
        found[name] = ("axis", *shape[2:]), np.where(pushed, values, np.nan)
    found["candidate_overlap"] = shape, np.where(pushed, rng.uniform(size=sizes), np.nan)
    found["nll"] = ("condition", "step"), rng.lognormal(size=(len(conditions), n))
    found["free_top1"] = ("condition", "step"), rng.integers(1, vocabulary, (len(conditions), n))
    found["token_id"] = "step", rng.integers(1, vocabulary, n)
    found["token_class"] = "step", rng.integers(0, len(CLASSES), n).astype("int8")
    about = {name: ("condition", [getattr(c, name) for c in conditions]) for name in matched_prefix.DESCRIBED}
    about["first_layer"] = "condition", [min(c.layers, default=-1) for c in conditions]
    about["last_layer"] = "condition", [max(c.layers, default=-1) for c in conditions]
    coords = {
        "lens": list(LENSES), "basis": ["host", "pt"], "condition": [c.name for c in conditions],
        "layer": np.arange(n_layers), "component": ["block", "attention", "mlp"], "axis": list(AXES),
        "prompt_index": ("step", np.repeat(np.arange(len(lengths)), lengths)),
        "token": ("step", np.concatenate([np.arange(length) for length in lengths])),
    }  # fmt: skip
    return xr.Dataset(found, coords | about, {"n_layers": n_layers})


__all__ = ["blocks", "case", "made_up", "measured", "pair", "slow", "swapped"]
