"""YAML as people type it: plain numbers, and one sentence with the line for everything else."""

import math

import pytest
import yaml

from nbhelpers import experiments
from nbhelpers.cli import runs
from nbhelpers.core import params
from nbhelpers.core.yaml_loader import Dumper, Loader

VALUES = {
    "1e-2": 0.01, "1E5": 1e5, "-2e+3": -2000.0, "1.5e-3": 0.0015, ".5": 0.5, "5.": 5.0, "1_000": 1000, "0": 0, "-7": -7,
    "12": 12, "1.0": 1.0, "12:30": "12:30", "2026-01-31": "2026-01-31", "010": "010", "1e": "1e", "e5": "e5", "null": None,
    "true": True, "[1, 1e-1]": [1, 0.1], "{a: b}": {"a": "b"}, "": None,
}  # fmt: skip


@pytest.mark.parametrize("text, value", VALUES.items(), ids=map(repr, VALUES))
def test_values_are_what_they_look_like(text, value):
    found = yaml.load(text, Loader)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text", [*VALUES, "0x1F", "yes", "~", "1e999", ".nan", "a: b", " a", "*a", "!t", "\0", "é"]
)
def test_a_text_is_written_so_that_everyone_reads_a_text(text):
    values = {"key": text, text: [text, text, {"inner": text}]}
    written = yaml.dump(values, Dumper=Dumper, allow_unicode=True, width=120)
    assert yaml.load(written, Loader) == yaml.safe_load(written) == values


def test_numbers_are_written_as_numbers_and_a_value_twice():
    again = {"a": 1}
    values = {"a": 1, "b": 1e-5, "c": 1e20, "d": True, "e": None, "f": [0.5, -2], "g": again, "h": again}
    assert yaml.load(yaml.dump(values, Dumper=Dumper), Loader) == values


def test_our_own_files_mean_the_same_to_pyyaml():
    for path in params.ROOT.glob("params/**/*.yml"):
        assert yaml.load(path.read_text(), Loader) == yaml.safe_load(path.read_text()), path


def test_infinity_is_read_and_then_refused_by_every_schema():
    assert math.isinf(yaml.load(".inf", Loader)) and math.isnan(yaml.load(".nan", Loader))
    for text in (".inf", "-.inf", ".nan", "1e999", "[0.1, .inf]"):
        name = "kl_grid" if "[" in text else "kl_threshold"
        with pytest.raises(params.ParameterError, match="it should be a finite number|greater than 0"):
            experiments.resolve("exp09", model="qwen_pocket", **runs.parameters([f"{name}={text}"]))


REFUSED = {
    "[1,": "expected the node content",
    "a: b: c": "mapping values are not allowed here",
    "\t1": "cannot start any token",
    "\x01": "special characters are not allowed",
    "\udc80": "special characters are not allowed",
    "!!python/object/apply:os.system [x]": "the tag .*os.system is not read here",
    "!!int x": "the tag .* is not read here",
    "[" * 3000: "nested more than 20 levels",
    "{a: &a [1], b: *a}": "an alias .* is not read here",
    "{a: 1, b: 2, a: 3}": "the key 'a' is given twice",
    "{[1]: 2}": "unhashable key",
    "1\n---\n2": "another document",
    "9" * 5000: "limit",
}


@pytest.mark.parametrize("text, problem", REFUSED.items(), ids=[repr(text[:20]) for text in REFUSED])
def test_what_cannot_be_read_is_one_sentence(text, problem):
    with pytest.raises(
        params.ParameterError, match=f"^-p seed is not valid YAML at line \\d+: .*{problem}"
    ) as error:
        runs.parameters([f"seed={text}"])
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


FILES = {
    "a key given twice": ("title: ann\n", "title: ann\nfamily: qwen\n", "line 4: the key 'family' is given twice"),
    "no YAML": ("title: ann\n", "title: [ann\n", "line "),
    "not UTF-8": ("title: ann\n", "title: \xff\n", "line 3: invalid start byte"),
    "an alias": ("title: ann\n", "title: &t ann\nattention: *t\n", "line 4: an alias"),
    "not finite": ("title: ann\n", "title: ann\nmax_new_tokens: .inf\n", "'max_new_tokens' is inf"),
    "no mapping": ("key: ann", "- key: ann", "is not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("before, after, sentence", FILES.values(), ids=FILES)
def test_a_file_is_named_with_its_line(project, before, after, sentence):
    path = project / "params/models/ann.yml"
    lines = "key: ann\nfamily: llama\ntitle: ann\npt: {path: weights/ann}\nit: {path: weights/ann}\n"
    path.write_bytes(lines.replace(before, after).encode("latin-1"))
    with pytest.raises(params.ParameterError, match="^params/models/ann.yml") as error:
        params.model_params("ann")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_parameter_is_given_once():
    with pytest.raises(params.ParameterError, match="^-p seed is given twice; give it once.$"):
        runs.parameters(["seed=1", "n_prompts=4", "seed=1"])


EXAMPLES = {
    "kl_grid=0.5": "'kl_grid' is 0.5; it should be a list, such as [0.05, 0.1, 0.2, 0.5, 1.0].",
    "kl_grid=[]": "it should have at least 1 item, not 0, such as [0.05, 0.1, 0.2, 0.5, 1.0].",
    "confidence_edges=(0.5, 0.9)": "it should be a list, such as [0.5, 0.9].",
    "confidence_edges=[0.5]": "'confidence_edges' is [0.5]; it should have more values, such as [0.5, 0.9].",
    "confidence_edges=[0.1, 0.2, 0.3]": "it should have at most 2 items, not 3, such as [0.5, 0.9].",
    "confidence_edges=[0.9, 0.5]": "it must be two probabilities, the lower one first.",
    "kl_threshold=low": "'kl_threshold' is 'low'; it should be a valid number",
    "seed=1e3": "'seed' is 1000.0; it should be a valid integer.",
    "seed=99999999999": "'seed' is 99999999999; it should be less than 4294967296.",
}


@pytest.mark.parametrize("text, sentence", EXAMPLES.items(), ids=EXAMPLES)
def test_a_wrong_value_is_told_in_good_grammar(text, sentence):
    with pytest.raises(params.ParameterError) as error:
        experiments.resolve("exp09", model="qwen_pocket", **runs.parameters([text]))
    assert sentence in str(error.value)


@pytest.mark.parametrize("key", ["x& touch pwned #", "a b", "../ann", "Ann", "a;b", "a.b", "$(id)", "é", ""])
def test_a_key_that_could_mean_more_than_a_name_is_refused(project, key):
    path = project / "params/models/ann.yml"
    text = path.read_text()
    path.write_text(text.replace("key: ann", f"key: '{key}'"))
    with pytest.raises(params.ParameterError, match="'key' is .*; it must be small letters, digits and _."):
        params.model_params("ann")
    profile = project / "params/profiles/pocket.yml"
    profile.write_text(profile.read_text().replace("[ann", f"['{key}'"))
    with pytest.raises(params.ParameterError, match="'models.0' is .*; it must be small letters"):
        params.profile_params("pocket")


@pytest.mark.parametrize(
    "field", ["notebook: ../x.ipynb", "across: 'a b.ipynb'", "artifacts: ['x;y.nc']", "needs: ['a b']"]
)
def test_names_of_files_are_plain(project, field):
    path = project / "params/experiments/exp91.yml"
    name = field.split(":")[0]
    own = "" if name == "notebook" else "notebook: n.ipynb\n"
    path.write_text(f"key: exp91\ntitle: t\n{own}{field}\n")
    with pytest.raises(params.ParameterError, match=f"'{name}.*; it must be"):
        params.experiment("exp91")
