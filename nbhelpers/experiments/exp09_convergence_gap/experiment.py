"""The parameters of exp09."""

from nbhelpers.core.schemas import CommitmentParams as Params

__all__ = ["Params"]
