"""Write the prompt sets of experiments 01 and 02: `python -m pocket.stubs` → `exp01.jsonl`, `exp02.jsonl`.

exp01 holds stubs that one word completes: facts and sums to remember, and others to reason out. exp02 holds prompts that
the world answers (IC), that nothing answers (OOC), and that need reasoning (R); each content occurs twice, as a stub and
as a question, so no difference between categories can come from the form of their prompts.

No prompt occurs in training text. Facts come in the statement and the question that training keeps out; sums in the form
that pretraining keeps out, and as "a + b =" only where instruction data, whose replies write such lines, keeps the sum
out; word problems and requests from the held-out side; invented names from those held out. All others put words together
as no maker of either training set does: two facts in one sentence, codes, series, analogies, "evening" where stories have
"morning". tests/test_stubs.py searches both sets.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from pocket import world
from pocket.instruction import DESCRIBE, WORD_PROBLEMS
from pocket.pretraining import WORDS
from pocket.prompts import as_text
from pocket.world import ANIMALS, COLOURS, COUNTED, FACTS, FOODS, PEOPLE, TOWNS, stranger

EXP01, EXP02 = (Path(__file__).with_name(f"exp0{number}.jsonl") for number in (1, 2))
SEED = 1
SINGULAR = {eaten: food for food, eaten in world.EATEN.items()}
OF_PEOPLE = ("town", "job", "pet", "food", "landmark", "gate")
OF_THINGS = ("eats", "habitat", "colour", "taste", "tool", "place")
# A stub, a question about the same thing, and the word that completes the stub ("" where none is right).
Item = tuple[str, str, str]


def facts_of(rng: random.Random, attribute: str, n: int) -> list[world.Fact]:
    """Return n facts of one attribute, with values as different as may be."""
    facts = [fact for fact in FACTS.values() if fact.attribute == attribute]
    rng.shuffle(facts)
    first = {fact.value: fact for fact in facts}
    return [*first.values(), *(fact for fact in facts if first[fact.value] is not fact)][:n]


def known(facts: Iterable[world.Fact]) -> Iterator[Item]:
    """Yield facts in the words that training keeps out."""
    for fact in facts:
        stub = world.cloze(fact, world.held_out_statement(fact))
        yield stub, world.ask(fact, world.held_out_question(fact)), fact.value


def sum_stub(problem, thing: str) -> tuple[str, str]:
    """Return a sum in the form that pretraining keeps out, cut before its result, and the result."""
    stub, _, result = world.sum_text(problem, world.held_out_form(problem), thing).rpartition(" ")
    return stub, result


def sums(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield sums in digits, in the form that pretraining keeps out and no reply of the instruction data has."""
    pool = [p for p in world.SUMS if world.held_out_form(p) > 1]
    pool += [p for p in world.SUMS if world.held_out_form(p) == 0 and world.held_out_word_problem(p)]
    for problem in rng.sample(pool, n):
        stub, result = sum_stub(problem, rng.choice(COUNTED))
        sign, a, b, _ = problem
        yield stub, f"What is {a} {'plus' if sign == '+' else 'minus'} {b}?", result


# "attribute of the subject, attribute of its value": stub and question that skip the value.
COMPOSED = {
    "town landmark": ("The town where {s} lives has a famous", "What is the home town of {s} famous for?"),
    "town gate": ("The gate of the town where {s} lives is", "What colour is the gate where {s} lives?"),
    "food colour": (
        "The colour of the favourite food of {s} is",
        "Which colour has the food that {s} loves?",
    ),
    "pet habitat": ("The pet of {s} sleeps in the", "Where does the pet of {s} sleep?"),
    "food taste": ("The taste of the favourite food of {s} is", "How does the favourite food of {s} taste?"),
    "pet eats": ("The pet of {s} eats", "What does the pet of {s} eat?"),
    "job place": ("{s} works in the", "Where does {s} work?"),
    "job tool": ("{s} works with the", "What does {s} work with?"),
}


def second_hop(subject: str, pair: str) -> str:
    """Return what the value of a subject's first attribute has for the second."""
    first, second = pair.split()
    value = FACTS[subject, first].value
    return FACTS[SINGULAR.get(value, value), second].value


def composed(rng: random.Random, pair: str, n: int) -> Iterator[Item]:
    """Yield compositions of two facts, about n people."""
    for subject in rng.sample(PEOPLE, n):
        stub, question = (form.format(s=subject) for form in COMPOSED[pair])
        yield stub, question, second_hop(subject, pair)


def rules(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield rules that hold in their own text only: a code, then a swap, in turn."""
    for i in range(n):
        a, b, c = rng.sample(COLOURS, 3)
        x, y, z = rng.sample(ANIMALS, 3)
        code = f"In a code {a} means {x}, {b} means {y} and {c} means {z}."
        swap = f"Swap the words: {a} {x} becomes {x} {a}, and {b} {y} becomes"
        if i % 2:
            yield f"{swap} {y}", f"{swap} what?", b
        else:
            yield f"{code} In this code {b} means", f"{code} What does {b} mean in this code?", y


def series(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield series to continue: even steps, then alternating words, in turn."""
    for i in range(n):
        step, start = rng.randint(1, 3), rng.randint(1, 6)
        a, b = rng.sample([COLOURS, ANIMALS, TOWNS][i // 2 % 3], 2)
        *shown, last = [a, b, a, b, a, b][i % 4 // 2 :] if i % 2 else range(start, start + 5 * step, step)
        text = ", ".join(map(str, shown)) + ","
        yield text, f"{text} what comes next?", str(last)


def analogies(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield analogies between two subjects and their values for one attribute."""
    for i in range(n):
        attribute = ("town", "landmark", "pet", "colour", "job", "gate", "food", "habitat")[i % 8]
        one, other = facts_of(rng, attribute, 2)
        text = f"{one.subject} is to {one.value} as {other.subject} is to"
        yield text, f"{text} what?", other.value


def memorised(rng: random.Random) -> dict[str, Iterable[Item]]:
    """Return exp01's items to remember, by group."""
    counts = {"town": 6, "job": 6, "pet": 6, "food": 6, "landmark": 4, "gate": 4, "colour": 4}
    facts = [fact for attribute, n in counts.items() for fact in facts_of(rng, attribute, n)]
    return {"fact": known(facts), "sum": sums(rng, 12)}


def reasoned(rng: random.Random) -> dict[str, Iterable[Item]]:
    """Return exp01's items to reason out, by group; most values here are single tokens in the pocket tokenizers."""
    counts = dict(zip(COMPOSED, (7, 7, 7, 4, 2, 2, 2, 2)))
    hops = (item for pair, n in counts.items() for item in composed(rng, pair, n))
    return {"two_step": hops, "rule": rules(rng, 8), "series": series(rng, 8), "analogy": analogies(rng, 8)}


def exp01_records() -> list[dict]:
    """Return exp01's stubs: id, category, group, text (the stub), message, and target with the space before it."""
    rng, rows = random.Random(f"exp01 {SEED}"), []
    for category, make in (("memorisation", memorised), ("reasoning", reasoned)):
        for group, items in make(rng).items():
            for i, (stub, question, word) in enumerate(items):
                row = {"id": f"{category}-{group}-{i:02d}", "category": category, "group": group}
                row |= {"text": stub, "message": f"Answer with one word: {question}", "target": f" {word}"}
                rows.append(row)
    return rows


def word_sums(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield sums in their held-out form, with the word problem that instruction data keeps out."""
    for problem in rng.sample([p for p in world.SUMS if world.held_out_word_problem(p)], n):
        thing, (sign, a, b, _) = rng.choice(COUNTED), problem
        stub, result = sum_stub(problem, thing)
        question = rng.choice(WORD_PROBLEMS[sign]).format(p=rng.choice(PEOPLE), a=a, b=b, t=thing)
        yield stub, question, result


def phrases(rng: random.Random) -> Iterator[Item]:
    """Yield stock phrases of letters, recipes and stories, each changed by a word or two, and requests to describe."""
    p, q, r = rng.sample(PEOPLE, 3)
    animal, food, town = rng.choice(ANIMALS), rng.choice(FOODS), rng.choice(TOWNS)
    yield f"Thank you for the letter, {p}. I hope you are", f"How do you begin a letter to {p}?", ""
    yield f"For {food} soup put all in a pot with", f"How do you make {food} soup?", ""
    yield f"The hungry {animal} came to {q}, so {q} gave it some", f"What did {q} give the {animal}?", ""
    yield f"It was a cold evening and {r} walked to", f"Where did {r} walk on a cold evening?", ""
    for subject in (p, town):
        held_out = world.bucket("describe", subject, of=len(DESCRIBE))
        yield f"This is what everyone knows about {subject}:", DESCRIBE[held_out].format(subject), ""


def in_context(rng: random.Random) -> dict[str, Iterable[Item]]:
    """Return items of known content, by group."""
    facts = [fact for attribute in OF_PEOPLE for fact in facts_of(rng, attribute, 2)]
    things = [fact for attribute in OF_THINGS for fact in facts_of(rng, attribute, 1)]
    found = {"fact": known(rng.sample(facts, 8)), "textbook": known(rng.sample(things, 5))}
    return found | {"sum": word_sums(rng, 5), "phrase": phrases(rng)}


def invented(rng: random.Random) -> Iterator[Item]:
    """Yield questions of the world about people and towns that are not in it."""
    for attribute in OF_PEOPLE:
        statements, questions, _ = world.ATTRIBUTES[attribute]
        name, i = stranger(rng, held_out=True), rng.randrange(4)
        yield statements[i].format(s=name, v="").rstrip(), questions[i].format(s=name), ""


def nonsense(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield words without grammar around an invented name."""
    for _ in range(n):
        name, (a, b, c, d, e) = stranger(rng, held_out=True), rng.sample(WORDS, 5)
        yield f"{a} {b} {name} of the {c} or {d} {e} and", f"Why {a} {name} of the {c} or {d} {e} {b}?", ""


def unknowable(rng: random.Random) -> Iterator[Item]:
    """Yield what no text tells of people and towns of the world."""
    (p, q), town, animal = rng.sample(PEOPLE, 2), rng.choice(TOWNS), rng.choice(ANIMALS)
    yield f"Next Friday the weather in {town} will be", f"How will the weather in {town} be next Friday?", ""
    yield f"The number of stones in {town} is", f"How many stones are there in {town}?", ""
    yield f"Last night {p} dreamed of the", f"What did {p} dream of last night?", ""
    yield f"In ten years {q} will live in", f"Where will {q} live in ten years?", ""
    yield f"The first {animal} in {town} was called", f"What was the first {animal} in {town} called?", ""
    yield f"The secret that {p} told {q} is", f"What is the secret that {p} told {q}?", ""


def counterfactual(rng: random.Random) -> Iterator[Item]:
    """Yield premises against the facts of the world."""
    p, town, animal, food = rng.choice(PEOPLE), rng.choice(TOWNS), rng.choice(ANIMALS), rng.choice(FOODS)
    home, landmark = FACTS[p, "town"].value, FACTS[town, "landmark"].value
    job, other = rng.sample(world.JOBS, 2)
    wrong = rng.choice([t for t in TOWNS if t != home])
    yield f"If {p} had to leave {home}, {p} would live in", f"Where would {p} live without {home}?", ""
    yield f"If the {animal} could fly, it would sleep in the", f"Where would a flying {animal} sleep?", ""
    yield f"Since {p} moved from {home} to {wrong}, {p} works as a", f"Why does {p} live in {wrong}?", ""
    yield f"Now that the {food} has no colour, it looks", f"How does the {food} look without colour?", ""
    yield f"Without its {landmark}, {town} is famous for its", f"What is {town} without its {landmark}?", ""
    yield f"When every {job} is a {other}, all {job}s need a", f"What if every {job} were a {other}?", ""


def out_of_context(rng: random.Random) -> dict[str, Iterable[Item]]:
    """Return items that nothing answers, by group."""
    found = {"invented": invented(rng), "nonsense": nonsense(rng, 6)}
    return found | {"unknowable": unknowable(rng), "counterfactual": counterfactual(rng)}


def three_hops(rng: random.Random) -> Iterator[Item]:
    """Yield two facts of the world behind one that the text itself tells."""
    chains = [
        ("{p} visits {s} at home.", "The town that {p} visits has a famous", "What is that town famous for?"),
        ("{p} walks the pet of {s}.", "The animal with {p} sleeps in the", "Where does that animal sleep?"),
        ("{p} does the work of {s}.", "Today {p} is in the", "Where is {p} today?"),
        ("{p} cooks the favourite food of {s}.", "What {p} cooks is", "What colour is the food in the pot?"),
    ]
    pairs = ("town landmark", "pet habitat", "job place", "food colour")
    for (told, stub, question), pair in zip(chains, pairs):
        p, s = rng.sample(PEOPLE, 2)
        told, stub, question = (text.format(p=p, s=s) for text in (told, stub, question))
        yield f"{told} {stub}", f"{told} {question}", second_hop(s, pair)


def long_sums(rng: random.Random, n: int) -> Iterator[Item]:
    """Yield sums of two steps."""
    for _ in range(n):
        a, b, thing, p = rng.randint(2, 6), rng.randint(2, 6), rng.choice(COUNTED), rng.choice(PEOPLE)
        c = rng.randint(1, a + b - 1)
        yield (
            f"If you have {a} {thing}, get {b} more and then eat {c}, the number of {thing} you have is",
            f"{p} has {a} {thing}. Then {p} gets {b} more and eats {c} of them. How many {thing} are left?",
            str(a + b - c),
        )


def puzzles(rng: random.Random) -> Iterator[Item]:
    """Yield small logic puzzles."""
    (p, q, r), town = rng.sample(PEOPLE, 3), rng.choice(TOWNS)
    animal, colour, name = rng.choice(ANIMALS), rng.choice(COLOURS), stranger(rng, held_out=True)
    older = f"{p} is older than {q} and {q} is older than {r}."
    yield f"{older} The oldest of the three is", f"{older} Who is the oldest of the three?", p
    key = f"The key is with {q} or with {r}, but not with {q}."
    yield f"{key} So the key is with", f"{key} Who has the key?", r
    herd = f"All {world.HERD[animal]} near {town} are {colour}. The {animal} {name} is from there."
    yield f"{herd} So {name} is", f"{herd} What colour is {name}?", colour
    rain = f"In the rain {p} stays in {town}. Now {p} is not in {town}."
    yield f"{rain} So there is no", f"{rain} What is there none of now?", "rain"


def reasoning(rng: random.Random) -> dict[str, Iterable[Item]]:
    """Return items that need reasoning, by group."""
    hops = (item for pair in list(COMPOSED)[:6] for item in composed(rng, pair, 1))
    found = {"two_hop": hops, "three_hop": three_hops(rng), "rule": rules(rng, 5)}
    return found | {"sum": long_sums(rng, 5), "puzzle": puzzles(rng)}


def exp02_records() -> list[dict]:
    """Return exp02's prompts: id, category, group, form, text (what PT reads), message (what IT is asked) and answer.

    The two forms of one content share their id up to the form. A stub reaches IT as it is, with no request around it.
    The answer is "" where no one word is right.
    """
    rng, rows = random.Random(f"exp02 {SEED}"), []
    for category, make in (("IC", in_context), ("OOC", out_of_context), ("R", reasoning)):
        for group, items in make(rng).items():
            for i, (stub, question, word) in enumerate(items):
                for form, text, message in (("stub", stub, stub), ("question", as_text(question), question)):
                    row = {"id": f"{category}-{group}-{i:02d}-{form}", "category": category, "group": group}
                    rows.append(row | {"form": form, "text": text, "message": message, "answer": word})
    return rows


if __name__ == "__main__":
    for path, records in ((EXP01, exp01_records()), (EXP02, exp02_records())):
        path.write_text("".join(json.dumps(row) + "\n" for row in records))
        print(f"{path.name}: {len(records)} prompts")
