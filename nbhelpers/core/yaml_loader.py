"""YAML as people type it: 1e-2 is a number, 12:30 and 2026-01-31 are text; what is ambiguous or endless is refused."""

import re

import yaml

DEEPEST = 20  # levels of nesting
NUMBER = r"[0-9][0-9_]*"
PLAIN = {
    "int": r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+",
    "float": rf"[-+]?({NUMBER}\.[0-9_]*|\.{NUMBER}|{NUMBER}(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def _refused(problem: str, place) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with plain numbers; it refuses keys given twice, aliases, tags and deep nesting."""

    depth = 0
    yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in known if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent, index):
        """Return the next node; YAMLError for an alias, which could unfold without end, a tag and deep nesting."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias (*name) is not read here; write the value out", event)
        if getattr(event, "tag", None):
            raise _refused(f"the tag {event.tag} is not read here; leave it out", event)
        if self.depth >= DEEPEST:
            raise _refused(f"values are nested more than {DEEPEST} levels deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        """Return a mapping; YAMLError for a key that is given twice."""
        found = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in found:
                raise _refused(f"the key {key.value!r} is given twice; remove one", key)
            found.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper for `Loader`: it quotes a text that either `Loader` or PyYAML would take for anything else."""

    def ignore_aliases(self, data):
        """Return True: a value that occurs twice is written twice, since `Loader` refuses aliases."""
        return True


for _class in (Loader, Dumper):
    for _name, _form in PLAIN.items():
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_form})$"), "-+.0123456789"
        )
