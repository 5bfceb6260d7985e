"""Execution: one notebook, the graph of all notebooks, cost estimates, health checks of the installation."""
