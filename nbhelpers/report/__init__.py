"""The parts of pages, for any experiment: charts, tables, sentences, the ledger. Loads no model library."""

import pandas as pd

# Tables are shown whole. Else their plain text, which tests compare, would lack columns, rows and ends of texts.
for _option in ("display.max_columns", "display.max_rows", "display.max_colwidth"):
    pd.set_option(_option, None)
pd.set_option("display.expand_frame_repr", False)  # no line of a table is broken at 80 characters
