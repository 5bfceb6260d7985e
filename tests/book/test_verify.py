"""`nbh verify`: a whole supplement passes; a flipped byte, a missing or extra file, and a changed number are each noticed."""

import shutil
import zipfile

import pytest

from nbhelpers.book import archive, verify
from nbhelpers.core import params, store
from tests import supplements
from tests.supplements import DATA


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a supplement and the folder that it was unpacked into, elsewhere."""
    folder = tmp_path_factory.mktemp("supplement")
    with pytest.MonkeyPatch.context() as monkeypatch:
        supplements.project(folder / "project", monkeypatch)
        path, _ = archive.write("pocket")
        with zipfile.ZipFile(path) as file:
            file.extractall(folder / "elsewhere")
        yield path, folder / "elsewhere"


@pytest.fixture
def zipped(written, tmp_path):
    """Return the path of a supplement, to be spoilt."""
    return shutil.copy(written[0], tmp_path / "supplement.zip")


@pytest.fixture
def unpacked(written, tmp_path):
    """Return the folder of a supplement that was unpacked elsewhere, to be spoilt."""
    return shutil.copytree(written[1], tmp_path / "elsewhere")


def flip(path, at=0.5):
    """Change one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[int(at * (len(raw) - 1))] ^= 1
    path.write_bytes(raw)


@pytest.mark.slow
def test_a_supplement_unpacked_elsewhere_is_whole_and_measured_again(unpacked, zipped):
    for report in (verify.verify(unpacked), verify.verify(zipped, share=0.001)):
        assert report.problems == report.skipped == []
        again = [line.split(",")[0] for line in report.checked if line.startswith("measured again")]
        assert again == [f"measured again: {DATA}/{key}.nc" for key in ("exp00", "exp09")]


@pytest.mark.slow
def test_texts_are_written_again_where_the_capture_was_left_out(unpacked):
    name = f"{DATA}/exp00.nc"
    (unpacked / name).unlink()
    sums = unpacked / archive.SUMS
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if name not in line))
    report = verify.verify(unpacked)
    assert report.problems == [] and "texts written again" in report.checked[-1]


def test_damaged_missing_and_extra_files_are_named(unpacked):
    flip(unpacked / "params/profiles/pocket.yml")
    (unpacked / "html/index.html").unlink()
    (unpacked / "html/more.html").write_text("more")
    report = verify.verify(unpacked, share=0)
    assert report.problems == [
        "html/index.html is missing.",
        f"params/profiles/pocket.yml is damaged: its checksum is not the one in {archive.SUMS}.",
        f"html/more.html is extra: {archive.SUMS} does not list it.",
    ]


@pytest.mark.parametrize(
    "name", [f"{DATA}/exp09.nc", f"{DATA}/tuned_lens_pt.safetensors", archive.CRATE, "LICENSE"]
)
def test_one_flipped_byte_is_noticed_in_the_folder(unpacked, name):
    flip(unpacked / name)
    assert (
        f"{name} is damaged: its checksum is not the one in {archive.SUMS}."
        in verify.verify(unpacked, share=0).problems
    )


def test_a_flipped_byte_of_the_zip_names_the_file_that_it_hits(zipped):
    with zipfile.ZipFile(zipped) as file:
        info = file.getinfo(f"{DATA}/exp00.nc")
    raw = bytearray(zipped.read_bytes())
    raw[info.header_offset + 500_000] ^= 1
    zipped.write_bytes(raw)
    assert (
        f"{DATA}/exp00.nc is damaged: its checksum is not the one in {archive.SUMS}."
        in verify.verify(zipped, share=0).problems
    )


def test_a_dataset_that_lacks_a_variable_is_named(unpacked):
    name = f"{DATA}/exp09.nc"
    shutil.copy(unpacked / f"{DATA}/exp07_0g.nc", unpacked / name)
    supplements.repair(unpacked, name)
    assert verify.verify(unpacked, share=0).problems == [f"{name} holds exp07_0g, not exp09."]


@pytest.mark.slow
@pytest.mark.parametrize(
    "in_capture, in_profile",
    [
        (("entropy", lambda values: values + 0.01), ("kl_final_layer", lambda values: values * 1.01)),
        # PT and IT have changed places.
        (("top1", lambda values: values + 1), ("kl_layer_final", lambda values: values[::-1])),
    ],
)
def test_changed_numbers_whose_checksums_are_repaired_are_noticed_by_measuring(
    unpacked, in_capture, in_profile
):
    supplements.change(unpacked, "exp00", *in_capture)
    supplements.change(unpacked, "exp09", *in_profile)
    assert verify.verify(unpacked, share=0).problems == []
    problems = verify.verify(unpacked).problems
    said = "does not hold what its model computes"
    assert [line.partition(":")[0] for line in problems] == [
        f"{DATA}/{key}.nc {said}" for key in ("exp00", "exp09")
    ]


def test_missing_weights_are_named_and_skipped(unpacked, tmp_path, monkeypatch):
    (tmp_path / "params").symlink_to(params.ROOT / "params")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    report = verify.verify(unpacked)
    assert report.problems == []
    assert len(report.skipped) == 2 and all("pocket/checkpoints/llama/pt" in line for line in report.skipped)


def test_what_is_no_supplement_is_said_in_one_sentence(tmp_path, unpacked):
    (tmp_path / "text.zip").write_text("no zip")
    (unpacked / archive.SUMS).unlink()
    for path, sentence in [(tmp_path / "none.zip", "there is no file or folder"), (tmp_path / "text.zip", "is no zip"),
                           (unpacked, f"no readable {archive.SUMS}")]:  # fmt: skip
        with pytest.raises(store.ResultError, match=sentence):
            verify.verify(path)


def test_the_command_prints_the_problems_and_its_status_says_whether_there_are_any(zipped, unpacked, run_cli):
    status, out, _ = run_cli("verify", zipped, "--share", "0")
    assert status == 0 and "the supplement is whole" in out
    (unpacked / "LICENSE").unlink()
    status, out, _ = run_cli("verify", unpacked, "--share", "0")
    assert status == 1 and "✘ LICENSE is missing." in out and "1 problem" in out
