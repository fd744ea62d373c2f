"""Folders of images that nobody has annotated."""

import os
from pathlib import Path

import pytest
from PIL import Image

from distildet.data.decode import decode_image
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


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jp2", "JPEG2000"),
        (".j2k", "JPEG2000"),
        (".jfif", "JPEG"),
        (".jpe", "JPEG"),
        (".apng", "PNG"),
        (".avifs", "AVIF"),
    ],
)
def test_rare_endings_are_those_of_images_too(tmp_path, suffix, kind):
    Image.new("RGB", (16, 8)).save(tmp_path / f"a{suffix}", kind)

    assert [decode_image(sample.path).shape for sample in read_folder(tmp_path).samples] == [
        (3, 8, 16)
    ]


def test_ids_are_relative_to_the_root(images):
    dataset = read_folder(images / "sub", root=images)

    assert [sample.id for sample in dataset.samples] == ["sub/c.JPeG"]


def test_loops_of_links_and_pipes_are_passed_over(images):
    (images / "sub" / "loop").symlink_to(images)
    (images / "self.jpg").symlink_to(images / "self.jpg")
    os.mkfifo(images / "pipe.jpg")

    dataset = read_folder(images)

    assert len(dataset) == 3
    assert dataset.notes == (f"{images}: 2 pipes, devices or broken links: 'pipe.jpg', 'self.jpg'",)


def test_of_many_pipes_the_first_five_are_named(images):
    [os.mkfifo(images / f"{i}.jpg") for i in range(7)]

    assert read_folder(images).notes == (
        f"{images}: 7 pipes, devices or broken links: "
        "'0.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg' ...",
    )


def test_images_of_several_frames_are_noted(images):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(images / "f.gif", save_all=True, append_images=frames[1:])

    assert read_folder(images).notes == (
        f"{images}: all frames or pages but the first of 1 images: 'f.gif'",
    )


def test_a_folder_that_cannot_be_read_is_named(images, monkeypatch):
    # Longer than a path may be, which also stops somebody who may read everything.
    monkeypatch.chdir(images)
    for _ in range(20):
        Path("x" * 250).mkdir()
        monkeypatch.chdir("x" * 250)

    with pytest.raises(DataError, match=r"xxx: the folder cannot be read \(File name too long\)"):
        read_folder(images)


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
