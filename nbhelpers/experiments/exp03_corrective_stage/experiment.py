"""The parameters of exp03."""

from nbhelpers.core.schemas import CommitmentParams as Params

__all__ = ["Params"]
