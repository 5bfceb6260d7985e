"""The widget of the labelling notebook: one text field that takes single keys, and the request and reply below it.

Widgets have no key events of their own, and what would add them is JavaScript that a notebook must fetch. A text field that
reports each change is enough: whatever is typed into it is a label. Widgets are not saved with a notebook, so no reply is.
"""

import html
from collections.abc import Sequence

import pandas as pd
import xarray as xr

from nbhelpers.core.params import ParameterError, suggestion
from nbhelpers.core.store import ResultError, shown
from nbhelpers.measures import gold
from nbhelpers.measures.rubrics import QUESTION_CHARS, REPLY_CHARS
from nbhelpers.report.agreement_table import agreement_table, corrected_table
from nbhelpers.run import labelling
from nbhelpers.run.labelling import UNDO, UNSURE, Sitting, asked

BOX = "white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24em; overflow-y: auto; padding: 0.6em; border: 1px solid"


def page(sitting: Sitting, said: str = "") -> str:
    """Return the HTML of what a rater sees: progress, the request, the reply, the question and its keys.

    Texts are escaped, and cut where judges read no further. Nothing in it says which model or condition wrote the reply.
    """
    head = f"<p>{html.escape(sitting.progress())}. {html.escape(said)}</p>"
    left = sitting.waiting()
    if not left:
        return f"{head}<p><b>Done.</b> The labels are in {html.escape(shown(sitting.path))}.</p>"
    item, (question, answers) = left[0], asked(left[0].task)
    keys = [f"<b>{i}</b> {html.escape(text)}" for i, text in enumerate(answers, start=1)]
    keys += [f"<b>{UNSURE}</b> cannot say", f"<b>{UNDO}</b> take back the last label"]
    boxes = "".join(
        f'<p><b>{name}</b></p><div class="{name.lower()}" style="{BOX}">{html.escape(text)}</div>'
        for name, text in (("Request", item.question[:QUESTION_CHARS]), ("Reply", item.reply[:REPLY_CHARS]))
    )
    return f"{head}{boxes}<p><b>{html.escape(question)}</b></p><p>{'<br>'.join(keys)}</p>"


def desk(sitting: Sitting):
    """Return the widget: a field of which every key is a label, above what `page` shows, so that it stays in place."""
    import ipywidgets

    view = ipywidgets.HTML(page(sitting))
    field = ipywidgets.Text(
        description="Keys:", placeholder="click here, then press keys", continuous_update=True
    )

    def pressed(change):
        said = [_pressed(sitting, key) for key in labelling.typed(change["old"], change["new"]).lower()]
        view.value = page(sitting, " ".join(said))

    field.observe(pressed, "value")
    return ipywidgets.VBox([field, view])


def _pressed(sitting: Sitting, key: str) -> str:
    """Return what a key did; an error is said too, since a widget shows none."""
    try:
        return sitting.press(key)
    except (ResultError, gold.LabelError) as error:
        return str(error)


def opened(
    rater: str,
    experiment: str,
    profile: str,
    models: Sequence[str],
    *,
    each: int,
    overlap: int,
    shared: bool = False,
):
    """Return the widget with which a rater goes on labelling, or None after printing the sentence that says what to do first.

    Parameters
    ----------
    rater
        The rater's name; empty: nobody labels.
    experiment
        An experiment with replies by condition; empty: the last of them.
    profile, models
        Of which finished results.
    each, overlap
        Records of each of four kinds, and how many of them both raters read.
    shared
        Whether only those that both raters read.
    """
    try:
        key = _experiment(experiment)
        if not rater:
            first = f"nbh run {key} --model {models[0]} --profile {profile}"
            print(
                f"Write your name into `rater` and run the cells again; the replies are those of `{first}`, run once before."
            )
            return None
        return desk(labelling.sitting(rater, key, profile, models, each=each, overlap=overlap, shared=shared))
    except (ParameterError, ResultError, gold.LabelError) as error:
        print(error)
    except ImportError:
        print("The labelling desk needs ipywidgets; install it with `pip install --editable '.[lab]'`.")
    return None


def _experiment(key: str) -> str:
    """Return the experiment whose replies are labelled; ParameterError if there is none."""
    known = labelling.with_replies()
    if not key and not known:
        raise ParameterError("No experiment here writes replies by condition, so there is nothing to label.")
    if key and key not in known:
        raise ParameterError(f"{key} holds no replies by condition; {suggestion(key, known)}.")
    return key or known[-1]


def agreement(experiment: str, profile: str, models: Sequence[str]) -> pd.DataFrame | None:
    """Return how far raters agree with one another and with the judges of a result, or None after saying that none labelled.

    Each model's replies count as prompts of their own.
    """
    found = _labelled(experiment, profile, models)
    return None if found is None else agreement_table(found[0])


def corrected(experiment: str, profile: str, models: Sequence[str]) -> pd.DataFrame | None:
    """Return the rates of a result's judges by condition, corrected by what people labelled; None where nobody did."""
    found = _labelled(experiment, profile, models)
    return None if found is None else corrected_table(*found)


def _labelled(experiment: str, profile: str, models: Sequence[str]) -> tuple[xr.DataArray, list[str]] | None:
    """Return the ratings of judges and people on models' replies, and the people's names; None after saying what lacks."""
    try:
        key = _experiment(experiment)
        found = xr.concat([_ratings(key, profile, model) for model in models], "prompt", join="outer")
    except (ParameterError, ResultError, gold.LabelError) as error:
        print(error)
        return None
    people = [name for name in map(str, found["judge"].values) if name in _raters(key, profile)]
    if people:
        return found, people
    print(f"Nobody has labelled a reply of {key} yet.")
    return None


def _raters(key: str, profile: str) -> set[str]:
    """Return the names of those who have a file of labels."""
    files = set(gold.folder(profile).glob(f"{key}_*.csv")) - {gold.key_path(profile, key)}
    return {path.stem.removeprefix(f"{key}_") for path in files}


def _ratings(key: str, profile: str, model: str) -> xr.DataArray:
    """Return the ratings of a result's judges and of people on one model's replies, prompts named by model."""
    from nbhelpers.core import store

    result = store.load(store.result_path(profile, model, key), experiment=key)
    people = gold.ratings(profile, key, model, result["text"])
    judges = [result["rating"].reset_coords(drop=True)] if "rating" in result else []
    both = xr.concat([*judges, people], "judge", join="left" if judges else "outer")
    return both.assign_coords(prompt=[f"{model}/{name}" for name in both["prompt"].values])
