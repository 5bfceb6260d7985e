"""exp00: one measurement of every layer at every generated token, for all observational experiments."""
