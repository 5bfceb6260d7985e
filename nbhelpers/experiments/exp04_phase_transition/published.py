"""What the study stored of the clouds of states at the prompts' ends: intrinsic dimension and spectrum by layer."""

from collections.abc import Iterator

from nbhelpers.core import params
from nbhelpers.experiments.exp04_phase_transition import report
from nbhelpers.experiments.exp04_phase_transition.experiment import VARIABLES
from nbhelpers.report import geometry_charts
from nbhelpers.report.published import Drawn, FormatError, completed, curve

SPECTRA = {
    "participation_ratio": "participation_ratio",
    "effective_rank": "effective_rank",
    "first_share": "pc1_ratio",
}
ESTIMATORS = {"two_nn": "twonn", "mle": "mle"}
FIRST = "two_nn_stored"  # the estimator of the first profile
ENDS = ("dimension_low", "dimension_high")


def variant_of(content) -> str:
    """Return the variant that a file is of; FormatError if it is neither."""
    if content["variant"] not in params.VARIANTS:
        raise FormatError(f"it names a variant {content['variant']!r}, not pt or it")
    return content["variant"]


def profile(content) -> Iterator[dict]:
    """Yield the first estimate of the dimension by layer, with its interval, from one `L8_id_profile.json`."""
    at = {"variant": variant_of(content), "template": "native", "estimator": FIRST}
    ends = {"low": content["intrinsic_dim_ci_low"], "high": content["intrinsic_dim_ci_high"]}
    counted = {"n": content["n_prompts"], "over": "prompts"}
    yield from curve(content["model"], "dimension", content["intrinsic_dim"], **ends, **counted, **at)


def estimates(content) -> Iterator[dict]:
    """Yield the later estimates of the dimension by layer, from `l8_local_id_followup.json`."""
    for row in content["rows"]:
        for ours, theirs in ESTIMATORS.items():
            at = {"variant": variant_of(row), "template": "native", "estimator": ours}
            counted = {"n": row["n_prompts"], "over": "prompts"}
            yield from curve(row["model"], "dimension", row["curves"][theirs], **counted, **at)


def spectrum(content) -> Iterator[dict]:
    """Yield measures of the spectrum by layer from one `L8_rank_metrics.json`, whose model and variant its path names."""
    model, variant = content["residuals_npz"].split("/")[-3:-1]
    at = {"variant": variant_of({"variant": variant}), "template": "native"}
    for ours, theirs in SPECTRA.items():
        counted = {"n": content["n_prompts_used"], "over": "prompts"}
        yield from curve(model, ours, content["metrics"][theirs], **counted, **at)


FILES = {
    "L8_id_profile.json": profile,
    "l8_local_id_followup.json": estimates,
    "L8_rank_metrics.json": spectrum,
}
UNUSED = {
    "l8_rank_summary_local.json": "means over late layers of the curves that are read",
    "l8_eval_*.json": "an empty list",
}
NOTE = (
    "The last position of 1,400 prompts, each model in its own prompt format: PT plain text, IT a chat turn, so that "
    "the two clouds are of different positions. TwoNN and maximum likelihood are by a later library; *as first "
    "stored* is an earlier estimate, probably without the usual cut of its upper tail, with the middle 90 % over "
    "subsamples. Attention entropy was stored as a mean over prompts without its format."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    ends = {name: VARIABLES[name] for name in ENDS}
    whole = {title: completed(data, ends, {}) for title, data in results.items()}
    return {
        "Intrinsic dimension": lambda: geometry_charts.dimension_profile(whole),
        "Participation ratio": lambda: report.spectrum_profile(results),
        "Effective rank": lambda: report.spectrum_profile(results, "effective_rank"),
        "Variance along the first axis": lambda: report.spectrum_profile(results, "first_share"),
    }
