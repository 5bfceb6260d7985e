"""The parameters of exp14."""

from nbhelpers.core.schemas import ExperimentParams as Params

__all__ = ["Params"]
