"""Validation 0G: tuned lenses, trained and checked."""
