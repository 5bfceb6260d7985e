"""Which prompt a choice is read after; the slices that force choices hold them against plain forwards."""

from nbhelpers.measures.forced_choice import choice_prompt
from nbhelpers.models.prompts import Prompt


def test_a_choice_of_the_study_is_read_after_the_request_for_one_letter():
    prompt = Prompt("a", "content_fact", "Question: Which?\nAnswer:", "Which?")
    record = {"formats": {"A": "Which?", "B": prompt.text, "C": "Question: One letter. Which?\nAnswer:"}}
    found = choice_prompt(prompt, record)
    assert (found.text, found.message) == (record["formats"]["C"], "One letter. Which?")
    assert choice_prompt(prompt, {"formats": {"A": "Which?"}}) == choice_prompt(prompt, {}) == prompt


def test_a_pocket_choice_is_read_after_its_own_prompt_since_its_candidates_are_whole_replies():
    prompt = Prompt("a", "content_fact", "Question: Which?\nAnswer:", "Which?")
    assert choice_prompt(prompt, {"formats": {"C": "One letter."}, "check": {"answer": "C"}}) == prompt
