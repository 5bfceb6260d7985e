"""The planted faults, by folder of the package: each subtle, none equivalent to what it replaces."""

from tests.mutation.planted import core, experiments, measures, models, report

MUTANTS = [*report.MUTANTS, *experiments.MUTANTS, *measures.MUTANTS, *core.MUTANTS, *models.MUTANTS]

assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS), "two mutants have one name"
