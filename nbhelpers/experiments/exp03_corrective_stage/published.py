"""What the study stored of how layers revise a prediction: its change from layer to layer, and the token that follows."""

from collections.abc import Iterator

from nbhelpers.core import params
from nbhelpers.experiments.exp03_corrective_stage import report
from nbhelpers.report.published import Drawn, curve

CURVES = {"kl_adjacent": "kl_adj", "target_probability": "ntprob"}


def revisions(content) -> Iterator[dict]:
    """Yield two curves by layer and lens of each model on its own text from `exp9_summary.json`."""
    for model, of in content.items():
        for variant in params.VARIANTS:
            for lens in ("raw", "tuned"):
                for ours, theirs in CURVES.items():
                    name = f"tuned_lens_{lens}_{theirs}"
                    at = {"variant": variant, "history": variant, "lens": lens}
                    counted = {"n": of[f"{name}_n_steps_{variant}"], "over": "steps"}
                    yield from curve(model, ours, of[f"{name}_mean_{variant}"], **counted, **at)


FILES = {"exp9_summary.json": revisions}
UNUSED = {
    "e3_14_sniper_stats.json": "features of a transcoder of one model, single numbers; they stand in the ledger"
}
NOTE = (
    "Means over generation steps, each model on its own text, here means by prompt. The token that follows is here the one "
    "that the model wrote; the study's is the one that its last layer ranks first, which greedy decoding writes. Classes of "
    "tokens, confidence and neurons were not stored for six pairs."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {
        "How much each layer revises": lambda: report.phases_of_revision(results),
        "The token that follows": lambda: report.emergence(results),
    }
