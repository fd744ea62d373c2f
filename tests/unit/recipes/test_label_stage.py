"""Labeling with a real detector: bad images are set aside, everything else is stored."""

import json
import shutil

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
from distildet.recipes.label_stage import label_with, read_labels, run_label_stage
from distildet.recipes.load import load_recipe
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import load_run_data
from distildet.recipes.run_folder import STORE
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
    # Untrained scores lie below its floor.
    torch.nn.init.constant_(detector.head.classification_head.cls_logits.bias, 0.0)
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
                device=torch.device("cpu"),
                interruption=interruption,
                progress=progress or Listener(),
                work="images",
                **{"batch_size": 2, "workers": 0, **options},
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


def test_labels_of_two_precisions_are_never_mixed(label):
    label(precision="bf16")

    with pytest.raises(StoreError, match=r"settings\.precision was 'bf16' and is 'fp16'"):
        label(precision="fp16")
    with pytest.raises(StoreError, match=r"settings\.precision was 'bf16' and is 'fp32'"):
        label()


def test_labels_of_fp32_keep_the_fingerprint_of_stores_without_a_precision(label, tmp_path):
    label()

    manifest = json.loads((tmp_path / "out" / STORE / "manifest.json").read_text())
    assert "precision" not in manifest["settings"]
    with pytest.raises(StoreError, match=r"settings\.precision was 'fp32' and is 'bf16'"):
        label(precision="bf16")


def test_the_teacher_computes_in_the_precision(label, teacher):
    types = set()

    handle = teacher.detector.neck.register_forward_hook(
        lambda module, args, maps: types.update(one.dtype for one in maps.values())
    )
    label(precision="bf16")
    handle.remove()

    assert types == {torch.bfloat16}


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


RECIPE = """
name: label
data:
  image_size: 32
  workers: 0
  unlabeled: [{{format: folder, images: images}}]
teachers: [{{detector: {teacher}}}]
student: {{detector: retinanet, backbone: test_efficientnet, pretrained: false}}
stages:
  - {{stage: label, images: unlabeled, threshold: 0.0, ignore_floor: 0.0, fallback_threshold: 0.0}}
  - {{stage: train, images: {{unlabeled: 1}}, steps: 1, batch_size: 1, optimizer: {{lr: 1e-3}}}}
"""


@pytest.fixture
def run_stage(teacher, images, tmp_path):
    """Run the label stage of a seed; return what was told."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(teacher=teacher.name))
    recipe = load_recipe(tmp_path / "recipe.yaml", ())

    def run_seed(seed):
        progress = Listener()
        with interruptible() as interruption:
            context = RunContext(
                recipe=recipe,
                data=load_run_data(recipe.data),
                classes=CLASSES,
                out=tmp_path / "run",
                device=torch.device("cpu"),
                interruption=interruption,
                progress=progress,
                teachers=(teacher,),
            )
            folder = tmp_path / "run" / f"seed-{seed}" / "01-label"
            run_label_stage(context, recipe.stages[0], folder)
        return folder, progress

    return run_seed


def test_a_stage_leaves_bad_images_out_and_says_so(run_stage, images):
    (images / "b.png").write_bytes(b"")

    folder, progress = run_stage(0)

    assert (folder / "quarantine.jsonl").read_text().count("\n") == 1
    assert progress.messages[0].startswith("Left out: 1 of 4 images")
    assert progress.messages[1].startswith("Pseudo labels: 15 boxes on 3 of 3 images")
    assert json.loads((folder / "DONE").read_text())["images"] == 3


def test_another_seed_takes_the_list_with_the_store(run_stage, images):
    (images / "b.png").write_bytes(b"")
    first, _ = run_stage(0)

    second, progress = run_stage(1)

    assert (second / "quarantine.jsonl").read_bytes() == (first / "quarantine.jsonl").read_bytes()
    assert progress.counts == []
    assert progress.messages[0].startswith("Left out: 1 of 4 images")


def test_an_image_for_which_the_teacher_computes_nan_is_set_aside(images, label, teacher, tmp_path):
    bias = teacher.detector.head.classification_head.cls_logits.bias
    before = bias.detach().clone()
    torch.nn.init.constant_(bias, float("nan"))

    with pytest.raises(GateError, match=r"quarantine"):
        label(Listener())

    torch.nn.init.zeros_(bias)
    bias.data.copy_(before)
    listed = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in listed] == ["teacher"] * 4


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_label_to_the_bytes_of_one(label, images, in_processes, tmp_path, workers):
    (images / "b.png").write_bytes(b"")
    Image.new("RGB", (40, 20), "red").save(images / "e.png")
    Image.new("RGB", (20, 40), "blue").save(images / "f.png")
    label(shard_size=4)
    (tmp_path / "out").rename(tmp_path / "one")

    def label_in_process():
        label(shard_size=4, workers=workers)

    assert in_processes(label_in_process) == [None, None]
    listed = "quarantine.jsonl"
    assert (tmp_path / "out" / listed).read_text() == (tmp_path / "one" / listed).read_text()
    assert content_of(tmp_path / "out") == content_of(tmp_path / "one")


def test_two_processes_run_a_stage_together(run_stage, images, in_processes):
    (images / "b.png").write_bytes(b"")
    expected, _ = run_stage(0)
    one = content_of(expected)
    shutil.rmtree(expected.parent)

    results = in_processes(lambda: (run_stage(0)[1].messages, run_stage(0)[1].messages))

    assert content_of(expected) == one
    assert [again for _, again in results] == [[], []]


def test_a_stage_that_finds_nothing_ends_all_processes(run_stage, teacher, in_processes):
    bias = teacher.detector.head.classification_head.cls_logits.bias
    before = bias.detach().clone()
    torch.nn.init.constant_(bias, -20.0)

    results = in_processes(lambda: run_stage(0))

    bias.data.copy_(before)
    assert [type(error) for error in results] == [DataError] * 2
    assert "no box at or above the thresholds" in str(results[1])
