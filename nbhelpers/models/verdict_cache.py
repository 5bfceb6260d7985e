"""What an endpoint answered, on disk in SQLite, so that no answer is paid for twice.

A row is one exchange: one request that was sent and the raw text that came back. Its key is a hash of all that decides the
answer (model, endpoint, rubric, messages, sampling, cap), so a changed reply or rubric never meets an old verdict. Rows are
written as they come, in a write-ahead log: what was answered before a kill is there afterwards. No API key is ever stored.
"""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import NamedTuple

_TABLES = """
CREATE TABLE IF NOT EXISTS exchange (
    key TEXT PRIMARY KEY, model TEXT, endpoint TEXT, task TEXT, rubric TEXT, slot TEXT, cap INTEGER,
    text TEXT, finish TEXT, tokens_in INTEGER, tokens_out INTEGER, seconds REAL, created TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS format (endpoint TEXT, model TEXT, plain INTEGER, PRIMARY KEY (endpoint, model));
"""
WAIT = 60  # seconds that a writer waits for another process


class CacheError(RuntimeError):
    """A cache that cannot be read or written; the message is one sentence."""


class Exchange(NamedTuple):
    """One answer of an endpoint: its raw text, why it ended ("stop", "length", …), tokens, seconds, and when it came."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    seconds: float
    created: str


class About(NamedTuple):
    """What a row says of its request beside the key."""

    model: str
    endpoint: str
    task: str
    rubric: str
    slot: str
    cap: int


def key_of(about: About, messages: list[dict], sampling: dict) -> str:
    """Return the key of a request: SHA-256 of everything that decides its answer, in hexadecimal."""
    parts = json.dumps([*about, messages, sampling], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


class VerdictCache:
    """The exchanges in one SQLite file, which several processes may use at once; `close` ends it.

    Raises CacheError, one sentence that names the file, if it is no such file or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False, isolation_level=None)
            self._run("PRAGMA journal_mode=WAL")
            self._run("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from None

    def _error(self, error: Exception) -> CacheError:
        return CacheError(
            f"{self.path} cannot be used as cache of verdicts ({error}); move it away or free some room."
        )

    def _run(self, statement: str, values: tuple = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._error(error) from None

    def get(self, key: str) -> Exchange | None:
        """Return the exchange of a key, None if there is none."""
        query = "SELECT text, finish, tokens_in, tokens_out, seconds, created FROM exchange WHERE key = ?"
        row = self._run(query, (key,)).fetchone()
        return Exchange(*row) if row else None

    def put(self, key: str, about: About, exchange: Exchange) -> None:
        """Keep an exchange; the first of a key stays."""
        marks = ", ".join("?" * 13)
        self._run(f"INSERT OR IGNORE INTO exchange VALUES ({marks})", (key, *about, *exchange))

    def plain(self, endpoint: str, model: str) -> bool | None:
        """Return whether an endpoint must be asked without a JSON schema, None if that is not known yet."""
        row = self._run(
            "SELECT plain FROM format WHERE endpoint = ? AND model = ?", (endpoint, model)
        ).fetchone()
        return bool(row[0]) if row else None

    def remember_plain(self, endpoint: str, model: str, plain: bool) -> None:
        """Keep whether an endpoint must be asked without a JSON schema."""
        self._run("INSERT OR REPLACE INTO format VALUES (?, ?, ?)", (endpoint, model, int(plain)))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
