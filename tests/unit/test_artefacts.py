import os
import stat
import subprocess
import sys

import pytest

from distildet import artefacts
from distildet.errors import ConfigError, ResourceError

# sha256 of "abc", from FIPS 180-2, appendix B.1.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

KILLED_BETWEEN_THE_RENAMES = """
import os, sys
from pathlib import Path
from distildet import artefacts

done = 0

def kill_at_the_second_rename(event, arguments):
    global done
    if event == "os.rename":
        done += 1
        if done == 2:
            os._exit(9)

sys.addaudithook(kill_at_the_second_rename)
with artefacts.new_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("new")
"""


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Files


def test_a_file_is_written_with_its_folders(tmp_path):
    artefacts.write_bytes(tmp_path / "a" / "b" / "file", b"\x00\xff")

    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"\x00\xff"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_file_replaces_an_older_one(tmp_path):
    artefacts.write_text(tmp_path / "file", "old and longer")
    artefacts.write_text(tmp_path / "file", "neu: ä")

    assert (tmp_path / "file").read_bytes() == "neu: ä".encode()


def test_json_keeps_the_order_of_keys_and_ends_with_a_newline(tmp_path):
    artefacts.write_json(tmp_path / "file.json", {"b": 1, "a": [None, 0.5]})

    assert (tmp_path / "file.json").read_text() == ('{\n "b": 1,\n "a": [\n  null,\n  0.5\n ]\n}\n')


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artefacts.write_json(tmp_path / "file.json", {"a": float("nan")})

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_disk):
    artefacts.write_text(tmp_path / "file", "old")

    with (
        pytest.raises(ResourceError, match=r"/file: .*File too large; \d+ bytes are free"),
        small_disk(),
    ):
        artefacts.write_bytes(tmp_path / "file", bytes(2000))

    assert content(tmp_path) == {"file": "old"}


def test_a_full_device_is_named_when_text_is_appended(tmp_path):
    (tmp_path / "log").symlink_to("/dev/full")

    with pytest.raises(ResourceError, match=r"/log: .*No space left on device"):
        artefacts.append_text(tmp_path / "log", "line\n")


def test_text_is_appended_to_a_file_that_is_made_when_missing(tmp_path):
    artefacts.append_text(tmp_path / "a" / "log", "one\n")
    artefacts.append_text(tmp_path / "a" / "log", "zwölf\n")
    artefacts.flush_file(tmp_path / "a" / "log")

    assert (tmp_path / "a" / "log").read_text(encoding="utf-8") == "one\nzwölf\n"


def test_flushing_a_missing_file_does_nothing(tmp_path):
    artefacts.flush_file(tmp_path / "log")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: artefacts.write_bytes(path, b"new"),
        lambda path: artefacts.append_text(path, "new"),
        lambda path: artefacts.new_folder(path).__enter__(),
    ],
    ids=["write_bytes", "append_text", "new_folder"],
)
def test_a_place_below_a_file_is_refused_by_name(tmp_path, write):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigError, match=r"file/below: cannot be written .*Choose another place"):
        write(tmp_path / "file" / "below")

    assert content(tmp_path) == {"file": "mine"}


def test_a_folder_is_not_overwritten_by_a_file(tmp_path):
    (tmp_path / "folder").mkdir()

    with pytest.raises(ConfigError, match="folder: cannot be written"):
        artefacts.write_bytes(tmp_path / "folder", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"),
    [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775), (0o000, 0o664, 0o775)],
    indirect=["umask"],
)
def test_the_umask_holds_and_nothing_is_writable_for_everybody(
    tmp_path, umask, file_mode, folder_mode
):
    artefacts.write_bytes(tmp_path / "file", b"")
    with artefacts.new_folder(tmp_path / "folder") as folder:
        (folder / "inner").write_text("")

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file_mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder_mode
    assert stat.S_IMODE((tmp_path / "folder" / "inner").stat().st_mode) & 0o002 == 0


# Folders


def test_a_folder_gets_its_name_when_the_block_ends(tmp_path):
    with artefacts.new_folder(tmp_path / "a" / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        existed_before = (tmp_path / "a" / "folder").exists()

    assert not existed_before
    assert content(tmp_path) == {"a/folder/inner/file": "x"}


def test_a_folder_replaces_an_older_one_as_a_whole(tmp_path):
    for name in ("old", "new"):
        with artefacts.new_folder(tmp_path / "folder") as folder:
            (folder / name).write_text(name)

    assert content(tmp_path) == {"folder/new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    with artefacts.new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("old")

    with pytest.raises(error), artefacts.new_folder(tmp_path / "folder"):
        raise error

    assert content(tmp_path) == {"folder/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_in_the_block_leaves_the_old_folder_and_nothing_else(tmp_path, small_disk):
    with artefacts.new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("old")

    with (
        pytest.raises(ResourceError, match=r"/folder: the disk took no more") as raised,
        small_disk(),
        artefacts.new_folder(tmp_path / "folder") as folder,
    ):
        (folder / "file").write_bytes(bytes(2000))

    assert raised.value.exit_code == 3
    assert content(tmp_path) == {"folder/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_another_error_of_the_system_in_the_block_keeps_its_kind(tmp_path):
    with pytest.raises(FileNotFoundError), artefacts.new_folder(tmp_path / "folder"):
        (tmp_path / "missing").read_bytes()


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "name").write_text("mine")

    with (
        pytest.raises(ConfigError, match="name: cannot be written"),
        artefacts.new_folder(tmp_path / "name"),
    ):
        pass

    assert content(tmp_path) == {"name": "mine"}


def test_a_link_keeps_pointing_to_the_folder_that_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")

    with artefacts.new_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"


def replace_folder(folder):
    with artefacts.new_folder(folder) as temporary:
        (temporary / "newer").write_text("newer")


@pytest.mark.parametrize(
    ("go_on", "expected"),
    [
        (lambda folder: artefacts.remove_partial(folder.parent), {"folder/old": "old"}),
        (replace_folder, {"folder/newer": "newer"}),
    ],
    ids=["remove_partial", "new_folder"],
)
def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path, go_on, expected):
    folder = tmp_path / "runs" / "folder"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")

    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BETWEEN_THE_RENAMES, str(folder)], check=False
    )
    was_there = folder.exists()
    go_on(folder)
    artefacts.remove_partial(folder.parent)

    assert killed.returncode == 9
    assert not was_there
    assert content(tmp_path / "runs") == expected
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["folder"]


def test_a_folder_is_removed_with_what_an_earlier_removal_left(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / ".partial-folder" / "half").mkdir(parents=True)

    artefacts.remove_folder(tmp_path / "folder")

    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".partial-1").mkdir()
    (tmp_path / ".partial-1" / "file").write_text("x")
    (tmp_path / ".partial-2").write_text("x")
    (tmp_path / ".hidden").write_text("mine")
    (tmp_path / "partial").write_text("mine")

    artefacts.remove_partial(tmp_path)

    assert content(tmp_path) == {".hidden": "mine", "partial": "mine"}


def test_leftovers_of_a_missing_folder_are_none(tmp_path):
    artefacts.remove_partial(tmp_path / "missing")

    assert list(tmp_path.iterdir()) == []


# Fingerprints


def test_the_fingerprint_is_the_sha256_of_bytes_and_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")

    assert artefacts.fingerprint_bytes(b"abc") == ABC
    assert artefacts.fingerprint_file(tmp_path / "file") == ABC


def test_the_fingerprint_of_json_does_not_depend_on_the_order_of_keys():
    first = artefacts.fingerprint_json({"a": 1, "b": [1, 2]})

    assert first == artefacts.fingerprint_json({"b": [1, 2], "a": 1})
    assert first != artefacts.fingerprint_json({"b": [2, 1], "a": 1})
