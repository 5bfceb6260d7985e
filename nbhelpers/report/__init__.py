"""What pages are made of, for any experiment: charts, tables, sentences, the ledger. No model library."""
