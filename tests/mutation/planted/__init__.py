"""The planted faults, by folder of the package: each subtle, none equivalent to what it replaces."""

from tests.mutation.planted import core, experiments, measures, report

MUTANTS = [*core.MUTANTS, *measures.MUTANTS, *experiments.MUTANTS, *report.MUTANTS]

assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS), "two mutants have one name"
