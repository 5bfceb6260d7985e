"""What a page quotes is what its experiment says of the same results."""

import pytest

from nbhelpers import experiments
from nbhelpers.book import pages
from nbhelpers.core import params
from tests import synthetic


def made(key):
    return synthetic.results(key, n_prompts=24)


def test_every_experiment_has_its_verdict():
    for key in params.ordered():
        assert callable(experiments.part(key, "report").verdict)


@pytest.mark.parametrize("key", params.ordered())
def test_a_page_quotes_the_verdict_of_its_experiment(key, monkeypatch):
    results = made(key)
    monkeypatch.setattr(experiments, "open_results", lambda profile, experiment: results)
    assert pages.verdict("pocket", key) == experiments.part(key, "report").verdict(results)
