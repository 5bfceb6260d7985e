"""The planted faults, by folder of the package: each subtle, none equivalent to what it replaces."""

from tests.mutation.planted import core, experiments, measures, models, records, report

FOLDERS = (report, experiments, measures, core, models, records)
MUTANTS = [mutant for folder in FOLDERS for mutant in folder.MUTANTS]

assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS), "two mutants have one name"
