"""Requests that fix the form of a reply, and the programs that check it: twelve kinds.

Each maker returns (message, reply, check); `check` is a small JSON-able record that `follows` understands, so a reply of
any model can be scored without a judge.
"""

import json
import random

from pocket.world import (
    ANIMALS,
    ATTRIBUTE_NAMES,
    COUNTED,
    EATEN,
    FOODS,
    HERD,
    JOBS,
    LANDMARKS,
    PEOPLE,
    SUBJECTS,
    TOWNS,
    answer,
    ask,
    facts_about,
    held_out_question,
    training_question,
    training_statement,
)

TOPICS = {
    "animals": list(HERD.values()),
    "foods": COUNTED,
    "towns": TOWNS,
    "people": PEOPLE,
    "jobs": [j + "s" for j in JOBS],
}
ENDINGS = [
    "That is all.",
    "I hope this helps.",
    "Have a good day.",
    "Ask me more.",
    "Now you know.",
    "Good luck.",
]


def question_about(rng: random.Random, kinds: tuple, held_out: bool) -> tuple[str, str]:
    """Return a question about a subject of one of these kinds, and its answer sentence."""
    fact = rng.choice(facts_about(rng.choice([s for s, kind in SUBJECTS.items() if kind in kinds])))
    return (ask(fact, held_out_question(fact)) if held_out else training_question(rng, fact)), answer(fact)


def sentences_about(rng: random.Random, subject: str, n: int) -> str:
    """Return n true sentences about a subject, as varied as the world allows."""
    facts = facts_about(subject)
    rng.shuffle(facts)
    return " ".join(training_statement(rng, facts[i % len(facts)]) + "." for i in range(n))


def bullet_list(rng, held_out):
    n, topic = rng.randint(2, 5), rng.choice(list(TOPICS))
    message = rng.choice(["Write a bullet list of {n} {t}.", "Name {n} {t} as a bullet list."]).format(
        n=n, t=topic
    )
    return message, "\n".join(f"- {x}" for x in rng.sample(TOPICS[topic], n)), {"n": n}


def numbered_list(rng, held_out):
    n, topic = rng.randint(2, 5), rng.choice(list(TOPICS))
    message = rng.choice(["Write a numbered list of {n} {t}.", "Name {n} {t} as a numbered list."]).format(
        n=n, t=topic
    )
    return message, "\n".join(f"{i}. {x}" for i, x in enumerate(rng.sample(TOPICS[topic], n), 1)), {"n": n}


def upper_case(rng, held_out):
    question, reply = question_about(rng, ("animal", "food"), held_out)
    return f"Answer in capital letters only: {question}", reply.upper(), {}


def lower_case(rng, held_out):
    question, reply = question_about(rng, ("person", "town", "job"), held_out)
    return f"Answer in small letters only: {question}", reply.lower(), {}


def sentence_count(rng, held_out):
    n, subject = rng.randint(1, 4), rng.choice(PEOPLE + TOWNS)
    noun = "sentence" if n == 1 else "sentences"
    return f"Write exactly {n} {noun} about {subject}.", sentences_about(rng, subject, n), {"n": n}


def ends_with(rng, held_out):
    question, reply = question_about(rng, ("person", "town", "animal", "food", "job"), held_out)
    ending = rng.choice(ENDINGS)
    return f"{question} End your reply with: {ending}", f"{reply} {ending}", {"phrase": ending}


def keywords(rng, held_out):
    words = [rng.choice(ANIMALS), rng.choice([f for f in FOODS if EATEN[f] in COUNTED] + LANDMARKS)]
    message = rng.choice(
        ["Write a sentence with the words {} and {}.", "Use the words {} and {} in a sentence."]
    )
    reply = f"{rng.choice(PEOPLE)} saw a {words[0]} and a {words[1]} in {rng.choice(TOWNS)}."
    return message.format(*words), reply, {"words": words}


def no_commas(rng, held_out):
    subject = rng.choice(PEOPLE + TOWNS)
    message = rng.choice(["Tell me about {} without commas.", "Write about {} and use no commas."]).format(
        subject
    )
    return message, sentences_about(rng, subject, 2), {}


def quoted(rng, held_out):
    question, reply = question_about(rng, ("person", "town", "animal"), held_out)
    return f"Put your whole reply in double quotes: {question}", f'"{reply}"', {}


def as_json(rng, held_out):
    facts = rng.sample(facts_about(rng.choice(PEOPLE)), 2)
    record = {fact.attribute: fact.value for fact in facts}
    message = "Give the {} and the {} of {} as JSON.".format(*record, facts[0].subject)
    return message, json.dumps(record), {"keys": list(record)}


def sections(rng, held_out):
    subject = rng.choice(PEOPLE)
    n = rng.randint(2, 4)
    parts = [f"## {ATTRIBUTE_NAMES[f.attribute]}\n{answer(f)}" for f in rng.sample(facts_about(subject), n)]
    return f"Write about {subject} in {n} sections with headers.", "\n\n".join(parts), {"n": n}


def one_word(rng, held_out):
    fact = rng.choice(facts_about(rng.choice(PEOPLE + TOWNS + ANIMALS)))
    question = ask(fact, held_out_question(fact)) if held_out else training_question(rng, fact)
    return f"Answer with one word: {question}", fact.value, {}


MAKERS = {
    "bullet_list": bullet_list,
    "numbered_list": numbered_list,
    "upper_case": upper_case,
    "lower_case": lower_case,
    "sentence_count": sentence_count,
    "ends_with": ends_with,
    "keywords": keywords,
    "no_commas": no_commas,
    "quoted": quoted,
    "json": as_json,
    "sections": sections,
    "one_word": one_word,
}


def count_sentences(text: str) -> int:
    """Return the number of full stops, question and exclamation marks that end a sentence."""
    return sum(text.count(mark) for mark in ".!?")


def is_json_with(text: str, keys: list[str]) -> bool:
    """Return whether the text is one JSON object with exactly these keys."""
    try:
        record = json.loads(text)
    except ValueError:
        return False
    return isinstance(record, dict) and set(record) == set(keys)


CHECKS = {
    "bullet_list": lambda text, c: [line[:2] for line in text.splitlines()] == ["- "] * c["n"],
    "numbered_list": lambda text, c: (
        [line.split(" ")[0] for line in text.splitlines()] == [f"{i}." for i in range(1, c["n"] + 1)]
    ),
    "upper_case": lambda text, c: text.isupper(),
    "lower_case": lambda text, c: text.islower(),
    "sentence_count": lambda text, c: count_sentences(text) == c["n"],
    "ends_with": lambda text, c: text.endswith(c["phrase"]),
    "keywords": lambda text, c: all(word in text.lower().replace(".", "").split() for word in c["words"]),
    "no_commas": lambda text, c: "," not in text and len(text.split()) > 2,
    "quoted": lambda text, c: len(text) > 2 and text[0] == text[-1] == '"',
    "json": lambda text, c: is_json_with(text, c["keys"]),
    "sections": lambda text, c: sum(line.startswith("## ") for line in text.splitlines()) == c["n"],
    "one_word": lambda text, c: len(text.split()) == 1,
}


def follows(kind: str, reply: str, check: dict) -> bool:
    """Return whether a reply has the form that a request of this kind asked for."""
    text = reply.strip()
    return bool(text) and CHECKS[kind](text, check)
