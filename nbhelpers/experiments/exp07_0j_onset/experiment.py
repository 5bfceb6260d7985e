"""Parameters and variables of exp07_0j."""

from typing import Annotated

from pydantic import Field, model_validator

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp07_0j: the nine threshold rules and the permutation null."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.5, 0.75, 1.0, 1.5, 2.0), strict=False
    )
    drops: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.02, 0.05, 0.1, 0.15), strict=False)
    run_length: int = Field(default=2, ge=1, description="consecutive layers that must meet a rule")
    n_permutations: int = Field(default=2000, ge=100)

    @model_validator(mode="after")
    def _rules_by_name(self):
        names = rule_names(self)
        if not names or len(set(names)) < len(names):
            raise ValueError("sigmas and drops must give one rule at least, and no rule twice")
        return self


def rule_names(options: Params) -> list[str]:
    """Return the names of the threshold rules: a fall by k standard deviations of the baseline, or by τ in the cosine."""
    return [*(f"{k:g} σ" for k in options.sigmas), *(f"drop {tau:g}" for tau in options.drops)]


VARIABLES = declared(
    {
        ("component", "rule"): {
            "onset": ("layers", "first layer of the first run that meets a rule, −1 for none"),
            "onset_low": ("layers", "lower end of the bootstrap interval of the onset"),
            "onset_high": ("layers", "upper end of the bootstrap interval of the onset"),
            "found_resampled": ("1", "share of bootstrap resamples with an onset"),
            "found_exchanged": ("1", "share of random exchanges of PT and IT with an onset"),
        },
        ("component", "rule", "layer"): {
            "meets": ("1", "whether the mean curve meets a rule at a layer"),
        },
        ("component", "prompt", "layer"): {
            "delta_cosine_shift": ("1", "IT − PT of the δ-cosine, by prompt"),
        },
    }
)
