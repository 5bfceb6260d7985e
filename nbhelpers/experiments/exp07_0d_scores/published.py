"""What the study stored of its classifier of tokens: nothing that a figure here draws."""

from collections.abc import Callable

from nbhelpers.report.published import Drawn

FILES: dict[str, Callable] = {}
UNUSED = {
    "0E_summary.json": "shares of classes at two doses of one model, single numbers; they stand in the ledger",
    "category_enrichment.json": "shares of the study's own five classes of words, by a lexicon that the figures here do not use",
    "classifier_robustness.json": "changes of one score under four changes of the lexicon, single numbers; they stand in the ledger",
}
NOTE = ""


def drawn(results) -> Drawn:
    """Return no figure."""
    return {}
