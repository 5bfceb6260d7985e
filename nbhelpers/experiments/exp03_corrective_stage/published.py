"""What the study stored of the features of Gemma's late MLPs: nothing that a figure here draws."""

from collections.abc import Callable

from nbhelpers.report.published import Drawn

FILES: dict[str, Callable] = {}
UNUSED = {
    "e3_14_sniper_stats.json": "features of a transcoder of one model, single numbers; they stand in the ledger"
}
NOTE = ""


def drawn(results) -> Drawn:
    """Return no figure."""
    return {}
