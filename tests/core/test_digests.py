"""Digests are computed once a file, and what is kept of them is believed only as far as it proves itself."""

import builtins
import hashlib
import os
import time

import pytest

from nbhelpers import experiments
from nbhelpers.core import digests, params


@pytest.fixture
def opened(monkeypatch):
    """Return the paths of the files that are opened by `open` from here on."""
    found, genuine = [], builtins.open

    def noting(path, *args, **kwargs):
        found.append(os.fspath(path) if not isinstance(path, int) else path)
        return genuine(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", noting)
    return found


@pytest.fixture
def later(monkeypatch):
    """Let files seem older than the time within which a change might go unseen."""
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 10 * digests.FRESH)


def plain(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path, folder, opened):
    """Return the digest of a file and whether the file was read for it."""
    opened.clear()
    return digests.sha256(path, folder), str(path) in opened


def test_a_file_is_read_once(tmp_path, opened, later):
    path, folder = tmp_path / "weights", tmp_path / "kept"
    path.write_bytes(b"weights" * 1000)
    assert digests.kept(path, folder) is None
    assert read(path, folder, opened) == (plain(path), True)
    assert read(path, folder, opened) == (plain(path), False)
    assert digests.kept(path, folder) == plain(path)
    assert digests.sha256(path) == plain(path) and str(path) in opened  # nothing is kept unless asked for


def test_a_second_hash_of_a_run_reads_no_weights(project, opened, later):
    first = experiments.resolve("exp90", model="ann").hash
    assert any("model.safetensors" in str(name) for name in opened)
    opened.clear()
    assert experiments.resolve("exp90", model="ann").hash == first
    assert not any("model.safetensors" in str(name) for name in opened)


def test_the_digest_of_files_is_the_same_with_and_without_keeping(tmp_path, monkeypatch, later):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    for name in "ab":
        (tmp_path / name).write_text(name)
    paths = [tmp_path / name for name in "ab"]
    slow = hashlib.sha256(b"".join(f"{p.name}\0".encode() + bytes.fromhex(plain(p)) for p in paths))
    for _ in range(2):
        assert params.files_hash(paths) == params.files_hash(paths, keep=True) == slow.hexdigest()[:12]


def rewritten(path):
    path.write_bytes(b"WEIGHTS" * 1000)


def rewritten_with_its_time_set_back(path):
    before = path.stat()
    path.write_bytes(b"WEIGHTS" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_in_its_place(path):
    path.with_name("other").write_bytes(b"WEIGHTS" * 1000)
    os.replace(path.with_name("other"), path)


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    "change", [rewritten, rewritten_with_its_time_set_back, another_in_its_place, longer]
)
def test_a_changed_file_is_read_again(tmp_path, later, change):
    path, folder = tmp_path / "weights", tmp_path / "kept"
    path.write_bytes(b"weights" * 1000)
    digests.sha256(path, folder)
    time.sleep(0.02)  # a tick of the file system's clock
    change(path)
    assert digests.sha256(path, folder) == plain(path)


def test_a_file_just_written_is_not_kept(tmp_path):
    path, folder = tmp_path / "weights", tmp_path / "kept"
    path.write_bytes(b"weights")
    digests.sha256(path, folder)
    assert digests.kept(path, folder) is None


def test_a_link_stands_for_the_file_that_it_points_to_now(tmp_path, opened, later):
    folder, link = tmp_path / "kept", tmp_path / "link"
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link.symlink_to("one")
    assert digests.sha256(link, folder) == plain(tmp_path / "one")
    assert read(tmp_path / "one", folder, opened) == (plain(tmp_path / "one"), False)
    link.unlink()
    link.symlink_to("two")
    assert digests.sha256(link, folder) == plain(tmp_path / "two")


SPOILT = {
    "empty": lambda text, other: "",
    "garbage": lambda text, other: "garbage",
    "cut": lambda text, other: text[:-3],
    "another digest": lambda text, other: text.replace(text.split('"')[-2], "0" * 64),
    "another file's": lambda text, other: other,
    "not ASCII": lambda text, other: text + "é",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_entry_is_ignored_and_written_anew(tmp_path, later, spoil):
    path, folder, second = tmp_path / "weights", tmp_path / "kept", tmp_path / "other"
    second.write_text("other")
    digests.sha256(second, folder)
    (other,) = folder.iterdir()
    path.write_text("weights")
    digests.sha256(path, folder)
    (entry,) = set(folder.iterdir()) - {other}
    whole = entry.read_text()
    entry.write_text(spoil(whole, other.read_text()))
    assert digests.kept(path, folder) is None
    assert digests.sha256(path, folder) == plain(path) and entry.read_text() == whole


def test_a_disk_that_takes_nothing_only_costs_time(tmp_path, later):
    path, folder = tmp_path / "weights", tmp_path / "kept"
    path.write_text("weights")
    folder.write_text("a file where the folder should be")
    assert digests.sha256(path, folder) == plain(path) == digests.sha256(path, folder)
