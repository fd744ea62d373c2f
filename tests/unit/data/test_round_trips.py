"""What is written is read again: boxes within 1e-4 px, labels equal, order kept."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distildet.classes import ClassList
from distildet.data.annotated import read_annotated
from distildet.data.image_file import MAX_PIXELS
from distildet.data.image_record import image_records
from distildet.data.written import write_annotations
from distildet.pseudolabels.export import stored_records
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections

CLASSES = ClassList(("cat", "dog", "whole"))
NAMES = ("a.png", "b/c.d.png")
PLACES = {"coco": "labels.json", "voc": "Annotations", "yolo": "data.yaml"}
TOLERANCE = 1e-4
LONGEST_SIDE = 20_000
SHORTEST_BOX = 1e-2

# Each example is flushed to the disk.
few_examples = settings(max_examples=8)
# The far corner of the widest and of the highest image, where rounding moves a box most.
FAR = 20_000 - 2 / 3
LARGE = (
    ((6000, 20_000), [(2, (0, 0, 20_000, 6000)), (0, (FAR, 1 / 3, FAR + 0.01, 1 / 3 + 0.01))]),
    ((20_000, 6000), [(2, (0, 0, 6000, 20_000)), (1, (1 / 3, FAR, 1 / 3 + 0.01, FAR + 0.01))]),
)


def png_of(size):
    """Return a PNG that claims a size and has no pixels: only headers are read here."""
    height, width = size
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def spans(side):
    """Draw where a box begins and ends along a side of its image."""
    return (
        st.floats(SHORTEST_BOX, side)
        .flatmap(lambda length: st.tuples(st.floats(0, side - length), st.just(length)))
        .map(lambda span: (span[0], min(span[0] + span[1], side)))
    )


def drawings(size):
    """Draw boxes with labels; the first is the whole image.

    Without it, a file with tiny boxes alone would be taken for one of fractions.
    """
    height, width = size
    box = st.tuples(st.integers(0, 1), spans(width), spans(height)).map(
        lambda drawn: (drawn[0], (drawn[1][0], drawn[2][0], drawn[1][1], drawn[2][1]))
    )
    # A box that is written twice is read once.
    others = st.lists(box, max_size=5, unique_by=lambda drawn: np.round(drawn[1], 1).tobytes())
    return others.map(lambda drawn: (size, [(2, (0.0, 0.0, width, height)), *drawn]))


sizes = st.integers(1, LONGEST_SIDE).flatmap(
    lambda height: st.tuples(
        st.just(height), st.integers(1, min(LONGEST_SIDE, MAX_PIXELS // height))
    )
)
two_images = st.tuples(sizes.flatmap(drawings), sizes.flatmap(drawings))


def read_again(folder, name, images):
    """Read what was written into a folder, once the images are laid there."""
    for image_name, (size, _) in zip(NAMES, images, strict=True):
        path = folder / "images" / image_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_of(size))
    return read_annotated(name, folder / "images", folder / PLACES[name], strict=True)


def assert_same(dataset, records):
    """Compare names, order, labels by name, and boxes."""
    assert [sample.id for sample in dataset.samples] == [record.name for record in records]
    for sample, record in zip(dataset.samples, records, strict=True):
        read = sample.annotations
        assert [dataset.classes[i] for i in read.labels] == [CLASSES[i] for i in record.labels]
        np.testing.assert_allclose(read.boxes, record.boxes, rtol=0, atol=TOLERANCE)
        assert read.crowd.tolist() == record.crowd.tolist()


@few_examples
@given(images=two_images)
@example(images=LARGE)
@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_boxes_of_humans_come_back(name, images, record_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name) / "set"
    records = [
        record_of(image_name, [box for _, box in drawn], [label for label, _ in drawn], size=size)
        for image_name, (size, drawn) in zip(NAMES, images, strict=True)
    ]

    write_annotations(name, folder, records, CLASSES)

    assert_same(read_again(folder, name, images), records)


@few_examples
@given(images=two_images)
@example(images=LARGE)
@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_boxes_of_a_store_come_back(name, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp(name)
    store = PseudoLabelStore.create_or_resume(
        folder / "store", settings={}, classes=CLASSES, sample_ids=NAMES, shard_size=2
    )
    labels = {
        image_name: StoredLabels(
            detections=Detections(
                boxes=torch.tensor([box for _, box in drawn], dtype=torch.float32),
                scores=torch.linspace(1, 0, len(drawn)),
                labels=torch.tensor([label for label, _ in drawn]),
            ),
            image_size=size,
        )
        for image_name, (size, drawn) in zip(NAMES, images, strict=True)
    }
    store.write_shard(0, labels)

    records = stored_records(store.read(), CLASSES)
    write_annotations(name, folder / "set", records, CLASSES)

    assert_same(read_again(folder / "set", name, images), records)
    for record, (_, drawn) in zip(records, images, strict=True):
        # What the store rounds: half a step of float32 at 20,000.
        np.testing.assert_allclose(record.boxes, [box for _, box in drawn], rtol=0, atol=1e-3)


@few_examples
@given(images=two_images)
@example(images=LARGE)
@pytest.mark.parametrize("route", [("coco", "voc", "yolo"), ("yolo", "coco"), ("voc", "coco")])
def test_boxes_come_through_several_formats(route, images, record_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("route")
    first = [
        record_of(image_name, [box for _, box in drawn], [label for label, _ in drawn], size=size)
        for image_name, (size, drawn) in zip(NAMES, images, strict=True)
    ]

    records, classes, dataset = first, CLASSES, None
    for name in route:
        write_annotations(name, folder / name, records, classes)
        dataset = read_again(folder / name, name, images)
        records, classes = image_records(dataset, folder / name / "images")

    assert_same(dataset, first)


def contents(folder):
    """Return the bytes of the files that hold boxes."""
    paths = [*folder.rglob("*.xml"), *folder.rglob("*.txt")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@few_examples
@given(images=two_images)
@example(images=LARGE)
def test_files_do_not_change_between_voc_and_yolo(images, record_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("route")
    records, classes = (
        [
            record_of(image_name, [box for _, box in drawn], [label for label, _ in drawn], size=s)
            for image_name, (s, drawn) in zip(NAMES, images, strict=True)
        ],
        CLASSES,
    )

    for place in ("voc", "yolo", "voc-again/voc", "yolo-again/yolo"):
        name = Path(place).name
        write_annotations(name, folder / place, records, classes)
        dataset = read_again(folder / place, name, images)
        records, classes = image_records(dataset, folder / place / "images")

    assert contents(folder / "voc-again" / "voc") == contents(folder / "voc")
    assert contents(folder / "yolo-again" / "yolo") == contents(folder / "yolo")


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_crowd_regions_come_back(name, record_of, tmp_path):
    records = [
        record_of("a.png", [(0, 0, 5, 5), (0, 0, 9, 9)], [0, 1], crowd=[False, True]),
        record_of("b/c.d.png", [(0, 0, 4, 4)], [2], crowd=[True]),
    ]

    write_annotations(name, tmp_path / "set", records, CLASSES)

    assert_same(read_again(tmp_path / "set", name, [((10, 20), ()), ((10, 20), ())]), records)


def test_areas_come_back_from_coco(record_of, tmp_path):
    records = [
        record_of("a.png", [(0, 0, 5, 5), (0, 0, 9, 9)], [0, 1], areas=[12.5, 80]),
        record_of("b/c.d.png"),
    ]

    write_annotations("coco", tmp_path / "set", records, CLASSES)

    dataset = read_again(tmp_path / "set", "coco", [((10, 20), ()), ((10, 20), ())])
    assert [sample.annotations.areas.tolist() for sample in dataset.samples] == [[12.5, 80], []]
