"""What the study stored of its observation of six pairs: curves by layer through both lenses, δ-cosine, clouds, weights."""

from collections.abc import Iterator

from nbhelpers.core import params
from nbhelpers.experiments.exp09_convergence_gap import figures
from nbhelpers.experiments.exp09_convergence_gap.experiment import VARIABLES
from nbhelpers.report import geometry_charts
from nbhelpers.report.published import Drawn, completed, curve, layers_of, point

# The study's name of a curve → ours.
LENS = {"kl_final": "kl_final_layer", "entropy": "entropy", "kl_adj": "kl_adjacent"}
STREAM = {"delta_cosine": {"component": "block"}, "cosine_h_to_final": {}}
NAMES = {"delta_cosine": "delta_cosine", "cosine_h_to_final": "cosine_to_final"}
WEIGHTS = {"mlp": "L3_delta_mlp", "attention": "L3_delta_attn"}
RULE = "top1_strict"  # of the commitment layers that were stored, through the raw lens
CLOUD = ("dimension", "dimension_low", "dimension_high")
# What quantities of the experiment name and no file holds.
COORDS = {
    "lens": ["raw", "tuned"],
    "component": ["block", "attention", "mlp"],
    "rule": [RULE, "kl_first_0.1", "kl_stays_0.1"],
    "history": list(params.VARIANTS),
    "basis": ["own", "other"],
    "stratum": ["low", "medium", "high"],
    "direction": ["final_layer", "layer_final"],
    "template": ["raw", "chat"],
    "estimator": ["two_nn"],
    "group": list(WEIGHTS),
    "token": [0],
}


def summary(content) -> Iterator[dict]:
    """Yield the rows of `exp9_summary.json`: {model: {curve: values by layer}}; means over generation steps."""
    for model, of in content.items():
        if of["n_layers"] != layers_of(model):
            raise ValueError(f"its n_layers of {model} is {of['n_layers']}, not {layers_of(model)}")
        for variant in params.VARIANTS:
            for lens in ("raw", "tuned"):
                for theirs, ours in LENS.items():
                    name, at = f"tuned_lens_{lens}_{theirs}", {"variant": variant, "lens": lens}
                    n = of[f"{name}_n_steps_{variant}"]
                    yield from curve(model, ours, of[f"{name}_mean_{variant}"], n=n, over="steps", **at)
            for theirs, at in STREAM.items():
                name = f"tuned_lens_{theirs}"
                values, n = of[f"{name}_mean_{variant}"], of[f"{name}_n_steps_{variant}"]
                yield from curve(model, NAMES[theirs], values, n=n, over="steps", variant=variant, **at)
            cloud = {"variant": variant, "template": "raw", "estimator": "two_nn"}
            yield from curve(model, "dimension", of[f"L8_id_{variant}"], over="prompts", **cloud)
        for group, name in WEIGHTS.items():
            yield from curve(model, "weight_rms", of[name], group=group)


def gaps(content) -> Iterator[dict]:
    """Yield the rows of `convergence_gap_values.json`: {lens: {model: {…}}}; its curves are those of the summary."""
    for lens in ("raw", "tuned"):
        for model, of in content[lens].items():
            at = {"lens": lens, "direction": "final_layer"}
            yield point(model, "convergence_gap_tokens", of["CG"], n=of["n_steps_it"], over="steps", **at)


def commitments(content) -> Iterator[dict]:
    """Yield the rows of `ci_cross_model.json`: mean commitment layers by model and variant, first five steps left out."""
    for row in content:
        if row["metric"] == "commitment_layer":
            at = {"variant": row["variant"], "lens": "raw", "rule": RULE}
            yield point(row["model"], "commitment", row["mean"], n=row["n_tokens"], over="steps", **at)


FILES = {
    "exp9_summary.json": summary,
    "convergence_gap_values.json": gaps,
    "ci_cross_model.json": commitments,
}
UNUSED: dict[str, str] = {}
NOTE = (
    "Curves are means over generation steps, each model on its own text, so long replies weigh more; below they are "
    "means by prompt. Distances are KL(final ‖ layer), which the study's text writes the other way round. Rows of the "
    "vocabulary that stand for no token were not masked, which raises the raw lens's first layers. Intrinsic "
    "dimension is of an older run, taken to be of plain prompts, which its files do not say, and probably by an "
    "estimator without the usual cut of its upper tail. The commitment layer is that of the raw lens's top-1 token "
    "that stays, without each reply's first five steps; the counts by layer behind the study's histograms were not "
    "released, nor were curves on one shared text."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    whole = {title: completed(data, VARIABLES, COORDS) for title, data in results.items()}
    clouds = {
        title: completed(data, {name: VARIABLES[name] for name in CLOUD}, {})
        for title, data in results.items()
    }
    return {
        "Distance from the own final prediction": lambda: figures.kl_curves(results),
        "The convergence gap": lambda: figures.gap_intervals(whole),
        "Commitment": lambda: figures.delay_intervals(whole),
        "δ-cosine of the block's update": lambda: figures.delta_cosine(results),
        "δ-cosine in the last fifth": lambda: figures.update_levels(whole),
        "δ-cosine, IT − PT": lambda: figures.delta_cosine_shift(results),
        "Entropy": lambda: figures.entropy_profile(results),
        "Distance from the layer before": lambda: figures.adjacent_profile(results),
        "Cosine to the final state": lambda: figures.cosine_to_final(results),
        "Weight change": lambda: geometry_charts.weight_change(results, "rms"),
        "Intrinsic dimension": lambda: geometry_charts.dimension_profile(clouds),
    }
