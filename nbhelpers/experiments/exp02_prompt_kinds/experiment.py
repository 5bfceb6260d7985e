"""The parameters of exp02."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import Cost, generation_cost
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import GenerationParams, Prompts, Size


class Params(GenerationParams):
    """exp02: which prompts, and the permutation test of their categories."""

    prompts: Prompts
    n_permutations: int = Field(default=2000, ge=100)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what exp02 takes: every prompt continued under three conditions."""
    return generation_cost(run, size, conditions=3)
