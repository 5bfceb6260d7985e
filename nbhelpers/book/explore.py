"""The page on which a reader looks into chosen prompts: what each layer of both models would say at each token of a reply.

Its numbers are those of the finished results; nothing is measured for it. `book/assets/explore.js` puts the view that the
controls or the page's address name into the two charts.
"""

import hashlib
import json
from functools import cache
from html import escape
from pathlib import Path

import altair as alt
import numpy as np
import xarray as xr

from nbhelpers import experiments
from nbhelpers.book.markdown import PageError
from nbhelpers.core import params
from nbhelpers.core.params import VARIANTS, Checkpoint
from nbhelpers.report.families import family_titles
from nbhelpers.run.explorer import pictures

PROMPTS, TOKENS = 4, 16  # at most, of a pair: prompts, and tokens of a reply
WITHHELD = "harmful"  # a category of which no reply is shown
CELLS = 10_000  # of a pair at most: both models, lenses and replies, every layer and token
ORIGIN = "Data: each pair's result with readings by layer and token"
DIMS = ("variant", "lens", "layer", "step")


def source() -> str:
    """Return the experiment whose result holds what each layer says at each token; PageError if there is none."""
    for key in params.ordered():
        found = experiments.variables(key).get("top1")
        if found and tuple(found.dims) == DIMS:
            return key
    raise PageError(
        f"no experiment declares a variable top1 over {', '.join(DIMS)}, which the page explore.md shows."
    )


def chosen(result: xr.Dataset, most: int) -> list[str]:
    """Return ids of prompts that nobody picked: in the order of their hashes, one of each category first, none harmful."""
    kind = dict(zip(map(str, result["prompt"].values), map(str, result["category"].values)))
    ids = sorted(kind, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    of_kind = {name: [other for other in ids if kind[other] == kind[name]].index(name) for name in ids}
    return [name for name in sorted(ids, key=of_kind.get) if kind[name] != WITHHELD][:most]


@cache
def vocabulary(checkpoint: Checkpoint, root: Path):
    """Return the function that spells a token id: the checkpoint's tokenizer, or `#id` where its file is not here."""
    from tokenizers import Tokenizer

    if checkpoint.folder:
        file = checkpoint.folder / "tokenizer.json"
    else:
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(checkpoint.source, "tokenizer.json", revision=checkpoint.revision)
    if not isinstance(file, str | Path) or not Path(file).is_file():
        return lambda index: f"#{index}"
    tokenizer = Tokenizer.from_file(str(file))
    return cache(lambda index: tokenizer.decode([int(index)], skip_special_tokens=False))


def view(result: xr.Dataset, prompt: str, history: str, spell) -> xr.Dataset:
    """Return one reply's readings in the form of `run.explorer.reading.explore`, its first `TOKENS` tokens."""
    at = int(np.flatnonzero(result["prompt"].values == prompt)[0])
    steps = (result["prompt_index"] == at) & (result["history"] == history) & (result["token"] < TOKENS)
    kept = result[["token_id", "top1", *pictures.TITLES]].isel(step=np.flatnonzero(steps.values)).load()
    found = (
        kept.drop_vars("token").rename(step="token", variant="who").transpose("who", "lens", "layer", "token")
    )
    spelled = np.vectorize(spell, otypes=[object])
    return found.assign(
        top1_text=(found["top1"].dims, spelled(found["top1"].values)),
        token_text=("token", spelled(found["token_id"].values)),
    )


def views(profile: str) -> dict:
    """Return what the page holds: {"pairs": titles, "prompts": messages, "views": {"pair/prompt/history": tree}}."""
    found = {"pairs": family_titles(profile), "prompts": {}, "views": {}}
    for model in found["pairs"]:
        result = experiments.load(profile, model, source())
        spell = vocabulary(params.model_params(model).it, params.ROOT)
        most = max(1, min(PROMPTS, CELLS // (8 * TOKENS * result.sizes["layer"])))
        for prompt in chosen(result, most):
            message = result["message"].sel(prompt=prompt).item()
            found["prompts"][prompt] = message
            texts = {
                pictures.NAMES[v]: str(result["text"].sel(prompt=prompt, variant=v).item()) for v in VARIANTS
            }
            for history in VARIANTS:
                tree = pictures.compact(view(result, prompt, history, spell))
                found["views"][f"{model}/{prompt}/{history}"] = tree | {"message": message, "texts": texts}
    return found


def explorer(profile: str) -> str:
    """Return the page's controls and numbers as HTML in MyST Markdown."""
    held = views(profile)
    text = json.dumps(held, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    layers = max(len(tree["whos"]["PT"]["raw"]["top1"]) for tree in held["views"].values())
    tokens = max(len(tree["tokens"]) for tree in held["views"].values())
    lines = [
        '<form id="explore" class="explore" autocomplete="off">',
        _list("pair", "Pair", held["pairs"]),
        _list("prompt", "Prompt", held["prompts"]),
        _list("history", "Reply of", {"it": "IT", "pt": "PT"}),
        _list("lens", "Lens", {"raw": "raw", "tuned": "tuned"}),
        _list(
            "measure",
            "Shows",
            {name: title for name, (title, _) in pictures.TITLES.items()},
            "kl_final_layer",
        ),
        _range("token", "Token", tokens - 1, 0),
        _range("layer", "Layer", layers - 1, layers // 2),
        "</form>",
        '<p id="explore-said" aria-live="polite"></p>',
        f'<script type="application/json" id="explore-data">{text}</script>',
    ]
    return "```{raw} html\n" + "\n".join(lines) + "\n```"


def _list(name: str, label: str, options: dict[str, str], first: str = "") -> str:
    """Return a labelled list of which the reader chooses one."""
    shown = "".join(
        f'<option value="{escape(value)}"{" selected" if value == first else ""}>{escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select name="{name}">{shown}</select></label>'


def _range(name: str, label: str, most: int, first: int) -> str:
    """Return a labelled slider from 0 with its value beside it."""
    slider = f'<input type="range" name="{name}" min="0" max="{most}" value="{first}">'
    return f'<label>{label} {slider} <output for="{name}">{first}</output></label>'


def charts() -> dict[str, alt.Chart]:
    """Return the page's charts by file name, without data, which the page's script puts in."""
    return {"explore_grid": pictures.grid(TOKENS), "explore_curves": pictures.curves()}
