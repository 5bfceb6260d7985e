"""A planted fault, and how it is put into the text of its file."""

from dataclasses import asdict, dataclass


class Stale(ValueError):
    """The text that a mutant replaces is gone, occurs more than once, or leaves no Python; the message is one sentence."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    file: in the package, from `nbhelpers/`. old: exact text, in one line or several. new: what stands in its place. what:
    the fault in words. at: which occurrence of `old`, counted from 0; None if there is only one.
    """

    file: str
    old: str
    new: str
    what: str
    at: int | None = None

    @property
    def name(self) -> str:
        """Return the mutant's name, unique in the list."""
        return f"{self.file}: {self.what}"

    @property
    def record(self) -> dict:
        """Return the mutant as a dict that can be written as JSON."""
        return asdict(self)

    def planted(self, source: str) -> str:
        """Return the source with the fault; Stale if it cannot be planted."""
        parts = source.split(self.old)
        if len(parts) == 1:
            raise Stale(f"{self.name}: the text {self.old!r} is gone.")
        if self.at is None and len(parts) > 2:
            raise Stale(
                f"{self.name}: the text {self.old!r} occurs {len(parts) - 1} times; say which with `at`."
            )
        at = self.at or 0
        if at > len(parts) - 2:
            raise Stale(f"{self.name}: the text {self.old!r} occurs {len(parts) - 1} times, not {at + 1}.")
        found = self.old.join(parts[: at + 1]) + self.new + self.old.join(parts[at + 1 :])
        try:
            compile(found, self.file, "exec")
        except SyntaxError as error:
            raise Stale(f"{self.name}: what is planted is no Python ({error.msg}).") from None
        if found == source:
            raise Stale(f"{self.name}: old and new are the same.")
        return found
