"""The planted faults, by folder of the package: each subtle, none equivalent to what it replaces."""

from tests.mutation.planted import core, experiments, measures, report

MUTANTS = [*report.MUTANTS, *experiments.MUTANTS, *measures.MUTANTS, *core.MUTANTS]

assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS), "two mutants have one name"
