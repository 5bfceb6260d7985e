"""What pages are assembled from: the note, the answers, the order of a model's page, times, the project's own papers."""

import json
import re

import pytest
import yaml

from nbhelpers.book import build, cards, pages, registry
from nbhelpers.core import params
from nbhelpers.report.verdicts import Verdict
from tests import synthetic

KEYS = params.ordered()
STUDY = "Instruction Tuning Creates a Broad Convergence Gap"


def markdown(source, **metadata):
    """Return a Markdown cell."""
    return {"cell_type": "markdown", "metadata": metadata, "source": source}


def code(source, **metadata):
    """Return a code cell without outputs."""
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": []}


def written(path, *cells):
    """Return the path of a notebook of these cells."""
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_the_note_s_sizes_are_those_of_the_pocket_pairs():
    about = params.profile_params("pocket").about
    layers, least, most = re.search(r"(\d+) layers, ([\d.]+)–([\d.]+) M parameters", about).groups()
    sizes = [round(card["parameters"] / 1e6, 1) for card in cards.read().values()]
    assert {card["layers"] for card in cards.read().values()} == {int(layers)}
    assert (min(sizes), max(sizes)) == (float(least), float(most))


@pytest.mark.parametrize("path", ["README.md", "book/pocket.md"])
def test_prose_agrees_with_the_cards_on_layers(path):
    text = (synthetic.REPOSITORY / path).read_text()
    assert set(re.findall(r"(\d+) layers", text)) == {str(card["layers"]) for card in cards.read().values()}


def test_the_note_counts_and_names_the_pairs_and_says_where_they_are_described():
    note = pages.whose("pocket")
    assert "**six pocket pairs**" in note and params.profile_params("pocket").about in note
    assert "(/pocket.md)" in note and "pocket.md" not in pages.whose("paper")


def test_a_profile_that_says_nothing_about_its_pairs_has_a_neutral_note(monkeypatch):
    plain = params.profile_params("laptop").model_copy(update={"about": ""})
    monkeypatch.setattr(params, "profile_params", lambda name: plain)
    note = pages.whose("laptop")
    assert "Results here are of " in note and "()" not in note
    assert all(params.model_params(model).title in note for model in plain.models)


def test_every_experiment_has_a_question():
    asked = {key: pages.question(key) for key in KEYS}
    assert all(text.endswith("?") and "\n" not in text and text[0].isupper() for text in asked.values())
    assert len(set(asked.values())) == len(asked)


def test_a_page_without_a_question_is_named(tmp_path, monkeypatch):
    across = params.experiment(KEYS[0]).across
    for name in ("params", "book"):
        (tmp_path / name).symlink_to(synthetic.REPOSITORY / name)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / across).parent.mkdir(exist_ok=True)
    written(tmp_path / "notebooks" / across, markdown("# Title\n\nNo question."))
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with pytest.raises(pages.PageError, match=f"{across} must open with its question"):
        pages.question(KEYS[0])


def test_the_answers_are_the_verdicts_in_the_order_of_the_book(monkeypatch):
    monkeypatch.setattr(pages, "in_order", lambda: KEYS[:2])
    monkeypatch.setattr(
        pages,
        "verdict",
        lambda profile, key: Verdict(f"Answer {key}", "It is | 3 nats.", "Not here.", "But."),
    )
    lines = [line for line in pages.answers("pocket").splitlines() if line.startswith("| [")]
    assert len(lines) == 2
    for key, line in zip(KEYS, lines):
        assert f"| **Answer {key}.** It is \\| 3 nats. |" in line and pages.question(key) in line
        assert f"(runs/{params.experiment(key).across})" in line


# Answers that a run of the pocket pairs gave.
FOUND = (
    "Yes, while each model writes its own text",
    "Yes; 14–22 % of IT’s late changes end on structural tokens",
    "With the chat template, mostly; without it, hardly",
    "Predictions narrow, updates broaden, broad neurons gain little",
    "PT writes more; IT is surer of its words",
    "Sufficient: mostly; necessary: by PT’s lens only",
    "Mostly, and not through just any change",
    "Late layers matter more: mixed",
    "Predicts it: yes; moves it: no",
    "In PT undecided, in IT in part",
    "It depends on the threshold",
    "Stable: yes; made of more text than weights",
    "More than matched random directions: in one of six",
)
NOTHING = (
    "No",
    "No clear shift towards content words",
    "Undecided",
    "Form before content: undecided",
    "More harmless requests answered: undecided; nearer an assistant’s voice: hardly",
    "Text structure stands in for compliance (ρ ≥ 0.8): in none",
    "Not measured",
)


@pytest.mark.parametrize("answer", [*FOUND, *NOTHING])
def test_an_answer_is_null_by_how_it_and_its_named_parts_begin(answer):
    assert pages.is_null(answer) == (answer in NOTHING)


def test_the_list_of_nulls_holds_the_null_answers_alone(monkeypatch):
    said = dict(zip(KEYS, ("Mostly, and not through just any change", "Form before content: undecided")))
    monkeypatch.setattr(pages, "in_order", lambda: list(said))
    monkeypatch.setattr(pages, "verdict", lambda profile, key: Verdict(said[key], "It is 3 nats."))
    (line,) = pages.nulls("pocket").splitlines()
    assert line.endswith("**Form before content: undecided.** It is 3 nats.")


def test_a_model_s_page_opens_with_title_note_and_answer(tmp_path):
    path = written(
        tmp_path / "one.ipynb",
        markdown("# Title\n\nText to [all](across.ipynb)."),
        code("measure()"),
        markdown("## What this pair says\n"),
        code("report.verdict(results)", name="verdict", tags=["kept"]),
        code("matrix()", name="matrix"),
        markdown("## Next"),
        code("draw()", name="main_figure"),
    )
    page = json.loads(build.model_page(path, "across.ipynb", "Pocket One", "NAME", "NOTE", "TAIL"))["cells"]
    sources = [cell["source"] for cell in page]
    assert sources[0].split("\n\n")[:3] == ["NAME", "# Title: Pocket One", "NOTE\n"]
    assert sources[1:3] == ["report.verdict(results)", "matrix()"]
    assert [cell["metadata"]["tags"] for cell in page[1:3]] == [["kept", "remove-input"], ["remove-input"]]
    assert sources[3].strip() == "Text to [all](../across.ipynb)."
    assert sources[4:] == ["measure()", "## Next", "draw()", "TAIL"]


def test_links_to_source_lead_from_a_model_s_page_too(tmp_path):
    html = '<a href="../source/nbhelpers/cli/runs.html#L3">'
    shown = code("ledger") | {
        "outputs": [{"output_type": "display_data", "data": {"text/html": html}, "metadata": {}}]
    }
    path = written(tmp_path / "one.ipynb", markdown("# Title"), shown)
    page = json.loads(build.model_page(path, "across.ipynb", "One", "", "", ""))["cells"]
    assert page[1]["outputs"][0]["data"]["text/html"] == '<a href="../../source/nbhelpers/cli/runs.html#L3">'


def test_a_model_s_page_without_an_answer_keeps_its_order(tmp_path):
    path = written(
        tmp_path / "one.ipynb", markdown("# Title"), markdown("## A\n"), code("a()"), markdown("## B")
    )
    page = json.loads(build.model_page(path, "across.ipynb", "One", "NAME", "NOTE", "TAIL"))["cells"]
    assert [cell["source"] for cell in page[1:]] == ["## A\n", "a()", "## B", "TAIL"]


def test_a_heading_with_text_below_it_stays_over_what_it_says(tmp_path):
    path = written(
        tmp_path / "one.ipynb",
        markdown("# Title"),
        markdown("## Answer\n\nWith text."),
        code("v()", name="verdict"),
    )
    page = json.loads(build.model_page(path, "across.ipynb", "One", "", "", ""))["cells"]
    assert [cell["source"] for cell in page[1:3]] == ["v()", "## Answer\n\nWith text."]


def test_an_across_page_has_the_note_under_its_title_and_hides_its_parameters(tmp_path):
    path = written(
        tmp_path / "all.ipynb",
        markdown("# Title\n\n**Question.** Why?"),
        code("x = 1", tags=["parameters"]),
        code("x"),
    )
    page = json.loads(build.across_page(path, "NAME", "NOTE", "TAIL"))["cells"]
    assert page[0]["source"] == "NAME\n\n# Title\n\nNOTE\n\n**Question.** Why?"
    assert page[1]["metadata"]["tags"] == ["parameters", "remove-cell"] and page[-1]["source"] == "TAIL"


def test_a_page_is_named_as_in_the_contents():
    title = params.experiment("exp12").title
    assert f'<p class="page-name">exp12 · {title}</p>' in pages.named("exp12")
    linked = pages.named("exp12", "../exp12_across.ipynb")
    assert f'<p class="page-name">exp12 · <a href="../exp12_across.html">{title}</a></p>' in linked


def test_the_code_behind_a_page_is_linked():
    links = re.findall(r'href="\.\./(source/[^"]+)"', pages.code_links(KEYS[0], "../"))
    assert len(links) == 5 and links[-1] == "source/index.html"
    assert all(
        (synthetic.REPOSITORY / link.removeprefix("source/")).with_suffix(".py").exists()
        for link in links[:-1]
    )


@pytest.fixture
def timed(monkeypatch):
    """Return three made-up experiments: c needs b, b needs a, d needs nothing; times of two pairs."""
    needs = {"a": [], "b": ["a"], "c": ["b"], "d": []}
    took = {"a": (20, 30), "b": (3, 2), "c": (1, 4), "d": (7, 7)}
    made = {
        key: params.Experiment(key=key, title=f"Title {key}", notebook="n.ipynb", needs=of)
        for key, of in needs.items()
    }
    monkeypatch.setattr(params, "experiment", made.get)
    monkeypatch.setattr(
        registry, "attributes",
        lambda profile, key: {f"pair {i}": {"wall_time_s": time} for i, time in enumerate(took[key])},
    )  # fmt: skip
    return list(needs)


def test_a_time_counts_all_that_an_experiment_builds_on(timed):
    rows = [line.strip("| ").split(" | ") for line in registry.times("made", ["c", "d"]).splitlines()[2:]]
    assert rows[0] == ["Title c", "1–4", "Title a, Title b", "24–36"]
    assert rows[1] == ["Title d", "7", "–", "7"]
    assert rows[2][0] == "all experiments of a pair" and rows[2][-1] == "31–43"


def test_libraries_and_checkpoints_of_all_experiments_are_listed(monkeypatch):
    def attributes(profile, key):
        versions = {"torch": "2.0" if key == "x" else "2.1", "numpy": "1"}
        revisions = {"pt": "p@1", "it": f"i@{key}"}
        return {"one": {"libraries": json.dumps(versions), "model_revisions": json.dumps(revisions)}}

    monkeypatch.setattr(registry, "attributes", attributes)
    assert "| torch | 2.0, 2.1 |" in registry.libraries("made", ["x", "y"])
    assert "| `one` | `p@1` | `i@x`, `i@y` |" in registry.revisions("made", ["x", "y"])


def test_the_windows_table_has_the_stretches_of_layers():
    rows = pages.windows("pocket")
    assert (
        "| late half | ⌊L/2⌋ | 6–11 | 16–31 |" in rows and "| final fifth | ⌊0.8 L⌋ | 9–11 | 25–31 |" in rows
    )
    assert "| late window | round(0.6 L) | 7–11 | 19–31 |" in rows


def test_the_citation_file_is_whole():
    given = yaml.safe_load((synthetic.REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= given.keys() and given["cff-version"] == "1.2.0"
    allowed = {
        "abstract", "authors", "cff-version", "date-released", "keywords", "license", "message", "references", "title",
        "repository-code", "type", "url", "version",
    }  # fmt: skip
    assert given.keys() <= allowed and all(
        author.keys() <= {"name", "family-names", "given-names"} for author in given["authors"]
    )
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", given["date-released"])
    (study,) = given["references"]
    assert {"type", "title", "authors"} <= study.keys() and study["title"].startswith(STUDY)
    assert study["authors"] == [{"name": "Anonymous"}]


@pytest.mark.parametrize(
    "path", ["README.md", "LICENSE", "CITATION.cff", "book/index.md", "book/references.md"]
)
def test_the_study_is_named_with_its_repository(path):
    text = " ".join((synthetic.REPOSITORY / path).read_text().split())
    assert STUDY in text
    assert "yifan1207/PT-IT-Model-Differences" in text or "(references)" in text


def test_the_version_is_the_same_everywhere():
    given = yaml.safe_load((synthetic.REPOSITORY / "CITATION.cff").read_text())["version"]
    assert f'version = "{given}"' in (synthetic.REPOSITORY / "pyproject.toml").read_text()


def test_provenance_is_closed_by_experiment(monkeypatch):
    made = {f"{key}_pocket": synthetic.dataset(key, KEYS[0], n_prompts=6) for key in ("gemma", "llama")}

    def of_profile(profile, key, read, **_):
        assert read in (registry.store.attributes, registry.store.sizes)
        return {m: d.attrs if read is registry.store.attributes else dict(d.sizes) for m, d in made.items()}

    monkeypatch.setattr(registry.store, "of_profile", of_profile)
    text = registry.provenance("pocket", [KEYS[0]])
    assert text.startswith("::::{dropdown} ") and text.endswith("::::") and text.count("{dropdown}") == 1
    assert text.index("`gemma_pocket`") < text.index("`llama_pocket`") < text.index("| parameter |")
