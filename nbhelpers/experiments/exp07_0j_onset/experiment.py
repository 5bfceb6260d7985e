"""Parameters and variables of exp07_0j."""

from pydantic import Field

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp07_0j: the nine threshold rules and the permutation null."""

    sigmas: tuple[float, ...] = Field(default=(0.5, 0.75, 1.0, 1.5, 2.0), strict=False)
    drops: tuple[float, ...] = Field(default=(0.02, 0.05, 0.1, 0.15), strict=False)
    run_length: int = Field(default=2, ge=1, description="consecutive layers that must meet a rule")
    n_permutations: int = Field(default=2000, ge=100)


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
