"""`nbh import`: the study's files become datasets and tables; damaged and unknown ones are named and stop nothing."""

import json

import numpy as np
import pytest

from nbhelpers.core import params, store
from nbhelpers.report import published
from nbhelpers.run import importing
from tests.report import artifacts
from tests.stubs import REPOSITORY

needs_artifacts = pytest.mark.skipif(
    not artifacts.FOLDER.exists(),
    reason=f"{artifacts.FOLDER} is not here; NBHELPERS_ARTIFACTS names a checkout of the study's released artifacts",
)
CLAIMS = REPOSITORY.parent / "shared/reference/claims.csv"
GEMMA, LAYERS = "gemma3_4b", 34
GAP = {"CG": 0.25, "n_steps_it": 7}
JUDGED = {"n": 10, "mean": 0.5, "ci95": [0.25, 0.75]}
BROKEN_DOWN = {
    name: number
    for kind in ("REFUSE", "COMPLY", "INCOHERENT")
    for name, number in ((kind, 0.5), (f"{kind}_ci95", [0.0, 1.0]))
}
CONDITIONS = ("A_pt_raw", "B_graft_raw", "C_it_chat")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return an empty root to write into, with the project's parameters."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "params").symlink_to(REPOSITORY / "params")
    monkeypatch.setattr(params, "ROOT", root)
    return root


@pytest.fixture
def checkout(tmp_path):
    """Return a made-up small checkout: three whole files, one of a kind that is left, one that nobody knows."""
    write(
        tmp_path, "results/a/convergence_gap_values.json", {lens: {GEMMA: GAP} for lens in ("raw", "tuned")}
    )
    write(tmp_path, "results/b/L8_id_profile.json", profile())
    metrics = {f"{c}__{m}": JUDGED for c in CONDITIONS for m in ("g1", "g2", "s2", "s1_refuse_rate")}
    judged = {GEMMA: {"metrics": metrics, "s1_breakdown": dict.fromkeys(CONDITIONS, BROKEN_DOWN)}}
    write(tmp_path, "results/c/exp12_metrics.json", judged)
    write(tmp_path, "results/a/effect_sizes.json", [])
    write(tmp_path, "package.json", {"name": "other"})
    return tmp_path / "results"


def profile(**changed):
    """Return the content of a profile of dimensions by layer, with entries changed."""
    whole = {"model": GEMMA, "variant": "it", "n_prompts": 5, "n_layers": LAYERS}
    ends = {"intrinsic_dim_ci_low": [1.0] * LAYERS, "intrinsic_dim_ci_high": [3.0] * LAYERS}
    return whole | {"intrinsic_dim": [float(layer) for layer in range(LAYERS)]} | ends | changed


def write(root, name, content):
    """Write content as JSON, or text as it is."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_values_become_datasets_of_our_schema(home, checkout, run_cli):
    status, said, _ = run_cli("import", checkout)
    assert status == 0 and said.splitlines()[-1] == "wrote 3 datasets"
    found = store.load(store.result_path("published", GEMMA, "exp04"), experiment="exp04")
    assert found.dimension.dims == ("estimator", "template", "variant", "layer")
    at = {"estimator": "two_nn_stored", "template": "native", "variant": "it", "layer": 7}
    assert [float(found[f"dimension{end}"].sel(at)) for end in ("", "_low", "_high", "_n")] == [7, 1, 3, 5]
    assert "authors' own" in found.attrs["authors_data"] and found.attrs["profile"] == "published"
    assert json.loads(found.attrs["source"])["files"] == ["b/L8_id_profile.json"]
    gap = store.load(store.result_path("published", GEMMA, "exp09"), experiment="exp09")
    assert set(gap.data_vars) == {"convergence_gap_tokens", "convergence_gap_tokens_n"}  # only what exists


def test_a_file_that_no_experiment_uses_is_named_with_the_reason(home, checkout, run_cli):
    (_, said, _) = run_cli("import", checkout.parent)
    assert "unused: results/a/effect_sizes.json: effect sizes of the scores that are read" in said
    assert "unknown, skipped: package.json" in said
    assert "read 3 files (0 damaged, 1 unused, 1 unknown)" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (json.dumps(profile())[:-20], "it is no whole JSON file"),
        (
            {name: of for name, of in profile().items() if name != "intrinsic_dim"},
            "it has no 'intrinsic_dim'",
        ),
        (profile(intrinsic_dim=[1.0, 2.0]), "its dimension of gemma3_4b has 2 values for 34 layers"),
        (profile(model="gpt2"), "it names a model 'gpt2', which the study does not have"),
        (profile(intrinsic_dim=["x"] * LAYERS), "its dimension of gemma3_4b is no number"),
        (profile(variant="base"), "it names a variant 'base', not pt or it"),
        ([1, 2], "its parts are not where they should be (TypeError)"),
    ],
    ids=["truncated", "key", "length", "model", "number", "variant", "shape"],
)
def test_a_damaged_file_is_named_in_one_sentence_and_stops_nothing(home, checkout, run_cli, content, why):
    write(checkout, "b/L8_id_profile.json", content)
    status, said, _ = run_cli("import", checkout)
    assert status == 0
    assert f"damaged: b/L8_id_profile.json: {why}\n" in said
    assert "read 2 files (1 damaged, 1 unused, 0 unknown)" in said and "wrote 2 datasets" in said


def test_of_two_files_that_disagree_the_first_is_kept_and_the_other_named(home, checkout, run_cli):
    write(checkout, "z/L8_id_profile.json", profile(intrinsic_dim=[99.0] * LAYERS))
    write(checkout, "y/L8_id_profile.json", profile())  # a copy says nothing new
    _, said, _ = run_cli("import", checkout)
    assert [line for line in said.splitlines() if line.startswith("damaged")] == [
        "damaged: z/L8_id_profile.json: some of its values differ from those of another file, which are kept"
    ]
    found = store.load(store.result_path("published", GEMMA, "exp04"))
    assert float(found.dimension.max()) == LAYERS - 1


def test_a_folder_without_results_and_one_that_is_not_there(home, tmp_path, run_cli):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="holds no result of the study; give the path of its checkout"):
        importing_fails(run_cli, tmp_path / "empty")
    with pytest.raises(Exception, match="there is no folder .*none; give the path of a checkout"):
        importing_fails(run_cli, tmp_path / "none")


def importing_fails(run_cli, folder):
    """Raise what `nbh import` would say of a folder."""
    from typer.testing import CliRunner

    from nbhelpers import cli

    result = CliRunner().invoke(cli.app, ["import", str(folder)])
    assert result.exit_code != 0
    raise result.exception


def test_tables_hold_what_datasets_hold(home, checkout):
    (home / "params").unlink()
    (home / "params/published").mkdir(parents=True)
    for name in ("models", "profiles", "experiments"):
        (home / "params" / name).symlink_to(REPOSITORY / "params" / name)
    found = importing.gathered(checkout)
    made = importing.tables(found)
    importing.ship(made, found)
    for key, model, dataset in importing.datasets(made):
        read = published.read(home / f"params/published/{key}.csv")
        again = published.dataset(read, model, importing.declared(key))
        assert again.equals(dataset), key
    listed = (home / "params/published/sources.csv").read_text().splitlines()
    assert "a/effect_sizes.json,,effect sizes of the scores that are read; they stand in the ledger" in listed
    assert "b/L8_id_profile.json,exp04," in listed


def test_tables_that_are_too_large_are_not_written(home, checkout, monkeypatch):
    monkeypatch.setattr(importing, "LARGEST", 100)
    found = importing.gathered(checkout)
    with pytest.raises(params.ParameterError, match="more than 0; drop a variable"):
        importing.ship(importing.tables(found), found)


@pytest.fixture(scope="module")
def released():
    """Return what the study's released files hold."""
    return importing.gathered(artifacts.FOLDER)


@needs_artifacts
def test_every_released_file_is_read_or_left_with_a_reason(released):
    assert released.unknown == [] and released.damaged == {}
    assert len(released.read) + len(released.left) == len(list(artifacts.FOLDER.rglob("*.json")))
    assert set(importing.tables(released)) >= {"exp09", "exp11", "exp12", "exp13", "exp14"}


@needs_artifacts
def test_the_shipped_tables_are_those_of_the_released_files(released):
    folder = REPOSITORY / published.FOLDER
    made = importing.tables(released)
    assert {path.stem for path in folder.glob("exp*.csv")} == set(made)
    for key, frame in made.items():
        assert (folder / f"{key}.csv").read_text(encoding="utf-8") == published.csv(frame), key
    assert (folder / "sources.csv").read_text(encoding="utf-8") == importing.sources(released)


# Read by hand in the files: (experiment, model, variable, labels) → value.
BY_HAND = [
    ("exp09", GEMMA, "kl_final_layer", {"variant": "pt", "lens": "raw", "layer": 0}, 82.47490692138672),
    ("exp09", GEMMA, "delta_cosine", {"variant": "it", "component": "block", "layer": 33}, -0.8434497714042664),
    ("exp09", GEMMA, "convergence_gap_tokens", {"lens": "tuned", "direction": "final_layer"}, 0.35054590610089115),
    ("exp09", GEMMA, "commitment", {"variant": "it", "lens": "raw", "rule": "top1_strict"}, 25.711557835820894),
    ("exp11", GEMMA, "commitment", {"condition": "B_late"}, 30.76501002578458),
    ("exp12", "qwen3_4b", "level", {"outcome": "g2", "condition": "B_late"}, 2.0533333333333332),
    ("exp12", "qwen3_4b", "level_high", {"outcome": "g2", "condition": "B_late"}, 2.243416666666666),
    ("exp13", GEMMA, "share", {"role": "displaced", "token_class": "content", "condition": "B_late"}, 0.4510889183010468),
    ("exp14", GEMMA, "shift", {"readout": "kl_layer_final", "region": "final_fifth", "side": "necessity",
                               "window": "late", "lens": "tuned"}, -0.8224068697116201),
    ("exp14", GEMMA, "shift", {"readout": "kl_layer_teacher", "region": "window", "side": "necessity",
                               "window": "late", "lens": "tuned"}, 0.2428341934942937),
    ("exp08", GEMMA, "dimension_change", {"cloud_dose": 0.0, "layer": 0}, 2.7748395440196276 - 2.8182497423940567),
    ("exp10", GEMMA, "dose_score", {"direction": "mean", "outcome": "choice", "alpha": 3.0}, 0.4766666666666667),
    ("exp07_0j", "llama31_8b", "onset", {"rule": "0.75 σ"}, 16),
    ("exp07_0j", "qwen3_4b", "onset", {"rule": "0.5 σ"}, -1),
]  # fmt: skip


@needs_artifacts
@pytest.mark.parametrize(("key", "model", "name", "at", "value"), BY_HAND)
def test_values_are_those_of_the_files(released, key, model, name, at, value):
    data = published.dataset(importing.tables(released)[key], model, importing.declared(key))
    assert float(data[name].sel(at).squeeze()) == pytest.approx(value, rel=1e-12)


@needs_artifacts
@pytest.mark.skipif(not CLAIMS.exists(), reason=f"{CLAIMS} is not here")
def test_published_differences_follow_from_the_stored_curves(released):
    import pandas as pd

    claims = pd.read_csv(CLAIMS).set_index(["metric", "family"])["value"]
    made = importing.tables(released)["exp09"]
    for model in dict.fromkeys(made["model"]):
        data = published.dataset(made, model, importing.declared("exp09"))
        shift = data.delta_cosine.sel(variant="it") - data.delta_cosine.sel(variant="pt")
        fifth = shift.squeeze().isel(layer=slice(int(0.8 * data.sizes["layer"]), None)).mean()
        published_value = np.ravel(claims["delta_cos_shift_final20pct", model])[0]
        assert float(fifth) == pytest.approx(published_value, abs=5e-4), model
