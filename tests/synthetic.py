"""Made-up exp09 results with the schema of real ones, for tests of charts, tables and pages.

The curves fall towards zero at the last layer as real ones do, later in IT than in PT; nothing else about
them is meant to be realistic.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import xarray as xr

from nbhelpers import charts, store

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILIES = {"gemma": 1.3, "llama": 1.0, "qwen": 0.8, "mistral": 1.1, "deepseek": 0.5, "olmo": 0.7}
RULES = (
    "top1_first", "top1_strict", "top1_stable3", "kl_first_0.1",
    *(f"kl_stays_{threshold}" for threshold in (0.05, 0.1, 0.2, 0.5, 1.0)),
    "majority_0.1", "majority_below_0.1",
)  # fmt: skip
WORDS = (
    "the baker of Arden sells bread and the ferry leaves at nine so the children wait by the river".split()
)
UNITS = {"kl": "nats", "entropy": "nats", "convergence": "nats", "commitment": "layer", "n_tokens": "tokens"}
LENS, LAYERED = ("variant", "lens", "prompt", "layer"), ("variant", "prompt", "layer")


def fall(rng, start, knee, n_prompts, n_layers):
    """Return KL-like curves [variant, lens, prompt, layer]: nats that reach zero at the last layer."""
    depth = np.arange(1, n_layers + 1) / n_layers
    curve = start[:, None] * (1 / (1 + np.exp((depth - knee[:, None]) * 14)))
    noisy = curve[:, None, None] * rng.lognormal(0, 0.35, (2, 1, n_prompts, 1))
    return (noisy * rng.lognormal(0, 0.1, (2, 1, n_prompts, n_layers)) * (depth < 1)).astype("float32")


def curves(rng, lift, n_prompts, n_layers):
    """Return the lens variables of one pair."""
    start, knee = np.array([4.0, 4.4 + lift]), np.array([0.45, 0.45 + 0.2 * lift])
    args = (n_prompts, n_layers)
    depth = np.arange(1, n_layers + 1) / n_layers
    entropy = 0.4 + 3 * (1 - depth) * rng.uniform(0.8, 1.2, (2, 1, n_prompts, 1))
    found = {
        "kl_final_layer": fall(rng, start, knee, *args),
        "kl_layer_final": fall(rng, start * 1.5, knee, *args),
        "entropy": (entropy + np.zeros((2, 1, *args))).astype("float32"),
        "kl_adjacent": fall(rng, start / 4, knee, *args),
        "top1_agreement": np.clip(1 - fall(rng, start / 6, knee, *args), 0, 1),
    }
    for name in ("kl_final_layer", "kl_layer_final", "entropy"):
        found[f"{name}_first"] = found[name] * 0.8
    return {name: (LENS, values) for name, values in found.items()}


def geometry(rng, lift, n_prompts, n_layers):
    """Return the δ-cosines and norms of one pair."""
    components, layers = np.arange(3)[None, :, None, None], np.arange(n_layers)
    noise = rng.normal(0, 0.05, (2, 3, n_prompts, n_layers))
    shift = -0.2 * lift * np.array([0, 1])[:, None, None, None] * (layers > 0.7 * n_layers)
    cosine = 0.5 - 0.06 * layers - 0.05 * components + shift + noise
    norm = 3 * np.exp(0.25 * layers) * rng.lognormal(0, 0.1, (2, n_prompts, n_layers))
    update = np.repeat(norm[:, None] * 0.3, 3, axis=1)
    return {
        "delta_cosine": (("variant", "component", "prompt", "layer"), np.clip(cosine, -1, 1)),
        "update_norm": (("variant", "component", "prompt", "layer"), update),
        "residual_norm": (LAYERED, norm),
        "cosine_to_final": (LAYERED, np.clip(layers / (n_layers - 1) + noise[:, 0], -1, 1)),
    }


def commitment(rng, lift, n_prompts, n_layers):
    """Return commitment layers per prompt and their pooled counts, IT later than PT by about `lift`."""
    centre = 0.6 * n_layers + np.linspace(-1, 2, len(RULES)) + np.array([0, lift])[:, None]
    mean = np.clip(
        centre[:, None, :, None] + rng.normal(0, 0.8, (2, 1, len(RULES), n_prompts)), 0, n_layers - 1
    )
    steps = np.rint(mean[..., None] + rng.normal(0, 1, (*mean.shape, 40))).clip(0, n_layers - 1).astype(int)
    count = np.stack([(steps == layer).sum(axis=(-1, -2)) for layer in range(n_layers)], axis=-1)
    return {
        "commitment": (("variant", "lens", "rule", "prompt"), mean),
        "commitment_count": (("variant", "lens", "rule", "layer"), count),
        "commitment_delay": (("lens", "rule"), (mean[1] - mean[0]).mean(-1)),
        "commitment_delay_low": (("lens", "rule"), (mean[1] - mean[0]).mean(-1) - 0.2),
        "commitment_delay_high": (("lens", "rule"), (mean[1] - mean[0]).mean(-1) + 0.2),
    }


def generation(rng, n_prompts, n_tokens=48):
    """Return texts, ids, lengths and prompt categories."""
    lengths = rng.integers(5, n_tokens + 1, (2, n_prompts))
    ids = rng.integers(0, 800, (2, n_prompts, n_tokens)).astype("int32")
    ids[np.arange(n_tokens) >= lengths[..., None]] = -1
    texts = [[" ".join(rng.choice(WORDS, size=n)) for n in row] for row in lengths]
    return {
        "n_tokens": (("variant", "prompt"), lengths),
        "stopped": (("variant", "prompt"), lengths < n_tokens),
        "generated_id": (("variant", "prompt", "token"), ids),
        "text": (("variant", "prompt"), np.array(texts)),
        "category": (
            ("prompt",),
            np.array([("fact", "story", "sum", "format")[i % 4] for i in range(n_prompts)]),
        ),
    }


def gap(found, n_layers):
    """Return the convergence gap, its interval and its token-weighted version, from the curves."""
    half, variables = slice(n_layers // 2, None), {}
    dims = ("lens", "direction")
    pairs = [found[name][1][..., half].mean(-1) for name in ("kl_final_layer", "kl_layer_final")]
    difference = np.stack([pair[1] - pair[0] for pair in pairs])  # direction, lens, prompt
    mean, error = difference.mean(-1).T, difference.std(-1).T / np.sqrt(difference.shape[-1])
    variables["convergence_gap"] = (dims, mean)
    variables["convergence_gap_low"] = (dims, mean - 2 * error)
    variables["convergence_gap_high"] = (dims, mean + 2 * error)
    variables["convergence_gap_tokens"] = (dims, mean * 1.05)
    return variables


def provenance(family, profile):
    """Return the attributes that `nbhelpers.store` writes."""
    return {
        "experiment": "exp09",
        "model": f"{family}_{profile}",
        "profile": profile,
        "parameter_hash": "0123456789ab",
        "parameters": json.dumps({"n_prompts": 96, "max_new_tokens": 48}),
        "code_version": "0.1.0+synthetic",
        "libraries": json.dumps({"torch": "2.13.0", "nnsight": "0.8.1", "transformers": "5.23.0"}),
        "model_revisions": json.dumps({v: f"pocket/checkpoints/{family}/{v}" for v in ("pt", "it")}),
        "seed": 0,
        "wall_time_s": 12.5,
        "device": "cpu",
        "created": "2026-01-01T00:00:00+00:00",
    }


def both_lenses(made):
    """Return the results with a tuned lens beside the raw one: the same curves at 0.6 of their height."""
    lensed = [name for name in made if "lens" in made[name].dims]
    tuned = made[lensed].assign({name: made[name] * 0.6 for name in lensed if name.startswith("kl_")})
    found = xr.concat([made[lensed], tuned.assign_coords(lens=["tuned"])], "lens")
    return made.drop_vars([*lensed, "lens"]).assign({name: found[name] for name in lensed})


def others(rng, made):
    """Return the matched curves, strata, heat map, weights, dimensions and attention of one pair."""
    n_layers, found = made.sizes["layer"], {}
    for name in ("kl_final_layer", "kl_layer_final"):
        histories = [xr.concat([made[name], made[name] * 0.9], "basis") for _ in range(2)]
        found[f"{name}_matched"] = xr.concat(histories, "history")
    strata = xr.concat([made.kl_final_layer * scale for scale in (1.4, 1.0, 0.7)], "stratum")
    found["kl_by_confidence"] = strata
    found["kl_by_confidence_matched"] = xr.concat([strata, strata], "history")
    found["steps_by_confidence"] = (("variant", "stratum"), rng.integers(20, 900, (2, 3)))
    found["top1_probability"] = np.exp(-made.entropy)
    found["delta_cosine_by_step"] = (("variant", "token", "layer"), rng.uniform(-1, 1, (2, 48, n_layers)))
    for name in ("weight_rms", "weight_relative"):
        found[name] = (("group", "layer"), rng.uniform(0.001, 0.3, (3, n_layers)))
    shape = (2, 2, 2, n_layers)
    for name, shift in (("dimension", 0), ("dimension_low", -0.5), ("dimension_high", 0.5)):
        found[name] = (("estimator", "template", "variant", "layer"), 6 + shift + rng.uniform(0, 0.1, shape))
    heads = ("template", "variant", "cloud_prompt", "layer")
    found["attention_normalised"] = (heads, rng.uniform(0.2, 0.8, (2, 2, 20, n_layers)))
    coords = {"basis": ["own", "other"], "history": ["pt", "it"], "stratum": ["low", "medium", "high"],
              "group": ["attention", "mlp", "norm"], "estimator": ["two_nn", "mle"], "template": ["raw", "chat"]}  # fmt: skip
    return xr.Dataset(found).assign_coords(coords)


def dataset(family="llama", seed=0, n_prompts=96, n_layers=12, profile="pocket"):
    """Return one pair's made-up exp09 dataset; the same seed gives the same dataset."""
    rng = np.random.default_rng([seed, *family.encode()])
    lift = FAMILIES[family]
    variables = curves(rng, lift, n_prompts, n_layers)
    variables |= gap(variables, n_layers) | geometry(rng, lift, n_prompts, n_layers)
    variables |= commitment(rng, lift, n_prompts, n_layers) | generation(rng, n_prompts)
    coords = {
        "variant": ["pt", "it"],
        "lens": ["raw"],
        "prompt": [f"held-{i:03d}" for i in range(n_prompts)],
        "layer": np.arange(n_layers),
        "depth": ("layer", np.arange(1, n_layers + 1) / n_layers),
        "component": ["block", "attention", "mlp"],
        "rule": list(RULES),
        "direction": ["final_layer", "layer_final"],
        "token": np.arange(48),
    }
    made = xr.Dataset(variables, coords, provenance(family, profile)).drop_vars(["text", "generated_id"])
    made = both_lenses(made)
    made = made.assign(others(rng, made)).assign_attrs(provenance(family, profile))
    for name, values in made.data_vars.items():
        unit = next((unit for start, unit in UNITS.items() if name.startswith(start)), "1")
        values.attrs |= {"units": unit, "long_name": name.replace("_", " ")}
    return made


def results(**options):
    """Return six made-up datasets by family title, in the book's order."""
    titles = {"gemma": "Gemma", "llama": "Llama", "qwen": "Qwen", "mistral": "Mistral"}
    titles |= {"deepseek": "DeepSeek", "olmo": "OLMo"}
    return {titles[family]: dataset(family, **options) for family in FAMILIES}


def card(family):
    """Return a made-up model card of one pocket family."""

    def gate(name, variant, value, threshold, direction=">="):
        values = {"value": value, "threshold": threshold, "direction": direction}
        return {"name": name, "variant": variant, **values, "n": 120}

    sample = {
        "prompt": "Who bakes bread in Arden?",
        "pt": "Who | bakes `bread`?\nThe",
        "it": "**Mara** does.",
    }
    return {
        "family": family,
        "title": family.title(),
        "architecture": f"{family.title()}ForCausalLM",
        "parameters": 1_400_000,
        "vocabulary": 1000,
        "embedding_rows": 1024,
        "extra": {"refusals of harmless requests": 0.05},
        "tokens": {"pt": 5_100_000, "it": 2_000_000},
        "gates": [
            gate("fact cloze", "pt", 0.93, 0.9),
            gate("assistant-formatted replies", "pt", 0.02, 0.1, "<="),
            gate("format compliance", "it", 0.81, 0.85),
        ],
        "samples": [sample],
        "loss": {"pt": [[1e6, 1.9], [3e6, 1.0], [5.1e6, 0.7]], "it": [[5e5, 0.6], [2e6, 0.4]]},
    }


def notebook(made):
    """Return an executed notebook as the one that measures a pair leaves it, with charts and formulas."""
    from nbformat import v4

    model = made.attrs["model"]
    cells = [
        v4.new_markdown_cell(
            "# The convergence gap of one pair\n\nWith $D_\\ell = \\mathrm{KL}(p_L \\| p_\\ell)$,\n"
        ),
        v4.new_code_cell('model = "llama_pocket"', metadata={"tags": ["parameters", "hide-input"]}),
        v4.new_code_cell(f'model = "{model}"', metadata={"tags": ["injected-parameters"]}),
        v4.new_markdown_cell("## Curves\n\n$$\\mathrm{CG} = \\frac{1}{L} \\sum_\\ell D_\\ell$$\n"),
        shown("charts.kl_curves(result)", charts.kl_curves(made), name="main_figure"),
        v4.new_markdown_cell("## Geometry\n\nBeside the [others](exp09_convergence_gap_across.ipynb)."),
        shown("charts.delta_cosine(result)", charts.delta_cosine(made)),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def shown(source, chart, **metadata):
    """Return an executed cell that shows a chart."""
    from nbformat import v4

    data = charts.spec_renderer(chart.to_dict())
    return v4.new_code_cell(
        source, outputs=[v4.new_output("execute_result", data, execution_count=1)],
        execution_count=1, metadata=metadata,
    )  # fmt: skip


def write(root: Path, profile="pocket", **options):
    """Write six datasets and their notebooks under `root`, where real ones would be."""
    import nbformat

    for family in FAMILIES:
        made = dataset(family, profile=profile, **options)
        model = made.attrs["model"]
        store.save(made, root / "_build/results" / profile / model / "exp09.nc", provenance=made.attrs)
        path = root / "_build/runs" / profile / model / "exp09_convergence_gap.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook(made), path)


def write_cards(root: Path):
    """Write the cards of six families under `root`."""
    for family in FAMILIES:
        folder = root / "pocket/checkpoints" / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").write_text(json.dumps(card(family)))


CONTENTS = """
format: jb-book
root: index
parts:
  - caption: Start here
    chapters: [{file: pocket, title: The pocket families}]
  - caption: Observation
    chapters: [{experiment: exp09}]
  - caption: Registry
    chapters: [{file: reproducibility, title: Reproducibility}]
"""


def project(root: Path):
    """Return `root`, made a repository in which exp09 of the pocket profile has been run on made-up models."""
    (root / "params").symlink_to(REPOSITORY / "params")
    for name in ("book", "notebooks"):
        shutil.copytree(REPOSITORY / name, root / name)
    (root / "book/_toc.yml").write_text(CONTENTS)
    # This book has no pages of the other experiments, so links to them lead to the one that it has.
    for path in (root / "book/index.md", root / "notebooks/exp09_convergence_gap_across.ipynb"):
        path.write_text(re.sub(r"exp0[0-8]\w*_across", "exp09_convergence_gap_across", path.read_text()))
    write(root)
    write_cards(root)
    return root
