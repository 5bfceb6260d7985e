"""Planted faults: each is put into a copy of the tree, and the tests that reach its module must fail.

Run by hand, never in CI: `make mutants`, or `python -m tests.mutation stats holm` for the mutants with one of these words.
"""
