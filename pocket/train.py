"""Train the six pocket pairs: `python -m pocket.train` (or `make pocket`), resumable, a little over two hours on two cores.

PT learns the pretraining text by next-token loss, in two parts of which the second opens with looking things up ("mid");
IT starts from PT and learns replies (loss on reply tokens only) in the family's chat format. Every family has one process
and one thread; two train side by side. Work in progress lies in `_build/pocket`, finished checkpoints in
`pocket/checkpoints/<family>/{pt,it}`.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pocket.families import FAMILIES, Family, fresh_model, train_tokenizer
from pocket.instruction import examples
from pocket.pretraining import LOOKUPS, OPENING, documents

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "pocket" / "checkpoints"
WORK = ROOT / "_build" / "pocket"
BLOCK, BATCH, HELD_OUT_BLOCKS = 128, 4, 64
# Steps of BLOCK × BATCH tokens and the peak learning rate of the one-cycle schedule.
RECIPE = {
    "pt": dict(steps=10_000, peak=1.5e-3),
    "mid": dict(steps=5000, peak=2e-3),
    "it": dict(steps=4000, peak=8e-4),
}
VARIANTS = {"pt": ("pt", "mid"), "it": ("it",)}
SEED, HELD_OUT_SEED = 0, 1
# Seed, and how many documents of which text come first: about 1.5 M and 1.3 M tokens.
PRETRAINING = {"pt": (SEED, 26_000, OPENING), "mid": (2, 20_000, LOOKUPS)}
SAVE_EVERY, LOSS_EVERY = 500, 1000


def chat(tokenizer, family: Family, message: str, reply: str | None = None) -> list[int]:
    """Return the ids of a message in the family's chat format, with its reply or ready for one."""
    turns = [{"role": "user", "content": message}]
    if reply is not None:
        turns.append({"role": "assistant", "content": reply})
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=reply is None, **family.template_options
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def make_tokenizer(family: Family):
    """Return the family's tokenizer, trained on both kinds of text once and then read back."""
    folder = WORK / family.key / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        exchange = "{m}\n{r}\nUser: {m}\n\nAssistant: {r}\n<|user|>\n{m}\n<|assistant|>\n{r}"
        corpus = itertools.chain(
            itertools.islice(documents(SEED), 6000),
            (exchange.format(m=e.message, r=e.reply) for e in itertools.islice(examples(SEED), 3000)),
        )
        train_tokenizer(family, corpus).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def pretraining_blocks(family: Family, tokenizer, n_blocks: int, stream: Iterator[str]) -> np.ndarray:
    """Return packed documents as ids [n_blocks, BLOCK], each document between the family's BOS (if any) and EOS."""
    ids = []
    while len(ids) < n_blocks * BLOCK:
        texts = list(itertools.islice(stream, 2000))
        start = [tokenizer.bos_token_id] if family.adds_bos else []
        for row in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            ids += [*start, *row, tokenizer.eos_token_id]
    return np.array(ids[: n_blocks * BLOCK], dtype=np.int64).reshape(n_blocks, BLOCK)


def instruction_blocks(family: Family, tokenizer, n_blocks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return packed exchanges and their labels [n_blocks, BLOCK]; −100 everywhere but on reply tokens.

    No exchange is cut: one that does not fit opens the next block, and the rest is padding.
    """
    ids = np.full((n_blocks, BLOCK), tokenizer.pad_token_id, dtype=np.int64)
    labels = np.full((n_blocks, BLOCK), -100, dtype=np.int64)
    block, at = 0, 0
    for example in examples(seed):
        prompt = chat(tokenizer, family, example.message)
        whole = chat(tokenizer, family, example.message, example.reply)
        if whole[: len(prompt)] != prompt:
            raise RuntimeError(
                f"{family.key}: the reply changes how the prompt splits into tokens: {example.message!r}"
            )
        if len(whole) > BLOCK:
            raise RuntimeError(
                f"{family.key}: an exchange has {len(whole)} tokens, more than a block: {example!r}"
            )
        if at + len(whole) > BLOCK:
            block, at = block + 1, 0
        if block == n_blocks:
            return ids, labels
        ids[block, at : at + len(whole)] = whole
        labels[block, at + len(prompt) : at + len(whole)] = whole[len(prompt) :]
        at += len(whole)
    raise AssertionError("the stream of examples has no end")


def blocks(family: Family, tokenizer, stage: str) -> tuple[tuple, tuple]:
    """Return a stage's training text and its held-out text, each as ids and labels [n_blocks, BLOCK]."""
    n_blocks = RECIPE[stage]["steps"] * BATCH
    if stage == "it":
        return (
            instruction_blocks(family, tokenizer, n_blocks, SEED),
            instruction_blocks(family, tokenizer, HELD_OUT_BLOCKS, HELD_OUT_SEED),
        )
    ids = pretraining_blocks(family, tokenizer, n_blocks, documents(*PRETRAINING[stage]))
    held_out = pretraining_blocks(family, tokenizer, HELD_OUT_BLOCKS, documents(HELD_OUT_SEED))
    return (ids, ids), (held_out, held_out)


def batch_loss(model, ids, labels, device) -> torch.Tensor:
    """Return the mean next-token loss in nats over labelled positions."""
    ids, labels = torch.as_tensor(ids, device=device), torch.as_tensor(labels, device=device)
    logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model, data, device) -> float:
    """Return the mean loss in nats over held-out blocks."""
    model.eval()
    losses = [
        batch_loss(model, *(part[i : i + BATCH] for part in data), device).item()
        for i in range(0, len(data[0]), BATCH)
    ]
    model.train()
    return float(np.mean(losses))


def write_atomically(state, path: Path) -> None:
    """Save with torch beside the target, then rename: a killed run leaves the older state whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def fit(family: Family, stage: str, model, tokenizer, device) -> list:
    """Train the model in place, resuming where a killed run stopped, and return its held-out loss curve [[tokens, nats]]."""
    steps, peak = RECIPE[stage]["steps"], RECIPE[stage]["peak"]
    state_path = WORK / family.key / f"{stage}.pt"
    data, held_out = blocks(family, tokenizer, stage)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps + 1, pct_start=0.1)
    start, curve = 0, []
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, curve = state["step"], state["curve"]
    model.train()
    began = time.time()
    for step in range(start, steps):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        loss = batch_loss(model, data[0][rows], data[1][rows], device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % LOSS_EVERY == 0 or done == steps:
            curve.append([done * BATCH * BLOCK, round(held_out_loss(model, held_out, device), 4)])
            left = (time.time() - began) / (done - start) * (steps - done) / 60
            print(
                f"{family.key} {stage} step {done}/{steps} loss {loss.item():.3f} held out {curve[-1][1]:.3f} "
                f"{left:.0f} min left",
                flush=True,
            )
        if done % SAVE_EVERY == 0 or done == steps:
            write_atomically(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": done,
                    "curve": curve,
                },
                state_path,
            )
    return curve


def ship(family: Family, variant: str, model, tokenizer) -> None:
    """Write a half-precision checkpoint that `AutoModelForCausalLM` and `AutoTokenizer` load."""
    folder = CHECKPOINTS / family.key / variant
    stops = [tokenizer.eos_token_id]
    if variant == "it":
        stops = list(dict.fromkeys([tokenizer.convert_tokens_to_ids(family.turn_end), *stops]))
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
    )
    tokenizer.save_pretrained(folder)
    half = AutoModelForCausalLM.from_config(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.save_pretrained(folder)


def train_family(key: str) -> None:
    """Train and ship both variants of one family."""
    family = FAMILIES[key]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    (WORK / key).mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(family)
    model = fresh_model(family, tokenizer).to(device)
    curves = {}
    for variant, stages in VARIANTS.items():
        curves[variant], seen = [], 0
        for stage in stages:
            curve = fit(family, stage, model, tokenizer, device)
            curves[variant] += [[seen + tokens, loss] for tokens, loss in curve]
            seen += curve[-1][0]
        ship(family, variant, model.to("cpu"), tokenizer)
        model.to(device)
    (CHECKPOINTS / key / "loss.json").write_text(json.dumps(curves) + "\n")


def write_checksums() -> None:
    """Write SHA256SUMS over every shipped file, as `sha256sum --check` reads it."""
    files = sorted(p for p in CHECKPOINTS.rglob("*") if p.is_file() and p.parent.name in ("pt", "it"))
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(CHECKPOINTS).as_posix()}"
        for p in files
    ]
    (CHECKPOINTS / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def train_all(keys: list[str], jobs: int) -> int:
    """Train families in processes of their own, `jobs` at a time; return the number that failed."""

    def one(key):
        return subprocess.run([sys.executable, "-m", "pocket.train", "--one", key], cwd=ROOT).returncode

    with ThreadPoolExecutor(jobs) as pool:
        return sum(code != 0 for code in pool.map(one, keys))


def main() -> None:
    """Train what is asked for; then measure the gates and write the cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "families", nargs="*", default=list(FAMILIES), help="which families (default: all six)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="families trained side by side (default: 2)")
    parser.add_argument("--one", metavar="FAMILY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return train_family(options.one)
    unknown = [key for key in options.families if key not in FAMILIES]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; choose from {', '.join(FAMILIES)}")
    if train_all(options.families, options.jobs):
        raise SystemExit("training stopped early; the same command resumes it")
    write_checksums()
    subprocess.run([sys.executable, "-m", "pocket.evaluate", *options.families], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
