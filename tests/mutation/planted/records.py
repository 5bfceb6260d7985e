"""Faults in evaluation records, in the draws from them, and in what becomes of public benchmarks."""

# ruff: noqa: E501
from tests.mutation.mutant import Mutant as M

RECORDS, DRAWS, IFEVAL, BENCHMARKS = (
    "models/evaluation_records.py",
    "models/evaluation.py",
    "models/ifeval.py",
    "models/benchmarks.py",
)

MUTANTS = [
    M(RECORDS, 'return record.get("expected_behavior") or inner', 'return inner or record.get("expected_behavior")', "the metadata of the older file count"),
    M(RECORDS, 'found["text"] = wrapped(message) if safety else', 'found["text"] =', "harmless requests have no wrapper"),
    M(RECORDS, 'expected_behavior: Literal["comply", "comply_safely", "refuse"]', 'expected_behavior: Literal["comply", "comply_safely", "refuse"] = "comply"', "a request without a behaviour is harmless"),
    M(RECORDS, 'if record["question_type"] == "multi_choice" and', "if", "a fact whose alias is one letter has that for its answer"),
    M(DRAWS, '"safety_all" if name == "safety" else name', "name", "the namespace of safety is its name"),
    M(DRAWS, '{seed}::{namespace}::{name}', '{seed}:{namespace}:{name}', "another text is hashed"),
    M(DRAWS, "if prompt.id in chosen:", "if False:", "two buckets pick one record"),
    M(DRAWS, "conditions[(b + i) % len(conditions)]", "conditions[i % len(conditions)]", "every bucket starts at the first condition"),
    M(DRAWS, "sizes[name] * n % total, name), reverse=True)", "sizes[name] * n % total, name))", "the smallest fractions are rounded up"),
    M(DRAWS, "for pair in sorted(pairs, key=lambda pair: pair[0].id):", "for pair in pairs:", "the draw depends on the order of the file"),
    M(IFEVAL, "kept = kept or found", "kept = found or kept", "the last instruction is the criterion"),
    M(IFEVAL, "if found and wins:", "if wins:", "an ending that is not named wins"),
    M(IFEVAL, 'word in relation for word in ("most", "fewer", "less")', 'word in relation for word in ("most", "fewer")', "less than is at least"),
    M(BENCHMARKS, 'if row["label"] == "safe"', "if True", "unsafe requests count as harmless"),
    M(BENCHMARKS, 'first.setdefault(row["prompt"], row)', 'first[row["prompt"]] = row', "a prompt that comes twice is the second"),
    M(BENCHMARKS, 'rpartition("####")[2]', 'partition("####")[0]', "the answer is the working"),
    M(BENCHMARKS, "random.Random(SEED).shuffle(order)", "pass", "rows stand as in the file"),
]  # fmt: skip
