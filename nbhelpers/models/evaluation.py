"""Sets of evaluation records: reading one, and drawing from it by hash, by share, and for people to read.

The draws are those of the study, with its seeds: its 600 of 1,400 records and its plan for human raters come out the same,
byte for byte.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from nbhelpers.core.mistakes import suggestion
from nbhelpers.core.params import ParameterError
from nbhelpers.core.schemas import PromptSet
from nbhelpers.models.evaluation_records import CATEGORIES as CATEGORIES
from nbhelpers.models.evaluation_records import assistant_facing as assistant_facing
from nbhelpers.models.evaluation_records import category, validated
from nbhelpers.models.prompts import Prompt, read_records, title

Pair = tuple[Prompt, dict]
# The draw of the study's symmetric follow-up, 600 of its 1,400 records: how many of which bucket.
CORE_SEED = 20260420
CORE = {
    "conversation_source": 100,
    "gov_register": 100,
    "safety": 150,
    "gov_format": 100,
    "content_fact": 60,
    "content_reason": 40,
    "baseline_easy": 25,
    "gov_conv_extra": 25,
}
AUDIT = ("conversation_source", "gov_register", "safety_benign", "safety_harmful")
# The two sources of conversation that the study names apart.
_TALK = ("MT-Bench", "WildChat-style")
# A bucket of records: which categories, and whether of these sources alone (True), of others alone (False) or of any (None).
_BUCKETS: dict[str, tuple[tuple[str, ...], bool | None]] = {
    "conversation_source": (("conversation",), True),
    "gov_conv_extra": (("conversation",), False),
    "gov_register": (("register",), None),
    "safety": (("harmful", "harmless"), None),
    "safety_harmful": (("harmful",), None),
    "safety_benign": (("harmless",), None),
    "gov_format": (("format",), None),
    "baseline_easy": (("easy",), None),
} | {name: ((name,), None) for name in CATEGORIES}


def read_evaluation(source: str | Path | PromptSet) -> list[Pair]:
    """Return every record of a source, validated, each with its prompt, whose category is one of `CATEGORIES`.

    Reads the study's evaluation sets (v2 and the older v1) and its observational set as they are published, the pocket
    records, and prompt files of our own; a relative path starts at the repository's root.

    Raises
    ------
    ParameterError
        If the source cannot be read, a record breaks the schema, or two records have one id.
    """
    records = [validated(record, where) for record, where in read_records(source)]
    if not records:
        raise ParameterError(f"{title(source)} holds no records; write one JSON record a line.")
    if len({record["id"] for record in records}) < len(records):
        raise ParameterError(f"{title(source)} holds two records with one id; ids must differ.")
    return [
        (Prompt(record["id"], category(record), record["text"], record["message"]), record)
        for record in records
    ]


def ordered(pairs: Sequence[Pair], namespace: str, seed: int) -> list[Pair]:
    """Return pairs in an order that looks random and depends on nothing but seed, namespace and ids.

    key = SHA-256("seed::namespace::id") in hexadecimal, then the id; no random generator, so that a record keeps its place
    whatever else the set holds.
    """
    return sorted(pairs, key=lambda pair: (_key(seed, namespace, pair[0].id), pair[0].id))


def _key(seed: int, namespace: str, name: str) -> str:
    """Return the hexadecimal SHA-256 of "seed::namespace::name"."""
    return hashlib.sha256(f"{seed}::{namespace}::{name}".encode()).hexdigest()


def bucket(pairs: Sequence[Pair], name: str) -> list[Pair]:
    """Return the pairs of a bucket, one of the study's names or one of `CATEGORIES`; ParameterError for another name."""
    if name not in _BUCKETS:
        raise ParameterError(f"there is no bucket {name!r} of records; {suggestion(name, _BUCKETS)}.")
    wanted, talk = _BUCKETS[name]
    return [
        (prompt, record)
        for prompt, record in pairs
        if prompt.category in wanted and talk in (None, record["source"] in _TALK)
    ]


def _first(pairs: Sequence[Pair], name: str, n: int, namespace: str, seed: int) -> list[Pair]:
    """Return the first n pairs of a bucket in the order of a namespace; ParameterError if it holds fewer."""
    pool = ordered(bucket(pairs, name), namespace, seed)
    if len(pool) < n:
        raise ParameterError(
            f"the bucket {name!r} holds {len(pool)} records and {n} are wanted; lower its count."
        )
    return pool[:n]


def core_subset(
    pairs: Sequence[Pair], counts: Mapping[str, int] = CORE, *, seed: int = CORE_SEED
) -> list[Pair]:
    """Return so many pairs of each bucket, by hash (`ordered`), sorted by id; a record's `bucket` says by which it came in.

    With `CORE` and `CORE_SEED` these are the study's 600 (its unpublished symmetric experiment). The namespace of a bucket is
    its name; the study calls that of "safety" "safety_all".

    Parameters
    ----------
    pairs
        Pairs of `read_evaluation`.
    counts
        How many of each bucket: the study's names, or `CATEGORIES`.
    seed
        First part of the hashed text.

    Raises
    ------
    ParameterError
        If a bucket is unknown or holds too few, or two buckets pick the same record.
    """
    chosen: dict[str, Pair] = {}
    for name, n in counts.items():
        namespace = "safety_all" if name == "safety" else name
        for prompt, record in _first(pairs, name, n, namespace, seed):
            if prompt.id in chosen:
                raise ParameterError(f"two buckets pick the record {prompt.id!r}; leave one of them out.")
            chosen[prompt.id] = prompt, record | {"bucket": name}
    return [chosen[key] for key in sorted(chosen)]


def proportional(pairs: Sequence[Pair], n: int, *, seed: int = 0) -> list[Pair]:
    """Return n pairs with the shares of the categories as in the whole set, sorted by id.

    quota_c = ⌊n_c · n / N⌋; what remains goes to the largest fractional parts, equal ones by name, the last in the alphabet
    first. Within a category pairs are shuffled by `random.Random(seed)`. Categories are those of the records, so that harmful
    and harmless requests of the study share one.

    Raises
    ------
    ParameterError
        If n is not from 1 to the number of pairs.
    """
    if not 0 < n <= len(pairs):
        raise ParameterError(f"{n} records cannot be drawn from {len(pairs)}; choose 1 to {len(pairs)}.")
    groups: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair[0].id):
        groups.setdefault(pair[1]["category"], []).append(pair)
    chosen = []
    for name, quota in quotas({name: len(group) for name, group in groups.items()}, n).items():
        random.Random(seed).shuffle(groups[name])
        chosen += groups[name][:quota]
    return sorted(chosen, key=lambda pair: pair[0].id)


def quotas(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Return how many of n fall to each group by largest remainder: quota = ⌊size · n / Σ sizes⌋, then one each."""
    total = sum(sizes.values())
    found = {name: size * n // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (sizes[name] * n % total, name), reverse=True)
    for name in by_remainder[: n - sum(found.values())]:
        found[name] += 1
    return found


def audit_plan(
    pairs: Sequence[Pair],
    conditions: Sequence[str],
    *,
    buckets: Sequence[str] = AUDIT,
    each: int = 30,
    overlap: int = 20,
    seed: int = CORE_SEED,
) -> list[dict]:
    """Return which reply of which condition people should read: one row a record, sorted by split, bucket and id.

    Of each bucket the first `each` records in the order of the namespace "human_audit:bucket"; the first `overlap` of them
    are for both raters ("overlap"), the others for one ("holdout"). Record i of bucket b is read under the condition
    (b + i) mod the number of conditions. A row names condition and expected behaviour: hide both from the raters.

    Raises
    ------
    ParameterError
        If a bucket is unknown or holds fewer than `each` records.
    """
    rows = []
    for b, name in enumerate(buckets):
        for i, (prompt, record) in enumerate(_first(pairs, name, each, f"human_audit:{name}", seed)):
            split = "overlap" if i < overlap else "holdout"
            where = {"audit_id": f"{split}_{name}_{i:02d}", "audit_split": split, "audit_bucket": name}
            what = {"record_id": prompt.id, "condition": conditions[(b + i) % len(conditions)]}
            rows.append(
                where | what | {key: record[key] for key in ("category", "source", "expected_behavior")}
            )
    return sorted(rows, key=lambda row: (row["audit_split"], row["audit_bucket"], row["audit_id"]))
