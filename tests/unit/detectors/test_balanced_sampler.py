import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from distildet.detectors.balanced_sampler import BalancedSampler, image_generators
from distildet.ops.draws import with_step_seed
from distildet.structures import BACKGROUND, LEFT_OUT


def matched(*, foreground, background, left_out):
    return torch.tensor([3] * foreground + [BACKGROUND] * background + [LEFT_OUT] * left_out)


@pytest.mark.parametrize("number", [0, 1, 7, 16, 500])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("foreground", "background"), [(0, 0), (0, 30), (3, 30), (30, 3)])
def test_it_draws_as_many_of_each_kind_as_torchvision(number, share, foreground, background):
    of_boxes = matched(foreground=foreground, background=background, left_out=4)
    labels = torch.tensor([1] * foreground + [0] * background + [-1] * 4)
    positives, negatives = BalancedPositiveNegativeSampler(number, share)([labels])

    drawn = BalancedSampler(number=number, foreground_share=share)(of_boxes, torch.Generator())

    assert [len(one) for one in drawn] == [int(positives[0].sum()), int(negatives[0].sum())]
    assert (of_boxes[drawn[0]] >= 0).all()
    assert (of_boxes[drawn[1]] == BACKGROUND).all()
    assert all(one.unique().equal(one) for one in drawn)


@pytest.mark.parametrize(
    ("number", "share", "there_are", "drawn"),
    [(16, 0.25, 9, 4), (16, 0.25, 3, 3), (7, 0.5, 9, 3), (16, 0.0, 9, 0), (16, 0.25, 0, 0)],
)
def test_of_what_is_left_out_at_most_as_many_are_drawn_as_foreground(
    number, share, there_are, drawn
):
    of_boxes = matched(foreground=20, background=20, left_out=there_are)

    found = BalancedSampler(number=number, foreground_share=share).left_out(
        of_boxes, torch.Generator()
    )

    assert len(found.unique()) == len(found) == drawn
    assert (of_boxes[found] == LEFT_OUT).all()


def test_every_background_anchor_is_drawn_equally_often():
    of_boxes = matched(foreground=0, background=10, left_out=5)
    sampler = BalancedSampler(number=5, foreground_share=0.5)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(15)

    for _ in range(2000):
        counts[sampler(of_boxes, generator)[1]] += 1

    # Each of 10 with probability 1/2: 1000 +- 22 (standard deviation).
    assert counts[10:].tolist() == [0.0] * 5
    assert counts[:10].sub(1000).abs().max() < 5 * 22.4


def draws(image_ids):
    torch.manual_seed(7)
    return [torch.rand(2, generator=one).tolist() for one in image_generators(image_ids)]


def test_what_is_drawn_for_an_image_does_not_depend_on_the_others():
    whole = draws(["a", "b", "c", "d\udce9"])

    assert draws(["a", "b"]) + draws(["c", "d\udce9"]) == whole
    assert len({tuple(one) for one in whole}) == 4


def test_what_is_drawn_in_a_step_does_not_depend_on_draws_before():
    with with_step_seed(5):
        (first,) = image_generators(["a"])
        torch.rand(3)
        (again,) = image_generators(["a"])

    assert torch.rand(1, generator=first) == torch.rand(1, generator=again)


def test_another_step_draws_anew():
    torch.manual_seed(7)
    first, second = image_generators(["a"]), image_generators(["a"])

    assert torch.rand(1, generator=first[0]) != torch.rand(1, generator=second[0])
