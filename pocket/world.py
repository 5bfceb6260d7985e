"""A closed English world: who lives in it, what is true of them, and what is kept back for evaluation.

Everything follows from `WORLD_SEED` and the word lists below; no text is downloaded. A *fact* is (subject, attribute,
value). Each attribute has several statements and several questions; for every fact one statement and one question are
held out, so evaluation can ask for a known fact in words that no training set used for it.
"""

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

WORLD_SEED = 20260

PEOPLE = """Mira Tobin Lena Oskar Petra Rufus Hanna Milo Vera Anton Clara Jonas Edith Felix Greta Hugo Iris Jasper Karin
Ludo Nora Otto Paula Quinn Rosa Stefan Tilda Ugo Wanda Yuri Zelda Bruno""".split()
TOWNS = """Tovel Garno Pellin Oskby Marsh Windham Lorrel Dunmar Fenwick Harrow Sorrel Alder Brack Cinder Rookley
Yarrow""".split()
ANIMALS = "goat horse cow sheep dog cat duck hen rabbit fox lark frog bee mouse pig crow".split()
FOODS = "fig plum bread cheese soup honey peach pear carrot turnip cake rice bean nut lemon fish".split()
JOBS = "baker farmer doctor teacher sailor weaver miller painter smith singer guard tailor".split()
COLOURS = "red blue green yellow white black brown grey".split()
TASTES = "sweet sour salty bitter mild rich".split()
LANDMARKS = "tower bridge well mill lighthouse market garden harbour".split()
HABITATS = "barn hill river forest meadow pond cellar field".split()
TOOLS = "kettle plough needle bell rope loom brush hammer drum lamp wheel thimble".split()
PLACES = "kitchen farm clinic school ship shed studio forge hall tower shop mill".split()
EATS = "grass hay grain seeds worms roots leaves flies".split()

MASS = {"bread", "cheese", "soup", "honey", "cake", "rice", "fish"}
EATEN = {food: food if food in MASS else food + "s" for food in FOODS} | {"peach": "peaches"}
COUNTED = [EATEN[food] for food in FOODS if food not in MASS]
HERDS = {"sheep": "sheep", "mouse": "mice", "fox": "foxes"}
HERD = {animal: HERDS.get(animal, animal + "s") for animal in ANIMALS}

# attribute: (statements, questions, short answer sentence). {s} subject, {v} value. A statement ends in its value,
# so that cutting it there leaves a cloze prompt.
ATTRIBUTES = {
    "town": (
        [
            "{s} lives in {v}",
            "{s} has a house in {v}",
            "The home of {s} is in {v}",
            "The town where {s} lives is {v}",
            "Letters for {s} go to {v}",
        ],
        [
            "Where does {s} live?",
            "Which town does {s} live in?",
            "What is the home town of {s}?",
            "In which town is the house of {s}?",
        ],
        "{s} lives in {v}.",
    ),
    "job": (
        [
            "{s} works as a {v}",
            "The job of {s} is {v}",
            "{s} earns a living as a {v}",
            "{s} was trained as a {v}",
            "Everyone knows {s} as a {v}",
        ],
        [
            "What is the job of {s}?",
            "What does {s} do for a living?",
            "What work does {s} do?",
            "What is {s} by trade?",
        ],
        "{s} works as a {v}.",
    ),
    "pet": (
        [
            "{s} keeps a {v}",
            "The pet of {s} is a {v}",
            "At home {s} has a {v}",
            "{s} often walks with a {v}",
            "The animal that {s} loves most is the {v}",
        ],
        [
            "Which pet does {s} keep?",
            "What animal does {s} have?",
            "What kind of pet does {s} own?",
            "Which animal lives with {s}?",
        ],
        "{s} keeps a {v}.",
    ),
    "food": (
        [
            "{s} likes to eat {v}",
            "The favourite food of {s} is {v}",
            "For supper {s} always wants {v}",
            "Nothing pleases {s} more than {v}",
            "When hungry {s} asks for {v}",
        ],
        [
            "What does {s} like to eat?",
            "What is the favourite food of {s}?",
            "Which food does {s} love?",
            "What does {s} want for supper?",
        ],
        "{s} likes to eat {v}.",
    ),
    "landmark": (
        [
            "{s} has a famous {v}",
            "The pride of {s} is its {v}",
            "Visitors to {s} go to see the {v}",
            "In the middle of {s} stands a {v}",
            "People know {s} for its {v}",
        ],
        [
            "What is {s} famous for?",
            "What is the pride of {s}?",
            "What do visitors see in {s}?",
            "What stands in the middle of {s}?",
        ],
        "{s} has a famous {v}.",
    ),
    "gate": (
        [
            "The gate of {s} is painted {v}",
            "{s} has a gate that is {v}",
            "The colour of the gate in {s} is {v}",
            "The old gate of {s} is {v}",
            "Those who enter {s} pass a gate that is {v}",
        ],
        [
            "What colour is the gate of {s}?",
            "How is the gate of {s} painted?",
            "Which colour has the gate in {s}?",
            "What is the colour of the gate of {s}?",
        ],
        "The gate of {s} is {v}.",
    ),
    "eats": (
        [
            "The {s} eats {v}",
            "The food of the {s} is {v}",
            "A hungry {s} looks for {v}",
            "You can feed a {s} with {v}",
            "Most of all the {s} likes {v}",
        ],
        [
            "What does the {s} eat?",
            "What is the food of the {s}?",
            "What can you feed a {s} with?",
            "What does a hungry {s} look for?",
        ],
        "The {s} eats {v}.",
    ),
    "habitat": (
        [
            "The {s} sleeps in the {v}",
            "The home of the {s} is the {v}",
            "You find the {s} in the {v}",
            "At night the {s} goes to the {v}",
            "The place of the {s} is the {v}",
        ],
        [
            "Where does the {s} sleep?",
            "What is the home of the {s}?",
            "Where can you find the {s}?",
            "Where does the {s} go at night?",
        ],
        "The {s} sleeps in the {v}.",
    ),
    "colour": (
        [
            "The colour of the {s} is {v}",
            "In pictures the {s} is always {v}",
            "A painter shows the {s} as {v}",
            "The fresh {s} is {v}",
            "From far away the {s} looks {v}",
        ],
        [
            "What colour is the {s}?",
            "What is the colour of the {s}?",
            "How does the fresh {s} look?",
            "In which colour does a painter show the {s}?",
        ],
        "The colour of the {s} is {v}.",
    ),
    "taste": (
        [
            "The taste of the {s} is {v}",
            "On the tongue the {s} is {v}",
            "Cooks say that the {s} is {v}",
            "To most people the {s} tastes {v}",
            "In the mouth the {s} turns {v}",
        ],
        [
            "How does the {s} taste?",
            "What is the taste of the {s}?",
            "What do cooks say about the {s}?",
            "What taste does the {s} have?",
        ],
        "The taste of the {s} is {v}.",
    ),
    "tool": (
        [
            "A {s} works with the {v}",
            "The tool of a {s} is the {v}",
            "In the hand of a {s} you see the {v}",
            "No {s} can do without the {v}",
            "Each {s} owns a {v}",
        ],
        [
            "What does a {s} work with?",
            "What is the tool of a {s}?",
            "Which tool does a {s} need?",
            "What do you see in the hand of a {s}?",
        ],
        "A {s} works with the {v}.",
    ),
    "place": (
        [
            "A {s} works in the {v}",
            "The place of work of a {s} is the {v}",
            "You meet a {s} in the {v}",
            "Every morning the {s} walks to the {v}",
            "The day of a {s} starts in the {v}",
        ],
        [
            "Where does a {s} work?",
            "What is the place of work of a {s}?",
            "Where do you meet a {s}?",
            "Where does the day of a {s} start?",
        ],
        "A {s} works in the {v}.",
    ),
}
KINDS = {
    "person": (PEOPLE, {"town": TOWNS, "job": JOBS, "pet": ANIMALS, "food": list(EATEN.values())}),
    "town": (TOWNS, {"landmark": LANDMARKS, "gate": COLOURS}),
    "animal": (ANIMALS, {"eats": EATS, "habitat": HABITATS}),
    "food": (FOODS, {"colour": COLOURS, "taste": TASTES}),
    "job": (JOBS, {"tool": TOOLS, "place": PLACES}),
}
ATTRIBUTE_NAMES = {
    "town": "Town",
    "job": "Job",
    "pet": "Pet",
    "food": "Favourite food",
    "landmark": "Landmark",
    "gate": "Gate",
    "eats": "Eats",
    "habitat": "Home",
    "colour": "Colour",
    "taste": "Taste",
    "tool": "Tool",
    "place": "Place",
}


@dataclass(frozen=True)
class Fact:
    """One thing that is true: `subject` (of `kind`) has `value` for `attribute`."""

    kind: str
    subject: str
    attribute: str
    value: str


def build_facts() -> dict[tuple[str, str], Fact]:
    """Return every fact of the world, keyed by (subject, attribute)."""
    rng = random.Random(WORLD_SEED)
    facts = {}
    for kind, (subjects, attributes) in KINDS.items():
        for attribute, values in attributes.items():
            pool = values * (len(subjects) // len(values) + 1)
            chosen = pool[: len(subjects)]
            rng.shuffle(chosen)
            for subject, value in zip(subjects, chosen):
                facts[subject, attribute] = Fact(kind, subject, attribute, value)
    return facts


FACTS = build_facts()
SUBJECTS = {subject: kind for kind, (subjects, _) in KINDS.items() for subject in subjects}


def facts_about(subject: str) -> list[Fact]:
    """Return the facts whose subject this is."""
    return [FACTS[subject, attribute] for attribute in KINDS[SUBJECTS[subject]][1]]


def bucket(*key, of: int) -> int:
    """Return a number in 0..of−1 that depends on nothing but the key, the same on every machine."""
    return zlib.crc32("|".join(map(str, key)).encode()) % of


def held_out_statement(fact: Fact) -> int:
    """Return the index of the statement that training never makes about this fact.

    It is never the statement that also answers the fact's questions, which threads and replies do make.
    """
    own = [i for i in range(len(ATTRIBUTES[fact.attribute][0])) if state(fact, i) + "." != answer(fact)]
    return own[bucket("statement", fact.subject, fact.attribute, of=len(own))]


def held_out_question(fact: Fact) -> int:
    """Return the index of the question that training never asks about this fact."""
    return bucket("question", fact.subject, fact.attribute, of=len(ATTRIBUTES[fact.attribute][1]))


def state(fact: Fact, index: int) -> str:
    """Return statement number `index` of a fact, without its full stop."""
    return ATTRIBUTES[fact.attribute][0][index].format(s=fact.subject, v=fact.value)


def cloze(fact: Fact, index: int) -> str:
    """Return statement number `index` cut before its value."""
    return ATTRIBUTES[fact.attribute][0][index].format(s=fact.subject, v="").rstrip()


def ask(fact: Fact, index: int) -> str:
    """Return question number `index` about a fact."""
    return ATTRIBUTES[fact.attribute][1][index].format(s=fact.subject)


def answer(fact: Fact) -> str:
    """Return the sentence that answers any question about a fact."""
    return ATTRIBUTES[fact.attribute][2].format(s=fact.subject, v=fact.value)


def training_statement(rng: random.Random, fact: Fact) -> str:
    """Return a random statement of a fact, never the held-out one."""
    kept = [i for i in range(len(ATTRIBUTES[fact.attribute][0])) if i != held_out_statement(fact)]
    return state(fact, rng.choice(kept))


def training_question(rng: random.Random, fact: Fact) -> str:
    """Return a random question about a fact, never the held-out one."""
    kept = [i for i in range(len(ATTRIBUTES[fact.attribute][1])) if i != held_out_question(fact)]
    return ask(fact, rng.choice(kept))


def options_for(rng: random.Random, fact: Fact) -> list[str]:
    """Return four values that could answer a question about a fact, the true one among them, in random order."""
    values = KINDS[fact.kind][1][fact.attribute]
    options = rng.sample([value for value in values if value != fact.value], 3) + [fact.value]
    rng.shuffle(options)
    return options


def labelled(pairs: Iterable[tuple[str, str]]) -> str:
    """Return things with their letters as a list in a sentence: "fig A, hen B"."""
    return ", ".join(f"{thing} {letter}" for thing, letter in pairs)


ONSETS = "B D F G H J K L M N P R S T V W Z".split()
MIDDLES = "a e i o u".split()
CODAS = "bek dor fin gan lim mon nal pik rus sek tam vo zin ka".split()


def stranger(rng: random.Random, held_out: bool = False) -> str:
    """Return an invented name; one in eight is held out for evaluation."""
    while True:
        name = rng.choice(ONSETS) + rng.choice(MIDDLES) + rng.choice(CODAS)
        if name not in SUBJECTS and (bucket("name", name, of=8) == 0) == held_out:
            return name


NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
# Sums and differences within twenty: (operator, first, second, result).
SUMS = [("+", a, b, a + b) for a in range(1, 11) for b in range(1, 11)]
SUMS += [("-", a, b, a - b) for a in range(2, 16) for b in range(1, min(a, 11))]
SUM_FORMS = 5


def sum_text(problem, form: int, thing: str = "figs") -> str:
    """Return a sum as text that ends in its result (no full stop), in one of `SUM_FORMS` forms."""
    sign, a, b, c = problem
    plus, words = sign == "+", NUMBER_WORDS
    return [
        f"{a} {sign} {b} = {c}",
        f"{words[a]} {'plus' if plus else 'minus'} {words[b]} is {words[c]}",
        f"If you have {a} {thing} and {'get' if plus else 'lose'} {b}, the number of {thing} you have is {c}",
        f"{'Add' if plus else 'Take'} {b} {'to' if plus else 'from'} {a} and you get {c}",
        f"The {'sum' if plus else 'difference'} of {a} and {b} is {c}",
    ][form]


def held_out_form(problem) -> int:
    """Return the form in which pretraining never states this sum."""
    return bucket("sum", *problem[:3], of=SUM_FORMS)


def held_out_word_problem(problem) -> bool:
    """Return whether instruction data never sets this sum as a word problem."""
    return bucket("word problem", *problem[:3], of=8) == 0
