"""Predictions come back from their stored form as halves hold them, and top_k as documented."""

import math

import pytest
import torch

from distildet.errors import ConfigError, DataError
from distildet.pseudolabels.dense_codes import decode_dense, encode_dense, layout_of
from distildet.structures import DensePrediction

# Two levels of 3 and 1 priors.
PRIORS = (torch.arange(12.0).reshape(3, 4), torch.tensor([[0.5, 1.0, 1.5, 2.0]]))


def dense_of(*images, quality=True, activation="sigmoid"):
    """Predictions of two classes; an image is given by the eight logits of its four priors."""
    logits = torch.tensor(images).reshape(-1, 4, 2)
    codes = torch.arange(16.0).reshape(1, 4, 4).repeat(len(images), 1, 1)
    centred = torch.tensor([[0.25, 0.5, 0.75, 1.0]]).repeat(len(images), 1)
    return DensePrediction(
        logits=(logits[:, :3], logits[:, 3:]),
        box_codes=(codes[:, :3], codes[:, 3:]),
        priors=PRIORS,
        activation=activation,
        quality_logits=(centred[:, :3], centred[:, 3:]) if quality else None,
    )


A = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)
B = (4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0)


def stored_and_read(dense, top_k=0):
    stored = encode_dense(dense, ["a", "b"][: len(dense.logits[0])], top_k=top_k)
    return decode_dense(stored, layout_of(dense, top_k))


def test_numbers_that_halves_hold_come_back_exactly():
    dense = dense_of(A, B)

    read = stored_and_read(dense)

    for part in ("logits", "box_codes", "quality_logits", "priors"):
        for before, after in zip(getattr(dense, part), getattr(read, part), strict=True):
            assert torch.equal(before, after)
            assert after.dtype == torch.float32
    assert read.activation == "sigmoid"


def test_other_numbers_are_rounded_to_halves():
    # Halves have 11 bits: near 0.1 they lie 2**-14 apart.
    read = stored_and_read(dense_of((0.1,) * 8))

    assert read.logits[0][0, 0, 0] == pytest.approx(0.1, abs=2**-15)


def test_numbers_beyond_the_largest_half_become_it():
    read = stored_and_read(dense_of((1e6, -1e6, *A[:6])))

    assert read.logits[0][0, 0].tolist() == [65504.0, -65504.0]


def test_a_head_without_quality_has_none():
    assert stored_and_read(dense_of(A, quality=False)).quality_logits is None


def test_the_largest_logits_are_kept_at_their_places():
    read = stored_and_read(dense_of(A, B), top_k=3)

    # Of A the last three: class 1 of prior 2 and both classes of prior 3, in the second level.
    assert read.logits[0][0, 2, 1] == 2
    assert read.logits[1][0, 0].tolist() == [3, 4]
    assert read.logits[0][1].flatten()[:3].tolist() == [4, 3, 2]


def test_all_other_logits_are_that_of_their_mean_probability():
    read = stored_and_read(dense_of((0.0, 0.0, 0.0, 0.0, math.log(3), math.log(3), 5.0, 6.0)), 2)

    # Sigmoids of the six others: 4 x 1/2 and 2 x 3/4, mean 7/12; its logit is log(7/5).
    assert read.logits[0].flatten().tolist() == pytest.approx([math.log(7 / 5)] * 6)


def test_boxes_and_quality_are_kept_where_a_logit_is():
    read = stored_and_read(dense_of(A), top_k=3)

    assert read.box_codes[0][0].tolist() == [[0] * 4, [0] * 4, [8, 9, 10, 11]]
    assert read.box_codes[1][0].tolist() == [[12, 13, 14, 15]]
    assert read.quality_logits[0][0].tolist() == [0, 0, 0.75]


def test_a_floor_of_probability_zero_stays_finite():
    read = stored_and_read(dense_of((-1e4,) * 7 + (0.0,)), top_k=1)

    assert all(level.isfinite().all() for level in read.logits)


def test_a_floor_of_probability_one_stays_finite():
    read = stored_and_read(dense_of((100.0,) * 8), top_k=1)

    assert all(level.isfinite().all() for level in read.logits)


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_floor_of_millions_of_logits_is_that_of_a_sum_of_doubles(spread):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 40_000, 80, generator=generator) * spread - 8
    dense = DensePrediction(
        logits=(logits,),
        box_codes=(torch.zeros(1, 40_000, 4),),
        priors=(torch.zeros(40_000, 4),),
        activation="sigmoid",
    )

    floor = encode_dense(dense, ["a"], top_k=1)["floor"]

    probs = logits.double().sigmoid().flatten().sort().values
    expected = (probs[:-1].sum() / (len(probs) - 1)).logit()
    assert float(floor) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("top_k", [8, 9])
def test_as_many_as_there_are_keeps_all(top_k):
    dense = dense_of(A, B)

    read = stored_and_read(dense, top_k=top_k)

    assert torch.equal(torch.cat(read.logits, 1), torch.cat(dense.logits, 1))
    assert torch.equal(torch.cat(read.box_codes, 1), torch.cat(dense.box_codes, 1))


@pytest.mark.parametrize(
    ("top_k", "quality", "expected"),
    [
        (0, True, 4 * (2 + 4 + 1) * 2),  # of four priors seven halves each
        (0, False, 4 * (2 + 4) * 2),
        (3, True, 3 * (2 + 4 + 5 * 2) + 4),  # a logit, its index, five codes; the floor
        (99, True, 8 * (2 + 4 + 5 * 2) + 4),
    ],
)
def test_the_size_is_that_of_the_tensors(top_k, quality, expected):
    dense = dense_of(A, quality=quality)

    stored = encode_dense(dense, ["a"], top_k=top_k)

    assert sum(tensor.nbytes for tensor in stored.values()) == expected
    assert layout_of(dense, top_k).view_bytes == expected


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused_by_image(number):
    with pytest.raises(DataError, match=r"b: the teacher returned logits that are not finite"):
        encode_dense(dense_of(A, (number, *B[1:])), ["a", "b"])


def test_a_part_of_a_softmax_is_refused():
    with pytest.raises(ConfigError, match=r"teacher_cache\.top_k is 5.* Accepted: 0"):
        layout_of(dense_of(A, activation="softmax"), 5)


def test_a_whole_softmax_is_stored():
    assert stored_and_read(dense_of(A, activation="softmax")).activation == "softmax"
