"""Helpers of the notebook book: where along its layers does a tuned model compute differently?

Importing this package loads no model library. It silences the progress bars of the libraries below it, so
that a notebook's outputs are the same bytes with and without ipywidgets; its own bars go through `progress`.
"""

import os
import sys
import warnings

__version__ = "0.1.0"

ENVIRONMENT = dict.fromkeys(
    ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"), "1"
)
# Two tokenizer thread pools in forked workers dead-lock; one is as fast at these sizes.
ENVIRONMENT["TOKENIZERS_PARALLELISM"] = "false"
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
warnings.filterwarnings("ignore", message="IProgress not found")
# For it jsonschema compiles a grammar of IRIs, over a second in every process; nothing here checks an IRI.
sys.modules.setdefault("rfc3987_syntax", None)


def progress(items, label: str, **options):
    """Return `items` with a plain bar on stderr that clears itself at the end, silent in batch runs."""
    from tqdm import tqdm

    batch = os.environ.get("NBHELPERS_BATCH") == "1"
    return tqdm(items, desc=label, leave=False, disable=batch, **options)
