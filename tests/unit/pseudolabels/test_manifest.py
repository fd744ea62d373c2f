import json

import pytest

from distildet.classes import ClassList
from distildet.errors import StoreError
from distildet.pseudolabels.manifest import (
    describe_work,
    read_manifest,
    refuse_other_work,
    write_manifest,
)

CLASSES = ClassList(("cat", "dog"))


def work(settings=None, classes=CLASSES, sample_ids=("a", "b"), shard_size=2):
    return describe_work(
        {"teacher": "abc"} if settings is None else settings, classes, sample_ids, shard_size
    )


def damaged(folder, **changes):
    write_manifest(folder, work())
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_manifest_survives_the_file(tmp_path):
    manifest = work(settings={"sizes": (1, 2), "name": "häuser 🏠"})

    write_manifest(tmp_path, manifest)

    assert read_manifest(tmp_path) == manifest
    assert read_manifest(tmp_path).fingerprint == manifest.fingerprint


def test_manifest_is_one_json_file_for_a_reader_without_this_library(tmp_path):
    write_manifest(tmp_path, work())

    read = json.loads((tmp_path / "manifest.json").read_text())

    assert {name: read[name] for name in ("format", "settings", "classes", "num_images")} == {
        "format": 1,
        "settings": {"teacher": "abc"},
        "classes": ["cat", "dog"],
        "num_images": 2,
    }


@pytest.mark.parametrize(
    "other",
    [
        work(settings={"teacher": "xyz"}),
        work(classes=ClassList(("dog", "cat"))),
        work(sample_ids=("b", "a")),
        work(sample_ids=("a",)),
        work(shard_size=3),
    ],
)
def test_every_change_of_the_work_changes_its_fingerprint(other):
    assert other.fingerprint != work().fingerprint


def test_order_of_settings_does_not_matter(tmp_path):
    one, other = work({"a": 1, "b": 2}), work({"b": 2, "a": 1})

    refuse_other_work(tmp_path, one, other)

    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (work({"teacher": "xyz"}), "settings.teacher was 'abc' and is 'xyz'"),
        (work({"teacher": "abc", "tta": True}), "settings.tta was None and is True"),
        (work({}), "settings.teacher was 'abc' and is None"),
        (work(shard_size=3), "shard_size was 2 and is 3"),
        (work(sample_ids=("a",)), r"num_images was 2 and is 1; samples_fingerprint was"),
        (
            work(classes=ClassList(("dog", "cat"))),
            r"classes was \('cat', 'dog'\) and is \('dog', 'cat'\)",
        ),
    ],
)
def test_other_work_is_refused_with_the_old_and_the_new_value(other, told, tmp_path):
    with pytest.raises(StoreError, match=rf"set of images: {told}.*choose another folder"):
        refuse_other_work(tmp_path, work(), other)


NAMES = tuple(f"class number {place}" for place in range(80))


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("x", *NAMES[1:]), r"classes\[0\] was 'class number 0' and is 'x'"),
        ((*NAMES[:-1], "x"), r"classes\[79\] was 'class number 79' and is 'x'"),
        (NAMES[:-1], r"classes had 80 entries and has 79"),
    ],
)
def test_of_long_lists_the_first_difference_is_told(other, told, tmp_path):
    with pytest.raises(StoreError, match=rf"set of images: {told}\. Labels of two works"):
        refuse_other_work(tmp_path, work(classes=ClassList(NAMES)), work(classes=ClassList(other)))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"fusion": {}}, {}, "holds what several teachers have said together.* Name the others"),
        ({}, {"fusion": {}}, "holds what one teacher has said alone.* Name that teacher alone"),
    ],
)
def test_labels_of_one_and_of_several_are_told_apart_without_hashes(before, now, told, tmp_path):
    with pytest.raises(StoreError, match=told) as refused:
        refuse_other_work(tmp_path, work(before), work({**now, "teacher": "xyz"}))

    assert "xyz" not in str(refused.value)


@pytest.mark.parametrize("place", ["", "missing", "file.txt"])
def test_folder_without_manifest_is_no_store(place, tmp_path):
    (tmp_path / "file.txt").write_text("mine")

    with pytest.raises(StoreError, match=r"not a pseudo-label store.*distildet label"):
        read_manifest(tmp_path / place)


def test_manifest_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(StoreError, match=r"manifest\.json: cannot be read \(Is a directory\)"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": "1"}', b"{}"])
def test_file_that_is_no_manifest_is_refused(content, tmp_path):
    (tmp_path / "manifest.json").write_bytes(content)

    with pytest.raises(StoreError, match=r"manifest\.json: damaged.*Delete .* and label again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 0}, "format: "),
        ({"shard_size": 0}, "shard_size: "),
        ({"num_images": -1}, "num_images: "),
        ({"num_images": "2"}, "num_images: "),
        ({"classes": ["cat", 3]}, r"classes\.1: "),
        ({"settings": 3}, "settings: "),
        ({"threshold": 0.5}, "threshold: Extra"),
    ],
)
def test_damaged_value_is_refused_by_name(changes, told, tmp_path):
    with pytest.raises(StoreError, match=rf"damaged \({told}"):
        read_manifest(damaged(tmp_path, **changes))


def test_newer_format_is_refused_whatever_else_is_in_it(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": 2, "tables": []}')

    with pytest.raises(StoreError, match=r"store format 2 is newer .* \(1\)\. Update distildet"):
        read_manifest(tmp_path)
