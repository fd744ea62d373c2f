"""A teacher without weights returns what was stored, and refuses all else."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.fcos import FCOS
from distildet.errors import MissingPartError
from distildet.pseudolabels.cached_teacher import CachedTeacher
from distildet.pseudolabels.dense_codes import encode_dense, layout_of
from distildet.pseudolabels.dense_store import DenseStore
from distildet.structures import DENSE, LOSSES, ImageBatch

CLASSES = ClassList(("cat", "dog"))
VIEWS = ("s/0/a.jpg", "s/0/b.jpg")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return FCOS(
        CLASSES,
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        head_norm="none",
    ).eval()


@pytest.fixture(scope="module")
def batch():
    size = torch.tensor([[32, 32]] * 2)
    return ImageBatch(
        pixels=torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        sizes=size,
        image_sizes=size,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        image_ids=("a.jpg", "b.jpg"),
        view_ids=VIEWS,
    )


@pytest.fixture
def teacher(detector, batch, tmp_path):
    store = DenseStore.create_or_resume(
        tmp_path, settings={}, classes=CLASSES, view_ids=VIEWS, shard_size=lambda: 2
    )
    with torch.no_grad():
        dense = detector(batch, want={DENSE}).dense
    store.write_layout(layout_of(dense, 0))
    store.write_shard(0, encode_dense(dense, batch.image_ids))
    return CachedTeacher(detector.spec, store)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_it_says_the_same_where_networks_compute_in_half_precision(teacher, batch, precision):
    expected = teacher(batch, want={DENSE}).dense.logits

    with torch.autocast("cpu", dtype=precision):
        found = teacher(batch, want={DENSE}).dense.logits

    assert all(map(torch.equal, found, expected))


def test_it_says_what_the_detector_says_of_the_images_of_a_part(teacher, detector, batch):
    part = batch.part(1, 2)
    with torch.no_grad():
        live = detector(part, want={DENSE}).dense

    read = teacher(part, want={DENSE}).dense

    assert read.activation == live.activation
    assert all(torch.equal(a, b) for a, b in zip(read.priors, live.priors, strict=True))
    for name in ("logits", "box_codes", "quality_logits"):
        for one, other in zip(getattr(read, name), getattr(live, name), strict=True):
            # Halves have 11 bits.
            torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-6)


def test_nothing_wanted_is_nothing_read(teacher, batch):
    assert teacher(batch, want=()).dense is None


def test_it_has_the_facts_of_the_detector_but_one_part(teacher, detector):
    assert teacher.spec.parts == {DENSE}
    assert (teacher.spec.family, teacher.spec.classes) == ("fcos", detector.spec.classes)


def test_parts_that_are_not_stored_are_refused(teacher, batch):
    with pytest.raises(MissingPartError, match=r"cannot return losses\. It has: dense"):
        teacher(batch, want={DENSE, LOSSES})


def test_it_has_nothing_to_train_or_move(teacher):
    assert list(teacher.state_dict()) == []
    assert teacher.backbone_parameters() == []
    assert teacher.class_layers() == ()
