"""Captions: one sentence, for one pair and for several, with the pool and the lens where there are any."""

import pandas as pd
import pytest

from nbhelpers.report.captions import BANDS, ZERO, caption
from nbhelpers.report.families import POOL

TWO = pd.DataFrame({"panel": ["Ann", "Bob"] * 2, "lens": ["raw", "raw", "tuned", "tuned"]})


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (TWO, {}, "Entropy, nats, two pairs, a panel each."),
        (TWO, {"each": "row"}, "Entropy, nats, two pairs, a row each."),
        (TWO, {"choices": ["lens"]}, "Entropy, nats, through the chosen lens, two pairs, a panel each."),
        (TWO[:2], {"choices": ["lens"]}, "Entropy, nats, two pairs, a panel each."),
        (TWO[:1], {"marks": [BANDS, ZERO]}, f"Entropy, nats, in Ann; {BANDS}; {ZERO}."),
        (
            pd.concat([TWO, pd.DataFrame({"panel": [POOL], "lens": ["raw"]})]), {"each": "row"},
            "Entropy, nats, two pairs, a row each, and for the dense pool.",
        ),
    ],
)  # fmt: skip
def test_a_caption_is_one_sentence(rows, options, said):
    assert caption("Entropy, nats", rows, **options) == said
