"""Every experiment and the book on a public model of 135 M parameters, and three of its numbers against plain PyTorch.

`make realmodel` runs it; nothing else does. What it took is printed and written to _build/realmodel/report.txt.
"""

import json
import os
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from nbhelpers.core import params
from nbhelpers.core.depths import windows
from tests.realmodel import project

pytestmark = pytest.mark.realmodel
KEY, NEW = project.KEY, project.SIZES["exp00"]["max_new_tokens"]


@pytest.fixture(scope="module")
def checkpoints():
    """Return the folder of the pair's checkpoints; skips where the model cannot be had."""
    try:
        return project.checkpoints()
    except project.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ran(checkpoints):
    """Return the project's root and the steps run in it: add, doctor, batch with every experiment and the book."""
    root = project.made()
    pair = ("--pt", checkpoints / "pt", "--it", checkpoints / "it", "--title", project.TITLE)
    steps = [project.nbh(root, "add", KEY, *pair)]
    assert steps[0].status == 0, steps[0].said
    project.resize(root)
    cores = os.environ.get("CORES", str(os.cpu_count() or 1))
    steps += [project.nbh(root, "models", "--check", KEY)]
    steps += [project.nbh(root, "batch", "--profile", KEY, "--cores", cores)]
    report = [
        f"{step.name}: {step.seconds:.0f} s, at most {step.peak / 2**30:.2f} GiB in a process"
        for step in steps
    ]
    text = "\n".join([*report, "", steps[-1].said])
    (project.FOLDER / "report.txt").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    return root, {step.name: step for step in steps}


@pytest.fixture(scope="module")
def here(ran):
    """Make the project the one that this process reads; returns its root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "ROOT", ran[0])
        yield ran[0]


@pytest.fixture(scope="module")
def measured(here):
    """Return the pair's dataset of what was generated and measured."""
    from nbhelpers import experiments

    return experiments.load(KEY, KEY, "exp00")


@pytest.fixture(scope="module")
def plain(checkpoints):
    """Return {variant: (model, tokenizer)} of `transformers` alone."""
    folders = {variant: checkpoints / variant for variant in params.VARIANTS}
    return {
        variant: (AutoModelForCausalLM.from_pretrained(f).eval(), AutoTokenizer.from_pretrained(f))
        for variant, f in folders.items()
    }


def prompt_ids(root, plain, variant, name):
    """Return the ids of a prompt: raw text for PT, a chat turn for IT."""
    lines = (root / "params/prompts/general.jsonl").read_text(encoding="utf-8").splitlines()
    prompt = next(record for record in map(json.loads, lines) if record["id"] == name)
    tokenizer = plain[variant][1]
    if variant == "pt":
        return tokenizer(prompt["text"])["input_ids"]
    turn = [{"role": "user", "content": prompt["message"]}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def replies(measured, history):
    """Yield a prompt's id and the ids of its reply, as the dataset holds them."""
    own = measured.sel(step=measured.history == history)
    for index in np.unique(own.prompt_index):
        steps = own.sel(step=own.prompt_index == index).sortby("token")
        yield str(measured.prompt.values[index]), steps


@torch.no_grad()
def residuals(model, ids, start):
    """Return the residual stream after every block at the positions from `start`, float64 [layer, position, d]."""
    kept = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        for block in model.model.layers
    ]
    model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    states = [output[0] if isinstance(output, tuple) else output for output in kept]
    return torch.stack([state[0, start:] for state in states])


@torch.no_grad()
def curve(model, states):
    """Return KL(final ‖ layer) [layer, position] and the final log-probabilities, in float64."""
    logits = model.lm_head(model.model.norm(states)).double()
    log_p = logits.log_softmax(-1)
    return (log_p[-1].exp() * (log_p[-1] - log_p)).sum(-1), log_p[-1]


def test_the_pair_is_added_and_everything_works_on_it(ran):
    _, steps = ran
    assert steps["nbh models"].status == 0
    table = re.findall(r"^(\S.*?)  +works$", steps["nbh models"].said, flags=re.M)
    assert set(table) == {
        "loads", "chat template", "lens", "updates", "grafts", "neurons", "attention", "weights"
    }  # fmt: skip


def test_every_experiment_and_the_book_are_made(ran, here):
    root, steps = ran
    assert steps["nbh batch"].status == 0, steps["nbh batch"].said
    for key in params.ordered():
        assert (root / f"_build/results/{KEY}/{KEY}/{key}.nc").exists(), key
    assert not list((root / "_build/runs").rglob("*.partial.ipynb"))


def test_the_book_has_every_page_and_names_the_pair_by_its_title(ran, here):
    html = here / "_build/html"
    for key in params.ordered():
        experiment = params.experiment(key)
        (across,) = html.rglob(experiment.across.replace(".ipynb", ".html"))
        assert project.TITLE in across.read_text(encoding="utf-8"), across.name
        assert list(html.rglob(f"{KEY}*/{experiment.notebook.replace('.ipynb', '.html')}")) or list(
            html.rglob(f"*{key}*{KEY}*.html")
        ), experiment.notebook


def test_greedy_text_is_that_of_transformers(measured, here, plain):
    for variant in params.VARIANTS:
        model, tokenizer = plain[variant]
        greedy = GenerationConfig(
            max_new_tokens=NEW, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        )
        for name, steps in replies(measured, variant):
            ids = prompt_ids(here, plain, variant, name)
            with torch.no_grad():
                whole = model.generate(torch.tensor([ids]), generation_config=greedy)[0].tolist()
            assert whole[len(ids) :] == steps.token_id.values.astype(int).tolist(), (variant, name)


def test_the_raw_lens_curve_is_that_of_plain_pytorch(measured, here, plain):
    for variant in params.VARIANTS:
        for name, steps in list(replies(measured, variant))[:3]:
            ids, reply = prompt_ids(here, plain, variant, name), steps.token_id.values.astype(int).tolist()
            states = residuals(plain[variant][0], [*ids, *reply[:-1]], len(ids) - 1)
            ours = steps.kl_final_layer.sel(variant=variant, lens="raw").transpose("layer", "step")
            theirs = curve(plain[variant][0], states)[0].numpy()
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_a_late_graft_is_a_swap_of_modules(measured, here, plain):
    from nbhelpers.measures.lens import lens_metrics
    from nbhelpers.models.edits import graft
    from nbhelpers.models.forward import forward, replay_batches
    from nbhelpers.models.generation import Continuation
    from nbhelpers.models.loading import load_pair

    name, steps = next(replies(measured, "it"))
    ids, reply = prompt_ids(here, plain, "pt", name), steps.token_id.values.astype(int).tolist()
    pair = load_pair(KEY)
    late = list(windows(pair.n_layers)["late"])
    (batch,) = replay_batches([ids], [Continuation(tuple(reply), False)], 1, 0)
    grafted = forward(pair.pt, batch, graft(pair.it, late))
    ours = lens_metrics(grafted.residual, pair.pt.unembedding, metrics=["kl_final_layer"])["kl_final_layer"]

    host, donor = plain["pt"][0], plain["it"][0]
    own = {layer: host.model.layers[layer].mlp for layer in late}
    for layer in late:
        host.model.layers[layer].mlp = donor.model.layers[layer].mlp
    theirs, final = curve(host, residuals(host, [*ids, *reply[:-1]], len(ids) - 1))
    for layer, mlp in own.items():
        host.model.layers[layer].mlp = mlp
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    log_p = grafted.last_logits.double().log_softmax(-1)[0]
    np.testing.assert_allclose(log_p, final[-1], atol=1e-3)
