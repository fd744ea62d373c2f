"""Stored predictions are those of the teacher itself."""

import shutil

import pytest
import torch

from distildet.detectors.retinanet import RetinaNet
from distildet.losses.adaptive import Adaptive
from distildet.structures import DENSE


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_the_loss_of_every_batch_is_that_of_the_teacher_itself(
    cached, batches, context, teachers, family, new_student
):
    live = teachers[family].detector.eval()
    stored = cached()
    student = new_student(type(live))
    loss = Adaptive(student.spec, stored.spec)

    with torch.no_grad():
        pairs = [
            [
                loss(student(batch, want={DENSE}), guide(batch, want={DENSE}), batch, targets)
                for guide in (stored, live)
            ]
            for batch, targets in batches
        ]

    values = torch.tensor([[one["classification"] for one in pair] for pair in pairs])
    assert (values[:, 1] > 1e-3).all()
    # Halves round each logit by at most 2**-11 of itself, and the loss goes with its third power.
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=3 * 2**-11, atol=0)


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_every_number_is_that_of_the_teacher_itself_as_a_half(cached, batches, teachers, family):
    live = teachers[family].detector.eval()
    stored = cached()

    for batch, _ in batches:
        with torch.no_grad():
            wanted = live(batch, want={DENSE}).dense
        read = stored(batch, want={DENSE}).dense
        assert all(torch.equal(a, b) for a, b in zip(read.priors, wanted.priors, strict=True))
        for name in ("logits", "box_codes"):
            for one, other in zip(getattr(read, name), getattr(wanted, name), strict=True):
                torch.testing.assert_close(one, other, rtol=2**-11, atol=1e-5)


def test_a_loss_from_a_few_logits_is_near_that_from_all(
    cached, batches, context, stage_folder, new_student
):
    batch, targets = batches[0]
    student = new_student(RetinaNet)
    whole = cached()
    full = whole(batch, want={DENSE})
    shutil.rmtree(stage_folder)
    part = cached(top_k=400)(batch, want={DENSE})
    loss = Adaptive(student.spec, whole.spec, gamma=0.0, beta=0.0)

    with torch.no_grad():
        own = student(batch, want={DENSE})
        near, exact = (loss(own, guide, batch, targets) for guide in (part, full))

    assert near["classification"] == pytest.approx(float(exact["classification"]), rel=0.2)
