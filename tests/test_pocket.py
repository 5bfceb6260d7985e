"""The pocket world, its split, its training loop and the checkpoints that ship."""

import hashlib
import itertools
import json
import random
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pocket import evaluate, evaluation, formats, instruction, pretraining, prompts, train, world
from pocket.families import FAMILIES

CHECKPOINTS = train.CHECKPOINTS


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(pretraining.documents(train.SEED), 4000))


@pytest.fixture(scope="module")
def examples():
    return list(itertools.islice(instruction.examples(train.SEED), 8000))


def test_text_is_the_same_for_the_same_seed(documents, examples):
    assert list(itertools.islice(pretraining.documents(train.SEED), 50)) == documents[:50]
    assert list(itertools.islice(instruction.examples(train.SEED), 50)) == examples[:50]
    assert list(itertools.islice(pretraining.documents(train.SEED + 1), 50)) != documents[:50]


def test_held_out_statements_and_sums_are_never_pretrained_on(documents):
    text = "\n".join(documents)
    for fact in world.FACTS.values():
        assert world.state(fact, world.held_out_statement(fact)) + "." not in text
        assert world.ask(fact, world.held_out_question(fact)) not in text
    said = {part for document in documents for part in document.replace("\n", " ").split(". ")}
    for problem in world.SUMS:
        form = world.held_out_form(problem)
        if form != 2:  # the third form names a thing, so it is looked for by thing
            assert world.sum_text(problem, form) not in said


def test_held_out_prompts_are_never_trained_on(documents, examples):
    trained = {example.message for example in examples}
    text = "\n".join(documents)
    for row in prompts.records() + evaluation.records():
        assert row["message"] not in trained
        assert row["message"] not in text


def test_held_out_names_are_never_written(documents, examples):
    text = "\n".join(documents) + "\n".join(f"{e.message} {e.reply}" for e in examples)
    names = {e.check["entity"] for e in instruction.held_out_examples("unknown", 40)}
    assert len(names) > 20
    assert not [name for name in names if name in text.replace(".", " ").replace("?", " ").split()]


def test_prompt_file_is_what_the_recipe_makes():
    assert [json.loads(line) for line in prompts.PATH.read_text().splitlines()] == prompts.records()


def test_every_training_reply_passes_its_own_check(examples):
    seen = set()
    for example in examples:
        if example.kind.startswith("format_"):
            kind = example.kind.removeprefix("format_")
            assert formats.follows(kind, example.reply, example.check), example
            seen.add(kind)
    assert len(seen) == len(formats.MAKERS) >= 10


def offered(message):
    """Return the options of a question, {letter: option}."""
    listed = message.split("\nOptions: ")[1].removesuffix(".").split(", ")
    return {option[-1]: option[:-2] for option in listed}


def test_the_letter_of_a_choice_is_that_of_the_true_option(examples):
    letters = set()
    for example in [e for e in examples if e.kind == "choice"] + instruction.held_out_examples("choice", 60):
        options, letter = offered(example.message), example.check["answer"]
        assert list(options) == list("ABCD") and len(set(options.values())) == 4
        fact = [f for f in world.facts_about(example.check["entity"]) if f.value in options.values()]
        assert options[letter] in {f.value for f in fact}
        assert example.reply.endswith(f"{options[letter]} {letter}.")
        letters.add(letter)
    assert letters == set("ABCD")


def test_labels_are_looked_up_as_listed():
    rng = random.Random(1)
    for _ in range(200):
        first, *again = pretraining.labels(rng).split("\n")
        listed = {pair[:-2]: pair[-1] for pair in first.split(": ")[1].removesuffix(".").split(", ")}
        assert 4 <= len(listed) <= 7
        for line in again:
            pairs = line.removeprefix("Again: ").removesuffix(".").split(". ")
            assert {pair[:-2]: pair[-1] for pair in pairs} == listed


def test_lookups_are_drawn_anew():
    """So the letters left over say nothing: some things come twice, some never."""
    rng, twice = random.Random(1), 0
    for _ in range(200):
        first, *again = pretraining.lookups(rng).split("\n")
        listed = {pair[:-2]: pair[-1] for pair in first.split(": ")[1].removesuffix(".").split(", ")}
        for line in again:
            pairs = line.removeprefix("Again: ").removesuffix(".").split(". ")
            assert len(pairs) == len(listed) and all(listed[pair[:-2]] == pair[-1] for pair in pairs)
            twice += len(set(pairs)) < len(pairs)
    assert twice > 300


@pytest.mark.parametrize("key", FAMILIES)
def test_a_letter_is_one_token_behind_its_option(key):
    """Nothing that all letters share stands between, or the look-up takes two matches."""
    tokenizer = train.AutoTokenizer.from_pretrained(CHECKPOINTS / key / "pt")
    for option in ("Tovel", "hen", "figs"):
        for letter in "ABCD":
            alone = tokenizer.tokenize(f"Options: {option}")
            assert len(tokenizer.tokenize(f"Options: {option} {letter},")) == len(alone) + 2


@pytest.mark.parametrize(
    ("kind", "check", "good", "bad"),
    [
        ("bullet_list", {"n": 2}, "- a\n- b", "- a\n- b\n- c"),
        ("numbered_list", {"n": 2}, "1. a\n2. b", "1. a\n3. b"),
        ("upper_case", {}, "A FIG.", "A Fig."),
        ("lower_case", {}, "a fig.", "a Fig."),
        ("sentence_count", {"n": 2}, "One. Two.", "One."),
        ("ends_with", {"phrase": "Good luck."}, "Yes. Good luck.", "Good luck. Yes."),
        ("keywords", {"words": ["fig", "fox"]}, "A fox ate a fig.", "A fox ate."),
        ("no_commas", {}, "One two three", "One, two three"),
        ("quoted", {}, '"Yes."', 'Yes."'),
        ("json", {"keys": ["town", "job"]}, '{"town": "a", "job": "b"}', '{"town": "a"}'),
        ("sections", {"n": 2}, "## A\nx\n\n## B\ny", "## A\nx"),
        ("one_word", {}, "Tovel", "in Tovel"),
    ],
)
def test_format_checks(kind, check, good, bad):
    assert formats.follows(kind, good, check)
    assert not formats.follows(kind, bad, check)
    assert not formats.follows(kind, "", check)


@pytest.mark.parametrize("key", FAMILIES)
def test_checkpoints_are_half_precision_and_share_a_tokenizer(key):
    for variant in train.VARIANTS:
        with safe_open(CHECKPOINTS / key / variant / "model.safetensors", "pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}
    one, two = ((CHECKPOINTS / key / v / "tokenizer.json").read_bytes() for v in train.VARIANTS)
    assert one == two


def test_checkpoints_are_small_and_intact():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    lines = (CHECKPOINTS / "SHA256SUMS").read_text().splitlines()
    assert len(lines) >= 12 * 3
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((CHECKPOINTS / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("key", FAMILIES)
def test_card_reports_what_the_checkpoint_does(key):
    """Two gates measured again on a few prompts agree with the card, which holds every gate of both models."""
    card = json.loads((CHECKPOINTS / key / "card.json").read_text())
    gates = {(g["variant"], g["name"]): g for g in card["gates"]}
    assert len(gates) == 3 + 8
    it = evaluate.load_pair(f"{key}_pocket").it
    asked = instruction.held_out_examples("fact", 24)
    texts, _ = evaluate.reply_texts(it, [evaluate.chat_ids(it, e.message) for e in asked], 24)
    assert abs(evaluate.share(map(evaluate.says, asked, texts)) - gates["it", "fact QA"]["value"]) < 0.15
    asked = instruction.held_out_examples("harmful", 16)
    texts, _ = evaluate.reply_texts(it, [evaluate.chat_ids(it, e.message) for e in asked], 12)
    refused = evaluate.share(text.startswith(instruction.REFUSAL) for text in texts)
    assert abs(refused - gates["it", "harmful refused"]["value"]) < 0.15
    missed = {name for name, g in gates.items() if not g["passed"]}
    readme = (CHECKPOINTS / key / "README.md").read_text()
    assert readme.count("**no**") == len(missed)


class Killed(Exception):
    """Stands for a kill in the middle of training."""


def test_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    family = FAMILIES["llama"]
    monkeypatch.setattr(train, "RECIPE", {"pt": dict(steps=6, peak=1e-3)})
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "HELD_OUT_BLOCKS", 2)
    tokenizer = train.AutoTokenizer.from_pretrained(CHECKPOINTS / "llama" / "pt")

    def fit(folder):
        monkeypatch.setattr(train, "WORK", folder)
        (folder / "llama").mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = train.fresh_model(family, tokenizer)
        train.fit(family, "pt", model, tokenizer, "cpu")
        return model.state_dict()

    whole = fit(tmp_path / "whole")
    real, calls = train.batch_loss, []

    def killed_at_the_fifth_step(model, *rest):
        calls.append(model.training)
        if sum(calls) == 5:
            raise Killed
        return real(model, *rest)

    monkeypatch.setattr(train, "batch_loss", killed_at_the_fifth_step)
    with pytest.raises(Killed):
        fit(tmp_path / "cut")
    monkeypatch.setattr(train, "batch_loss", real)
    resumed = fit(tmp_path / "cut")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0, msg=name)


def test_pretraining_goes_on_where_its_first_part_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "RECIPE", {s: dict(steps=2, peak=1e-3) for s in ("pt", "mid", "it")})
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "HELD_OUT_BLOCKS", 2)
    monkeypatch.setattr(train, "WORK", tmp_path / "work")
    monkeypatch.setattr(train, "CHECKPOINTS", tmp_path / "checkpoints")
    shutil.copytree(CHECKPOINTS / "llama" / "pt", tmp_path / "work" / "llama" / "tokenizer")
    threads, starts, real = torch.get_num_threads(), [], train.fit

    def fit(family, stage, model, *rest):
        starts.append(model.lm_head.weight.detach().clone())
        return real(family, stage, model, *rest)

    monkeypatch.setattr(train, "fit", fit)
    train.train_family("llama")
    torch.set_num_threads(threads)
    states = [torch.load(tmp_path / "work" / "llama" / f"{s}.pt")["model"] for s in ("pt", "mid", "it")]
    for start, state in zip(starts[1:], states):
        assert torch.equal(start, state["lm_head.weight"])
    for variant, state in (("pt", states[1]), ("it", states[2])):
        shipped = load_file(tmp_path / "checkpoints" / "llama" / variant / "model.safetensors")
        assert torch.equal(shipped["lm_head.weight"], state["lm_head.weight"].half())
    curves = json.loads((tmp_path / "checkpoints" / "llama" / "loss.json").read_text())
    assert [tokens for tokens, _ in curves["pt"]] == [512, 1024] and [t for t, _ in curves["it"]] == [512]


def test_labels_cover_replies_only():
    family = FAMILIES["olmo"]
    tokenizer = train.AutoTokenizer.from_pretrained(CHECKPOINTS / "olmo" / "it")
    ids, labels = train.instruction_blocks(family, tokenizer, 2, train.SEED)
    example = next(instruction.examples(train.SEED))
    n = len(train.chat(tokenizer, family, example.message))
    whole = train.chat(tokenizer, family, example.message, example.reply)
    assert (labels[0, :n] == -100).all() and labels[0, n : len(whole)].tolist() == whole[n:]
    assert tokenizer.decode(whole[n:]) == example.reply + family.eos
    assert ((labels == -100) | (labels == ids)).all()
