"""exp00: one capture of every layer at every generated token, for all observational experiments."""
