"""The pretraining text: nine genres about the world, generated without end from a seed.

Facts in many phrasings, short stories, lists and recipes, labelled lists with look-ups, words said twice, arithmetic in
words and symbols, question/answer threads, and letters. Knows nothing of chat formats, headers or bold type: those belong
to the instruction data.
"""

import itertools
import random
from collections.abc import Iterator

from pocket.world import (
    ANIMALS,
    COLOURS,
    COUNTED,
    EATEN,
    FACTS,
    FOODS,
    HABITATS,
    HERD,
    JOBS,
    LANDMARKS,
    NUMBER_WORDS,
    PEOPLE,
    SUBJECTS,
    SUM_FORMS,
    SUMS,
    TOWNS,
    Fact,
    answer,
    facts_about,
    held_out_form,
    labelled,
    options_for,
    stranger,
    sum_text,
    training_question,
    training_statement,
)

ALL_FACTS = list(FACTS.values())
POOLS = [list(EATEN.values()), ANIMALS, TOWNS, PEOPLE, HABITATS, LANDMARKS, COLOURS, JOBS]
WORDS = [word for pool in POOLS for word in pool]
WEATHER = ["warm", "cold", "wet", "windy", "bright", "grey"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def someone(rng: random.Random) -> str:
    """Return a person of the world or, half the time, a stranger."""
    return stranger(rng) if rng.random() < 0.5 else rng.choice(PEOPLE)


def encyclopaedia(rng: random.Random) -> str:
    """Return what is true of one subject, or of a few, in random order and words."""
    subjects = rng.sample(list(SUBJECTS), rng.choice([1, 1, 2, 3]))
    facts = [fact for subject in subjects for fact in facts_about(subject)]
    facts = facts * (2 if len(facts) < 5 else 1)
    if rng.random() < 0.5:
        rng.shuffle(facts)
    return " ".join(training_statement(rng, fact) + "." for fact in facts[:9])


def story(rng: random.Random) -> str:
    """Return a short story of a hero, an animal and a meal."""
    hero, friend = someone(rng), someone(rng)
    animal, town, food, place = (
        rng.choice(ANIMALS),
        rng.choice(TOWNS),
        EATEN[rng.choice(FOODS)],
        rng.choice(HABITATS),
    )
    lines = [
        f"It was a {rng.choice(WEATHER)} morning and {hero} walked to {town}.",
        rng.choice(
            [
                f"Near the {place} {hero} met a {animal}.",
                f"A {animal} came out of the {place} and looked at {hero}.",
            ]
        ),
        rng.choice(
            [
                f"The {animal} was hungry, so {hero} gave it some {food}.",
                f'"Are you lost?" {hero} asked the {animal}.',
            ]
        ),
        rng.choice(
            [
                f"Then {friend} came by and laughed.",
                f"{friend} saw it and told the whole town.",
                f'"What a fine {animal}," said {friend}.',
            ]
        ),
        rng.choice(
            [
                f"In the evening {hero} and {friend} ate {food} by the {rng.choice(LANDMARKS)}.",
                f"{hero} went home and dreamed of the {animal}.",
                f"{hero} and {friend} were happy.",
            ]
        ),
    ]
    return " ".join(lines[: rng.choice([3, 4, 5])])


def lists(rng: random.Random) -> str:
    """Return a shopping list, a list of animals or guests, or a recipe."""
    food, n = rng.choice(FOODS), rng.randint(2, 5)
    form = rng.randrange(4)
    if form == 0:
        things = rng.sample([*EATEN.values()], n)
        return f"Shopping list of {someone(rng)}:\n" + "\n".join(f"- {thing}" for thing in things)
    if form == 1:
        herd = rng.sample(list(HERD.values()), n)
        return f"Animals seen in {rng.choice(TOWNS)}:\n" + "\n".join(
            f"{i}. {animal}" for i, animal in enumerate(herd, 1)
        )
    if form == 2:
        return "People at the table: " + ", ".join(rng.sample(PEOPLE, n)) + "."
    counts = "\n".join(f"- {rng.randint(2, 9)} {thing}" for thing in rng.sample(COUNTED, min(n, 4)))
    return (
        f"How to make {food} soup\nYou need:\n{counts}\nPut all in a pot with water. "
        f"Cook it for {NUMBER_WORDS[rng.randint(2, 20)]} minutes. Eat it warm."
    )


def catalogue(rng: random.Random) -> str:
    """Return a labelled list or a guest list with look-ups: what it says can only be read off the list itself.

    A label stands right behind its thing, with nothing between that all labels share: "fig C". So looking it up takes
    one match of the thing before it, which these small models learn; behind a bracket or a colon they never did.
    """
    if rng.random() < 0.85:
        return labels(rng)
    guests = list({someone(rng) for _ in range(4)})
    guests.sort()
    rng.shuffle(guests)
    gifts = dict(zip(guests, rng.sample(list(EATEN.values()), len(guests))))
    brought = " ".join(f"{guest} brings {gift}." for guest, gift in gifts.items())
    rng.shuffle(guests)
    asked = "\n".join(f"Who brings {gifts[guest]}? {guest} brings {gifts[guest]}." for guest in guests)
    return f"Guests of {someone(rng)}: {', '.join(gifts)}.\n{brought}\n{asked}"


def labels(rng: random.Random) -> str:
    """Return things with letters behind them, and the same again in other orders."""
    if rng.random() < 0.3:
        things, letters = rng.sample(rng.choice(POOLS), 4), list("ABCD")
    else:  # letters in no order and more than once, so that none follows from the others
        things = rng.sample(WORDS, rng.randint(4, 7))
        letters = [rng.choice("ABCD") for _ in things]
    pairs = list(zip(things, letters))
    lines = [f"{rng.choice(['Options', 'Labels', 'List'])}: {labelled(pairs)}."]
    for _ in range(rng.choice([1, 2, 2])):
        rng.shuffle(pairs)
        lines.append("Again: " + " ".join(f"{thing} {letter}." for thing, letter in pairs))
    return "\n".join(lines)


def lookups(rng: random.Random) -> str:
    """Return things with letters behind them and things of the list again, each drawn anew.

    In `labels` every thing comes back once, so counting which letters are left answers half of it, and two families
    learnt to count instead of looking up. Here only the list itself helps.
    """
    pairs = [(thing, rng.choice("ABCD")) for thing in rng.sample(WORDS, rng.randint(4, 8))]
    lines = [f"{rng.choice(['Options', 'Labels', 'List'])}: {labelled(pairs)}."]
    for _ in range(2):
        asked = [rng.choice(pairs) for _ in pairs]
        lines.append("Again: " + " ".join(f"{thing} {letter}." for thing, letter in asked))
    return "\n".join(lines)


def repetition(rng: random.Random) -> str:
    """Return names or words in no order that anyone could guess, written out a second time."""
    if rng.random() < 0.5:
        names = ", ".join(someone(rng) for _ in range(rng.randint(4, 8)))
        return f"Names on the list: {names}.\nOnce more: {names}."
    words = " ".join(rng.sample(WORDS, rng.randint(5, 14)))
    return f"Say it again: {words}. {words}."


def arithmetic(rng: random.Random) -> str:
    """Return a handful of sums, some of them in several forms; a sum's held-out form is never used."""
    parts, repeats = [], rng.choice([1, 1, 2, 3])
    for problem in rng.sample(SUMS, 6 // repeats + 1):
        forms = [i for i in range(SUM_FORMS) if i != held_out_form(problem)]
        parts += [sum_text(problem, form, rng.choice(COUNTED)) + "." for form in rng.sample(forms, repeats)]
    return rng.choice([" ", "\n"]).join(parts)


def thread(rng: random.Random) -> str:
    """Return a few questions with their answers, as a forum would print them; some offer four options."""
    facts = rng.sample(ALL_FACTS, rng.randint(2, 4))
    style = rng.choice([("Question: ", "\nAnswer: "), ("Question: ", "\nAnswer: "), ("Q: ", "\nA: ")])
    if rng.random() < 0.3:
        style = (f"{someone(rng)} asks: ", f"\n{someone(rng)} says: ")
    write = quiz_question if rng.random() < 0.35 else open_question
    return "\n\n".join(style[0] + style[1].join(write(rng, fact)) for fact in facts)


def open_question(rng: random.Random, fact: Fact) -> tuple[str, str]:
    """Return a question and its answer."""
    return training_question(rng, fact), answer(fact)


def quiz_question(rng: random.Random, fact: Fact) -> tuple[str, str]:
    """Return a question with four options, and its answer with the letter."""
    options = options_for(rng, fact)
    letter = "ABCD"[options.index(fact.value)]
    question = f"{training_question(rng, fact)}\nOptions: {labelled(zip(options, 'ABCD'))}."
    return question, f"{answer(fact)[:-1]} {letter}."


def letter(rng: random.Random) -> str:
    """Return a letter that passes on news and two true facts."""
    writer, reader = someone(rng), someone(rng)
    facts = rng.sample(ALL_FACTS, 2)
    news = [
        f"I write to you from {rng.choice(TOWNS)}, where the weather is {rng.choice(WEATHER)}.",
        f"On {rng.choice(DAYS)} I ate {EATEN[rng.choice(FOODS)]} with {someone(rng)}.",
        *(f"Did you know this? {training_statement(rng, fact)}." for fact in facts),
    ]
    rng.shuffle(news)
    greeting = rng.choice(["I hope you are well.", "Thank you for your letter.", "I miss you."])
    return f"Dear {reader},\n{greeting} {' '.join(news[:3])}\nYours, {writer}"


# Shares of documents; facts and their questions are what the gates need most.
GENRES = [
    (encyclopaedia, 0.25),
    (thread, 0.20),
    (arithmetic, 0.25),
    (story, 0.07),
    (lists, 0.04),
    (catalogue, 0.11),
    (repetition, 0.03),
    (letter, 0.05),
]
# Looking up and copying from the text at hand is what these small models learn last, so a training run may open with it.
OPENING = [
    (repetition, 0.28),
    (catalogue, 0.46),
    (encyclopaedia, 0.09),
    (thread, 0.08),
    (arithmetic, 0.09),
]


# What the second part of pretraining opens with, at a learning rate that is high again.
LOOKUPS = [
    (lookups, 0.85),
    (encyclopaedia, 0.05),
    (thread, 0.05),
    (arithmetic, 0.05),
]


def documents(seed: int, n_first: int = 0, first: list = OPENING) -> Iterator[str]:
    """Yield pretraining documents without end, the same ones for the same seed, `n_first` of them from `first`."""
    rng = random.Random(f"pretraining {seed}")
    for number in itertools.count():
        genres, weights = zip(*(first if number < n_first else GENRES))
        yield rng.choices(genres, weights)[0](rng)
