"""Folders that are replaced only while nobody has changed them."""

import os

import pytest

from distildet.data.faults import Faults
from distildet.data.owned_folder import STAMP, note_unwritable, refuse_others, write_folder
from distildet.errors import ConfigError, DataError, ResourceError

FILES = (("data.yaml", b"names"), ("labels/sub/a.txt", b"0 1"))


def content_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_files_are_written_with_their_folders(tmp_path):
    write_folder(tmp_path / "out", FILES)

    written = content_of(tmp_path / "out")
    assert written.pop(STAMP)
    assert written == dict(FILES)


def test_a_second_call_replaces_what_the_first_wrote(tmp_path):
    write_folder(tmp_path / "out", FILES)

    write_folder(tmp_path / "out", [("data.yaml", b"other")])

    written = content_of(tmp_path / "out")
    assert written.keys() == {STAMP, "data.yaml"}
    assert written["data.yaml"] == b"other"


def test_an_empty_folder_is_written_to(tmp_path):
    (tmp_path / "out").mkdir()

    write_folder(tmp_path / "out", FILES)

    assert (tmp_path / "out" / "data.yaml").read_bytes() == b"names"


def test_files_that_were_moved_away_do_not_hinder(tmp_path):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / "labels").rename(tmp_path / "labels")

    write_folder(tmp_path / "out", FILES)

    assert (tmp_path / "out" / "labels" / "sub" / "a.txt").exists()


def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(ConfigError, match=r"has 'mine.txt', which distildet did not write there"):
        write_folder(tmp_path / "out", FILES)

    assert content_of(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("name", ["mine.txt", "labels/sub/b.txt", ".hidden"])
def test_a_file_that_was_laid_beside_is_not_lost(tmp_path, name):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / name).write_text("mine")

    with pytest.raises(ConfigError, match=f"has '{name}', which distildet did not write there"):
        write_folder(tmp_path / "out", FILES)

    assert (tmp_path / "out" / name).read_text() == "mine"


def test_files_that_stay_as_they_are_are_read_once(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", FILES)
    refuse_others(tmp_path / "out")

    monkeypatch.delattr("hashlib.file_digest")

    write_folder(tmp_path / "out", [("data.yaml", b"other")])
    assert (tmp_path / "out" / "data.yaml").read_bytes() == b"other"


def test_a_file_that_was_corrected_after_a_check_is_not_lost(tmp_path):
    write_folder(tmp_path / "out", FILES)
    refuse_others(tmp_path / "out")
    (tmp_path / "out" / "labels" / "sub" / "a.txt").write_text("0 20")

    with pytest.raises(ConfigError, match=r"'labels/sub/a.txt' was changed after distildet wrote"):
        write_folder(tmp_path / "out", FILES)


def test_a_file_that_was_corrected_by_hand_is_not_lost(tmp_path):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / "labels" / "sub" / "a.txt").write_text("0 2")

    with pytest.raises(ConfigError, match=r"'labels/sub/a.txt' was changed after distildet wrote"):
        write_folder(tmp_path / "out", FILES)

    assert (tmp_path / "out" / "labels" / "sub" / "a.txt").read_text() == "0 2"


def test_a_pipe_in_the_place_of_a_file_is_told_without_reading_it(tmp_path):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / "data.yaml").unlink()
    os.mkfifo(tmp_path / "out" / "data.yaml")

    with pytest.raises(ConfigError, match=r"'data\.yaml' was changed"):
        refuse_others(tmp_path / "out")


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / "images").symlink_to(tmp_path)

    with pytest.raises(ConfigError, match="has 'images', which"):
        refuse_others(tmp_path / "out")


def test_a_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")

    with pytest.raises(ConfigError, match="a file has this name"):
        write_folder(tmp_path / "out", FILES)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', '{"files": ["a"]}'])
def test_a_damaged_stamp_is_refused(tmp_path, text):
    write_folder(tmp_path / "out", FILES)
    (tmp_path / "out" / STAMP).write_text(text)

    with pytest.raises(ConfigError, match="the list of what distildet wrote there cannot be read"):
        refuse_others(tmp_path / "out")


def test_a_full_disk_leaves_the_older_folder_whole(tmp_path, small_disk):
    write_folder(tmp_path / "out", FILES)
    before = content_of(tmp_path / "out")

    with small_disk(), pytest.raises(ResourceError, match="the disk took no more"):
        write_folder(tmp_path / "out", [("data.yaml", bytes(2000))])

    assert content_of(tmp_path) == {f"out/{name}": content for name, content in before.items()}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("l/a.txt", "a.jpg"), ("l/a.txt", "a.png")], r"share a file.*'a\.jpg', 'a\.png'"),
        ([("l/a.txt", "a.jpg"), ("l/a.txt/b.txt", "a.txt/b.jpg")], r"'a\.jpg', 'a\.txt/b\.jpg'"),
        ([("l/a.txt/b.txt", "a.txt/b.jpg"), ("l/a.txt", "a.jpg")], r"'a\.jpg', 'a\.txt/b\.jpg'"),
        ([("l/../../a.txt", "../../a.jpg")], r"must stay inside their folder.*'\.\./\.\./a\.jpg'"),
        ([(f"l/{'ä' * 126}.txt", "ä.jpg")], r"255 bytes in all.*'ä\.jpg'"),
    ],
)
def test_images_that_can_have_no_file_are_named(tmp_path, pairs, message):
    faults = Faults(tmp_path)

    note_unwritable(pairs, faults)

    with pytest.raises(DataError, match=message):
        faults.raise_if_any()


def test_one_stem_in_two_folders_is_no_fault(tmp_path):
    faults = Faults(tmp_path)

    note_unwritable([("l/x/a.txt", "x/a.jpg"), ("l/y/a.txt", "y/a.jpg")], faults)

    faults.raise_if_any()
