"""The parameters of exp13."""

from nbhelpers.core.schemas import ExperimentParams as Params

__all__ = ["Params"]
