"""Files that others read, code hosts, archives and Binder among them, keep to their schemas and to each other."""

import json
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.stubs import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))


class Text(yaml.SafeLoader):
    """YAML in which `on` is a word and a date is text, as those who read these files take them."""


Text.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in found
        if tag != "tag:yaml.org,2002:timestamp" and first not in ("o", "O")
    ]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path):
    """Return the content of a YAML file."""
    return yaml.load(path.read_text(encoding="utf-8"), Text)


def faults(content, schema):
    """Return what a schema says against a file's content."""
    found = Draft7Validator(json.loads((REPOSITORY / "tests/schemas" / schema).read_text())).iter_errors(
        content
    )
    return [f"{error.json_path}: {error.message}" for error in found]


def test_the_citation_keeps_to_its_format():
    cited = read(REPOSITORY / "CITATION.cff")
    assert faults(cited, "citation-file-format.json") == []
    assert faults({**cited, "authors": []}, "citation-file-format.json")  # the schema can refuse


def test_the_deposit_keeps_to_its_format_and_says_what_the_citation_says():
    deposit, cited = json.loads((REPOSITORY / ".zenodo.json").read_text()), read(REPOSITORY / "CITATION.cff")
    assert faults(deposit, "zenodo.json") == []
    assert faults({**deposit, "license": None}, "zenodo.json")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert deposit["version"] == cited["version"] == project["version"]
    assert deposit["title"] == cited["title"] and deposit["keywords"] == cited["keywords"]
    assert deposit["license"] == cited["license"].lower()
    assert [each["name"] for each in deposit["creators"]] == [each["name"] for each in cited["authors"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_keeps_to_its_format_and_pins_what_it_uses(path):
    workflow = read(path)
    assert faults(workflow, "github-workflows.json") == []
    assert faults({**workflow, "jobs": {"one": {}}}, "github-workflows.json")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", each) for each in used)


def test_the_workflows_run_the_readmes_two_commands_and_publish_what_they_built():
    readme = (REPOSITORY / "README.md").read_text()
    commands = re.findall(r"^(make \w+) ", readme.split("## Two commands")[1].split("```")[1], re.MULTILINE)
    steps = {
        path.stem: [step for job in read(path)["jobs"].values() for step in job["steps"]]
        for path in WORKFLOWS
    }
    assert sorted(step["run"] for found in steps.values() for step in found if "run" in step) == sorted(
        commands
    )
    paths = [
        step["with"]["path"] for step in steps["book"] if "upload-pages-artifact" in step.get("uses", "")
    ]
    assert paths == ["_build/html"]


def test_binder_reads_the_environment_and_installs_the_package(tmp_path):
    environment = read(REPOSITORY / "environment.yml")
    assert environment.keys() == {"name", "channels", "dependencies"}
    conda = [each for each in environment["dependencies"] if isinstance(each, str)]
    (pip,) = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    assert [each for each in conda if re.fullmatch(r"python\s*=\s*3\.\d+", each)] and "pip" in conda
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.]+", each) for each in pip
    )  # none of this disk: Binder installs before it copies
    # A folder `binder` would hide the files at the root.
    assert not any((REPOSITORY / name).exists() for name in ("binder", ".binder"))
    script = REPOSITORY / "postBuild"
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    fake = tmp_path / "python"
    fake.write_text('#!/usr/bin/env bash\necho "$@" > "$OUT"\n')
    fake.chmod(0o755)
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
    subprocess.run([script], env=variables, check=True, cwd=REPOSITORY)
    asked = (tmp_path / "out").read_text().split()
    assert (
        asked[:3] == ["-m", "pip", "install"] and "--no-deps" in asked and asked[-2:] == ["--editable", "."]
    )


def test_no_badge_is_shown_for_what_does_not_exist():
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "book").glob("*.md")]
    assert not [path for path in pages if re.search(r"badge|shields\.io", path.read_text())]
