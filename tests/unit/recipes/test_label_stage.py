"""Labeling with a real detector: bad images are set aside, everything else is stored."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from distildet.classes import ClassList
from distildet.data.folder import read_folder
from distildet.detectors.bundle import save_detector
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import DataError, GateError, StoreError
from distildet.recipes.label_stage import STORE, label_with, read_labels
from distildet.recipes.run_context import Teacher
from distildet.recipes.schema import LabelStage
from distildet.training.interruption import interruptible

CLASSES = ClassList(("car", "no"))


class Listener:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.messages = []
        self.counts = []

    def message(self, text):
        self.messages.append(text)

    def advance(self, work, done, total, values=None):
        self.counts.append((done, total))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    torch.manual_seed(0)
    detector = RetinaNet(
        CLASSES,
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        max_detections=5,
    )
    save_detector(detector, folder)
    return Teacher(folder)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    [
        Image.fromarray(value).save(tmp_path / "images" / f"{name}.png")
        for name, value in zip("abcd", values, strict=True)
    ]
    return tmp_path / "images"


@pytest.fixture
def label(teacher, images, tmp_path):
    def label_folder(progress=None, **options):
        with interruptible() as interruption:
            return label_with(
                teacher,
                read_folder(images).samples,
                CLASSES,
                tmp_path / "out" / STORE,
                batch_size=2,
                workers=0,
                device=torch.device("cpu"),
                interruption=interruption,
                progress=progress or Listener(),
                work="images",
                **options,
            )

    return label_folder


def test_one_bad_image_is_listed_told_and_left_out(label, images, tmp_path):
    (images / "b.png").write_bytes(b"<html>")
    progress = Listener()

    store = label(progress)

    assert sorted(read_labels(store, read_folder(images).samples)) == ["a.png", "c.png", "d.png"]
    listed = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert listed["file"] == "b.png"
    assert "HTML page" in listed["error"]
    assert progress.messages == [
        "Left out: 1 of 4 images, which cannot be labeled and are not trained on; "
        f"{tmp_path / 'out' / 'quarantine.jsonl'} lists them with the reasons."
    ]
    assert progress.counts[-1] == (4, 4)


def test_without_bad_images_nothing_is_told(label, images, tmp_path):
    progress = Listener()

    store = label(progress)

    assert len(read_labels(store, read_folder(images).samples)) == 4
    assert progress.messages == []
    assert not (tmp_path / "out" / "quarantine.jsonl").exists()


def test_more_bad_images_than_accepted_end_the_work(label, images):
    [(images / f"{name}.png").write_bytes(b"") for name in "ab"]

    with pytest.raises(GateError, match=r"quarantine\.jsonl: lists 2 of 4 images"):
        label(max_bad_fraction=0.25)


def test_bad_images_end_the_work_where_that_is_asked(label, images):
    (images / "b.png").write_bytes(b"")

    with pytest.raises(DataError, match=r"b\.png: the file is empty"):
        label(on_bad_image="error")


def test_a_store_without_its_bad_images_is_refused_where_none_are_accepted(label, images):
    (images / "b.png").write_bytes(b"")
    label()

    with pytest.raises(StoreError, match=r"quarantine\.jsonl: an earlier call put images"):
        label(on_bad_image="error")


def test_a_store_whose_list_was_deleted_is_refused(label, images, tmp_path):
    (images / "b.png").write_bytes(b"")
    store = label()
    (tmp_path / "out" / "quarantine.jsonl").unlink()

    with pytest.raises(StoreError, match=r"has no entry for 1 images such as 'b\.png'"):
        read_labels(store, read_folder(images).samples)


def test_a_shard_that_is_made_again_has_the_same_bytes(label, images):
    (images / "b.png").write_bytes(b"")
    store = label()
    shard = store.folder / "shards" / "shard-00000.parquet"
    expected = shard.read_bytes()
    shard.unlink()

    label()

    assert shard.read_bytes() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_bad_image": "skip"}, "'error' or 'quarantine'"),
        ({"max_bad_fraction": "2"}, "max_bad_fraction"),
        ({"max_bad_fraction": "-0.1"}, "max_bad_fraction"),
    ],
)
def test_a_stage_refuses_other_ways_with_bad_images(given, message):
    with pytest.raises(ValidationError, match=message):
        LabelStage.model_validate({"stage": "label", **given})


def test_a_stage_sets_one_image_in_a_hundred_aside_by_default():
    stage = LabelStage.model_validate({"stage": "label"})

    assert (stage.on_bad_image, stage.max_bad_fraction) == ("quarantine", 0.01)
