"""Helpers of the notebook book: where along its layers does a tuned model compute differently?

Importing this package loads no model library. It only silences the progress bars of the libraries below it,
so that a notebook's outputs are the same bytes with and without ipywidgets; the package's own bars are plain
tqdm, shown on a terminal only.
"""

import os
import warnings

__version__ = "0.1.0"

for _name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
    os.environ.setdefault(_name, "1")
# Two tokenizer thread pools in forked workers dead-lock; one is as fast at these sizes.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", message="IProgress not found")
