"""The parts of pages, for any experiment: charts, tables, sentences, the ledger. Loads no model library."""
