"""What the study stored of its classifier of tokens: nothing that a figure here draws."""

from collections.abc import Callable

from nbhelpers.report.published import Drawn

FILES: dict[str, Callable] = {}
UNUSED = {
    "0E_summary.json": "shares of classes at two doses of one model, single numbers; they stand in the ledger",
    "category_enrichment.json": "shares of five classes of words, by a lexicon that no figure here uses",
    "classifier_robustness.json": "changes of one score under four changes of the lexicon; they stand in the ledger",
}
NOTE = ""


def drawn(results) -> Drawn:
    """Return no figure."""
    return {}
