"""Folders of images that nobody has annotated."""

import os

import pytest

from distildet.data.folder import read_folder
from distildet.errors import DataError


@pytest.fixture
def images(tmp_path):
    """Folder with images, and with files that are none."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    names = ("b.jpg", "a.PNG", "sub/c.JPeG", "notes.txt", ".hidden/d.jpg", ".e.jpg")
    [(folder / name).write_bytes(b"") for name in names]
    return folder


def test_images_are_found_in_all_folders_in_order(images):
    dataset = read_folder(images)

    assert [sample.id for sample in dataset.samples] == ["a.PNG", "b.jpg", "sub/c.JPeG"]
    assert [sample.annotations for sample in dataset.samples] == [None, None, None]
    assert dataset.classes is None


def test_ids_are_relative_to_the_root(images):
    dataset = read_folder(images / "sub", root=images)

    assert [sample.id for sample in dataset.samples] == ["sub/c.JPeG"]


def test_loops_of_links_and_pipes_are_passed_over(images):
    (images / "sub" / "loop").symlink_to(images)
    (images / "self.jpg").symlink_to(images / "self.jpg")
    os.mkfifo(images / "pipe.jpg")

    assert len(read_folder(images)) == 3


def test_a_list_gives_images_and_order(images, tmp_path):
    (tmp_path / "list.txt").write_text("sub/c.JPeG\na.PNG\n")

    dataset = read_folder(images, listed=tmp_path / "list.txt")

    assert [sample.id for sample in dataset.samples] == ["sub/c.JPeG", "a.PNG"]


def test_the_first_five_missing_images_of_a_list_are_named(images, tmp_path):
    (tmp_path / "list.txt").write_text("a.PNG\n" + "".join(f"x{i}.jpg\n" for i in range(7)))

    with pytest.raises(DataError, match=r"missing \(7\): 'x0\.jpg'; .*'x4\.jpg' \.\.\.$"):
        read_folder(images, listed=tmp_path / "list.txt")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no image in this folder.*\.jpeg, \.jpg"):
        read_folder(tmp_path)


@pytest.mark.shared
def test_real_unlabeled_images_come_through_whole(shared_data):
    folder = shared_data / "fod"

    assert len(read_folder(folder / "images", listed=folder / "dark_unlabeled.txt")) == 778
