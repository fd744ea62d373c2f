"""The list of images that cannot be labeled: its content, its order, its limit."""

import hashlib
import json
import os

import pytest

from distildet.data.dataset import Sample
from distildet.errors import GateError, ResourceError, StoreError
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine

NAMES = ("a.jpg", "b.jpg", "c.jpg", "x\n\udcff.jpg")


@pytest.fixture
def make(tmp_path):
    """Make a list of four images, of which only b.jpg is there."""
    (tmp_path / "b.jpg").write_bytes(b"damaged")
    samples = [Sample(id=name, path=tmp_path / name) for name in NAMES]

    def make_quarantine(max_bad_fraction=1.0):
        return Quarantine(tmp_path / QUARANTINE, samples, max_bad_fraction=max_bad_fraction)

    return make_quarantine


def test_a_list_takes_over_what_others_have_and_says_whose_fault_it_is(make):
    first, second = make(), make()
    first.add("b.jpg", "teacher", "b.jpg: not finite.")
    second.add("a.jpg", "decode", "a.jpg: damaged.")
    second.add("b.jpg", "teacher", "b.jpg: not processed.")
    quarantine = make()

    quarantine.take_over(first, "teachers[0]")
    quarantine.take_over(second, "teachers[1]")
    quarantine.write()

    lines = [json.loads(line) for line in quarantine.path.read_text().splitlines()]
    assert [(line["file"], line["stage"], line["error"]) for line in lines] == [
        ("a.jpg", "decode", "a.jpg: damaged."),
        (
            "b.jpg",
            "teacher",
            "teachers[0]: b.jpg: not finite. teachers[1]: b.jpg: not processed.",
        ),
    ]


def test_an_image_that_nobody_can_decode_has_one_reason(make):
    other = make()
    other.add("b.jpg", "decode", "b.jpg: damaged.")
    quarantine = make()

    quarantine.take_over(other, "teachers[0]")
    quarantine.take_over(other, "teachers[1]")
    quarantine.write()

    assert json.loads(quarantine.path.read_text())["error"] == "b.jpg: damaged."


def test_a_line_has_file_stage_error_size_and_hash(make):
    quarantine = make()
    quarantine.add("b.jpg", "decode", "b.jpg: the image is damaged.")

    quarantine.write()

    assert json.loads(quarantine.path.read_text()) == {
        "file": "b.jpg",
        "stage": "decode",
        "error": "b.jpg: the image is damaged.",
        "bytes": 7,
        "sha256": hashlib.sha256(b"damaged").hexdigest(),
    }


def test_the_order_of_the_work_decides_not_that_of_finding(make):
    first, second = make(), make()
    [first.add(name, "decode", "gone") for name in NAMES]
    first.write()
    content = first.path.read_bytes()
    [second.add(name, "decode", "gone") for name in reversed(NAMES)]

    second.write()

    assert second.path.read_bytes() == content
    assert len(content.splitlines()) == 4


def test_what_was_written_is_read_again(make):
    quarantine = make()
    [quarantine.add(name, "decode", "gone") for name in NAMES[1:]]
    quarantine.write()

    again = make()

    assert [name in again for name in NAMES] == [False, True, True, True]
    assert len(again) == 3


def test_lines_of_other_work_do_not_count(make, tmp_path):
    quarantine = make()
    quarantine.add("b.jpg", "decode", "damaged")
    quarantine.write()

    assert len(Quarantine(tmp_path / QUARANTINE, [], max_bad_fraction=0.0)) == 0


def test_without_bad_images_there_is_no_file(make):
    quarantine = make()

    quarantine.write()

    assert not quarantine.path.exists()


def test_a_list_that_becomes_empty_is_taken_away(make):
    quarantine = make()
    quarantine.add("b.jpg", "decode", "damaged")
    quarantine.write()
    quarantine.forget(["b.jpg", "c.jpg"])

    quarantine.write()

    assert not quarantine.path.exists()


def test_mended_and_lost_files_are_told_others_are_not(make, tmp_path):
    (tmp_path / "c.jpg").write_bytes(b"damaged")
    quarantine = make()
    [quarantine.add(name, "decode", "damaged") for name in NAMES[:3]]
    (tmp_path / "a.jpg").write_bytes(b"mended")
    (tmp_path / "c.jpg").write_bytes(b"mendedd")

    assert quarantine.mended() == {"a.jpg", "c.jpg"}


def test_a_pipe_is_listed_without_waiting_for_it(make, tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    quarantine = make()

    quarantine.add("a.jpg", "decode", "a pipe")
    quarantine.write()

    assert json.loads(quarantine.path.read_text())["bytes"] is None


@pytest.mark.parametrize(
    ("fraction", "num_bad"), [(0.0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (0.5, 2), (1.0, 4)]
)
def test_the_accepted_number_is_the_share_rounded_up(make, fraction, num_bad):
    quarantine = make(max_bad_fraction=fraction)
    [quarantine.add(name, "decode", "gone") for name in NAMES[:num_bad]]

    quarantine.raise_if_too_many()


@pytest.mark.parametrize(("fraction", "num_bad"), [(0.0, 1), (0.01, 2), (0.25, 2), (0.5, 3)])
def test_one_more_is_refused_naming_the_list(make, fraction, num_bad):
    quarantine = make(max_bad_fraction=fraction)
    [quarantine.add(name, "decode", "gone") for name in NAMES[:num_bad]]

    with pytest.raises(
        GateError,
        match=rf"quarantine\.jsonl: lists {num_bad} of 4 images.* Accepted are {num_bad - 1} ",
    ):
        quarantine.raise_if_too_many()


def test_a_share_that_is_not_exact_in_binary_is_not_rounded_up(tmp_path):
    # 0.07 * 100 is 7.000000000000001
    samples = [Sample(id=str(i), path=tmp_path / str(i)) for i in range(100)]
    quarantine = Quarantine(tmp_path / QUARANTINE, samples, max_bad_fraction=0.07)
    [quarantine.add(str(i), "decode", "gone") for i in range(8)]

    with pytest.raises(GateError, match=r"lists 8 of 100 images .* Accepted are 7 "):
        quarantine.raise_if_too_many()


@pytest.mark.parametrize("content", [b"[]\n", b"{}\n", b"{", b"\xff\n"])
def test_a_file_that_is_no_such_list_is_refused(make, tmp_path, content):
    (tmp_path / QUARANTINE).write_bytes(content)

    with pytest.raises(StoreError, match=r"quarantine\.jsonl: no list of images .* label again"):
        make()


def test_a_full_disk_leaves_the_older_list(make, small_disk):
    quarantine = make()
    quarantine.add("b.jpg", "decode", "damaged")
    quarantine.write()
    before = quarantine.path.read_bytes()
    quarantine.add("a.jpg", "decode", "x" * 2000)

    with small_disk(), pytest.raises(ResourceError, match="the disk took no more"):
        quarantine.write()

    assert quarantine.path.read_bytes() == before
