"""Every typed figure that a released file of the study holds is computed anew from it and rounds to what was typed."""

import csv

import numpy as np
import pytest

from tests.report import artifacts
from tests.report.test_claims import LEDGER, rounds_to

HERE = artifacts.FOLDER.exists()
needs_artifacts = pytest.mark.skipif(
    not HERE,
    reason=f"{artifacts.FOLDER} is not here; NBHELPERS_ARTIFACTS names a checkout of the study's released artifacts",
)
# How many of an experiment's figures the files hold.
HELD = {
    "exp02": 12,
    "exp03": 56,
    "exp04": 60,
    "exp07_0g": 56,
    "exp07_0j": 70,
    "exp09": 321,
    "exp11": 302,
    "exp13": 386,
    "exp14": 236,
}


def typed(experiment):
    """Return the rows of one experiment, values as typed."""
    with LEDGER.open(encoding="utf-8") as file:
        return [
            row for row in csv.DictReader(file) if row["id"].startswith(f"{experiment}.") and row["value"]
        ]


@needs_artifacts
@pytest.mark.parametrize("experiment", artifacts.RECOMPUTED)
def test_typed_figures_are_those_of_the_released_files(experiment):
    exact, wrong, checked = artifacts.RECOMPUTED[experiment](), [], 0
    for row in typed(experiment):
        values = exact.get((row["id"].split(".")[1], row["metric"]), {})
        if row["family"] not in values:
            continue
        checked += 1
        if not rounds_to(row["value"], values[row["family"]]):
            wrong.append((row["id"], row["value"], float(np.round(values[row["family"]], 5))))
    assert not wrong, wrong
    assert checked == HELD[experiment]


@needs_artifacts
def test_a_late_margin_is_another_number_than_a_late_lead():
    # As in the study, late less the larger of the others: where both fall, the margin exceeds the late rise itself.
    margins = artifacts.exp11()["22", "late_margin"]
    late = artifacts.exp11()["15", "kl_shift.final_fifth.late"]
    larger = [family for family in artifacts.KEYS if margins[family] > late[family] + 5e-4]
    assert larger == ["gemma", "llama", "qwen", "deepseek"]
    assert round(margins["gemma"], 3) == 0.629 and round(late["gemma"], 3) == 0.609
