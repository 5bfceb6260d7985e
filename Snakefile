"""Every experiment on every model of a profile, the comparison of the models, the book.

`make book` calls this through `nbh batch`, which also runs it on a cluster. By hand:
    snakemake --cores 8 --resources gpu=2 --keep-going --config profile=paper
What a step depends on is its `version`, a digest of contents, so its files are `ancient`: their times do not count.
Its outputs are stamps, not the results themselves, which Snakemake would delete before their successors are there.
"""

import os

from nbhelpers.core import params
from nbhelpers.run import graph, versions, warm

PROFILE = str(config.get("profile", "pocket"))
CHOSEN = params.profile_params(PROFILE)
EXPERIMENTS = {key: params.experiment(key) for key in params.ordered()}
ACROSS = {key: experiment for key, experiment in EXPERIMENTS.items() if experiment.across}
# Steps start warm where a batch has a server for it, else this is `python -m`. The same words wherever the
# repository lies: they are part of what a step is.
PYTHON_M = 'python -I -S "$NBHELPERS_CLIENT"'
os.environ["NBHELPERS_CLIENT"] = warm.__file__
# What more experiments wait for goes first, or its long steps end alone.
FOLLOWERS = {}
for key in reversed(EXPERIMENTS):
    direct = {other for other, experiment in EXPERIMENTS.items() if key in experiment.needs}
    FOLLOWERS[key] = direct.union(*(FOLLOWERS[other] for other in direct))
STEPS = f"_build/steps/{PROFILE}"  # stamps; see nbhelpers.run.results
DATA = expand(f"{STEPS}/{{model}}/{{key}}.data", model=CHOSEN.models, key=EXPERIMENTS)
PAGES = expand(f"{STEPS}/{{model}}/{{key}}.page", model=CHOSEN.models, key=EXPERIMENTS)
PAGES += [f"{STEPS}/{key}.page" for key in ACROSS]
VERSIONS = {}  # of steps, as the files are when the graph is made
THREADS = CHOSEN.threads or max(1, (workflow.cores or 1) // min(workflow.cores or 1, len(CHOSEN.models)))


wildcard_constraints:
    model="|".join(CHOSEN.models),


rule all:
    """Everything: the book."""
    input:
        DATA,
        PAGES,
        "_build/steps/book",


rule compared:
    """The across-model notebooks, without the book."""
    input:
        DATA,
        [f"{STEPS}/{key}.page" for key in ACROSS],


rule measured:
    """The datasets alone."""
    input:
        DATA,


for key, experiment in EXPERIMENTS.items():

    rule:
        """Measure one model: its notebook, its parameters and its weights make a dataset."""
        name: f"{key}_measure"
        input:
            ancient(lambda wildcards, key=key: graph.measure_inputs(key, wildcards.model, PROFILE)),
            [f"{STEPS}/{{model}}/{need}.data" for need in experiment.needs],
        output:
            f"{STEPS}/{{model}}/{key}.data",
            f"{STEPS}/{{model}}/{key}.page",
        params:
            key=key,
            profile=PROFILE,
            version=lambda wildcards, key=key: versions.step_version(key, wildcards.model, PROFILE, VERSIONS),
        priority: len(FOLLOWERS[key])
        threads: THREADS
        resources:
            gpu=CHOSEN.gpus,
            mem_mb=lambda wildcards, attempt, key=key: attempt * graph.asked(key, wildcards.model, PROFILE)["mem_mb"],
            runtime=lambda wildcards, attempt, key=key: attempt * graph.asked(key, wildcards.model, PROFILE)["runtime"],
        shell:
            f"{PYTHON_M} nbhelpers run {{params.key:q}} --model {{wildcards.model:q}} --profile {{params.profile:q}}"


for key, experiment in ACROSS.items():

    rule:
        """Compare the models: the across-model notebook reads their datasets."""
        name: f"{key}_across"
        input:
            ancient(f"notebooks/{experiment.across}"),
            expand(f"{STEPS}/{{model}}/{key}.data", model=CHOSEN.models),
        output:
            f"{STEPS}/{key}.page",
        params:
            key=key,
            profile=PROFILE,
            version=lambda wildcards, key=key: versions.compare_version(key),
        resources:
            **graph.LEAST,
        shell:
            f"{PYTHON_M} nbhelpers run {{params.key:q}}_across --profile {{params.profile:q}}"


rule html:
    """Render the book from the executed notebooks and the pages."""
    input:
        PAGES,
    output:
        "_build/steps/book",
    params:
        profile=PROFILE,
        version=versions.book_version(),
    resources:
        **graph.LEAST,
    shell:
        f"{PYTHON_M} nbhelpers book --profile {{params.profile:q}}"
