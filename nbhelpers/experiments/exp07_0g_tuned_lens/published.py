"""What the study stored of its tuned lenses: distance and top-1 agreement by layer, through both lenses."""

from collections.abc import Iterator

from nbhelpers.core import params
from nbhelpers.experiments.exp07_0g_tuned_lens import report
from nbhelpers.report.published import Drawn, curve, point


def distances(content) -> Iterator[dict]:
    """Yield the distance by layer through both lenses from `exp9_summary.json`."""
    for model, of in content.items():
        for variant in params.VARIANTS:
            for lens in ("raw", "tuned"):
                name, at = f"tuned_lens_{lens}_kl_final", {"variant": variant, "lens": lens}
                counted = {"n": of[f"{name}_n_steps_{variant}"], "over": "steps"}
                yield from curve(model, "kl_final_layer", of[f"{name}_mean_{variant}"], **counted, **at)


def agreement(content) -> Iterator[dict]:
    """Yield the top-1 agreement by layer of an older run's lenses from `0G_training_summaries.json`."""
    for key, of in content.items():
        if key != "description":
            model, _, variant = key.rpartition("_")
            for layer, found in of["per_layer"].items():
                for lens in ("raw", "tuned"):
                    at = {"variant": variant, "lens": lens, "layer": int(layer)}
                    yield point(model, "top1_agreement", found[f"{lens}_agree"], **at)


FILES = {"exp9_summary.json": distances, "0G_training_summaries.json": agreement}
UNUSED = {
    "0G_quality_table.json": "means over layers of the training summaries, which are read",
    "0G_commitment_summary.json": "medians of an older run whose last translators were damaged; they stand in the ledger",
}
NOTE = (
    "Distances are means over the steps of each model's own text, here of held-out text. Agreement is of an older "
    "run: other translators, of which the last was damaged, on its validation text; OLMo's first layers and DeepSeek "
    "are missing."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    agreed = {title: data for title, data in results.items() if "top1_agreement" in data}
    return {
        "Raw and tuned lens": lambda: report.tuned_against_raw(results),
        "Top-1 agreement, an older run": lambda: report.agreement_of_lenses(agreed),
    }
