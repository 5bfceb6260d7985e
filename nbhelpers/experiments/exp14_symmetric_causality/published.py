"""What the study stored of its symmetric grafts: the change of four read-outs by window, in PT and in IT."""

from collections.abc import Iterator, Mapping

from nbhelpers.experiments.exp14_symmetric_causality import report
from nbhelpers.report.published import Drawn, point

SIDES = {"sufficiency": ("pt_side", "B_{}_raw"), "necessity": ("it_side", "D_{}_ptswap")}
REGIONS = {"final_fifth": "final_20pct", "window": "graft_window"}
# Our read-out → the study's and the lens; the δ-cosine needs none.
READOUTS = {
    "kl_layer_final": ("kl_to_own_final", "tuned"),
    "kl_layer_teacher": ("cross_kl", "tuned"),
    "delta_cosine_mlp": ("delta_cosine", "raw"),
}


def changes(content) -> Iterator[dict]:
    """Yield the rows of the summary of both runs: {models: {model: {pt_side, it_side: {condition: {regions: …}}}}}."""
    for model, of in content["models"].items():
        for side, (theirs, name) in SIDES.items():
            for window in ("early", "mid", "late"):
                at = {"side": side, "window": window, "basis": "host"}
                yield from shifts(model, of[theirs][name.format(window)], at)


def shifts(model: str, condition: Mapping, at: Mapping[str, str]) -> Iterator[dict]:
    """Yield the rows of one grafted condition.

    The host of PT's MLPs is the teacher itself, whose distance from the teacher is 0, so that the condition's is the change.
    """
    for region, theirs in REGIONS.items():
        for readout, (name, lens) in READOUTS.items():
            found = condition["regions"][theirs][name]
            value = found["pipeline_mean"] if found["baseline_mean"] is None else found["delta"]
            yield point(model, "shift", value, readout=readout, region=region, lens=lens, **at)
    value = condition["prompt_level"]["delta_mean_commitment_layer_kl_0.1"]
    yield point(model, "shift", value, readout="commitment", region="final_fifth", lens="tuned", **at)


FILES = {"*13_full_summary.json": changes}
UNUSED: dict[str, str] = {}
NOTE = (
    "Changes are differences of means over the steps of IT's replies, here of means by prompt. The distance ends at "
    "the last layer through its translator, here the model's own output. δ-cosines of Gemma and OLMo are of the MLP "
    "before the norm that follows it. A fixed end point and the raw lens were not stored."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    titles = {
        "kl_layer_final": "Sufficiency and necessity",
        "kl_layer_teacher": "Nearer to the teacher?",
        "commitment": "Commitment",
        "delta_cosine_mlp": "δ-cosine",
    }
    return {
        heading: lambda readout=readout: report.sufficiency_necessity(results, readout)
        for readout, heading in titles.items()
    }
