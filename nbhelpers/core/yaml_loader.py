"""YAML as people type it: 1e-2 is a number, 12:30 and 2026-01-31 are text; what is ambiguous or endless is refused."""

import re

import yaml

DEEPEST = 20  # levels of nesting
PLAIN = {
    "int": r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+",
    "float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}


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
            raise _refusal("an alias (*name) is not read here; write the value out", event)
        if getattr(event, "tag", None):
            raise _refusal(f"the tag {event.tag} is not read here; leave it out", event)
        if self.depth >= DEEPEST:
            raise _refusal(f"values are nested more than {DEEPEST} levels deep", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        """Return a mapping; YAMLError for a key that is given twice."""
        found = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in found:
                raise _refusal(f"the key {key.value!r} is given twice; remove one", key)
            found.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


def _refusal(problem: str, place) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


for _name, _form in PLAIN.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_form})$"), "-+.0123456789")
