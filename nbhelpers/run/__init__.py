"""Execution: one notebook, the graph of all, what a run would cost, whether the installation is well."""
