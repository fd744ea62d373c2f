"""Sharing a batch out among streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distildet.recipes.streams import counts_by_stream


@pytest.mark.parametrize(
    ("ratios", "num_images", "counts"),
    [
        ({"labeled": 1.0}, 16, {"labeled": 16}),
        ({"labeled": 1.0, "unlabeled": 3.0}, 8, {"labeled": 2, "unlabeled": 6}),
        # 5 * 1/3 = 1.67 and 5 * 2/3 = 3.33: the fifth image goes to the larger remainder.
        ({"labeled": 1.0, "unlabeled": 2.0}, 5, {"labeled": 2, "unlabeled": 3}),
        # 1.5 each: of equal remainders the first.
        ({"unlabeled": 1.0, "labeled": 1.0}, 3, {"unlabeled": 2, "labeled": 1}),
        ({"labeled": 1e308, "unlabeled": 1e308}, 4, {"labeled": 2, "unlabeled": 2}),
        ({"labeled": 1e-300, "unlabeled": 1.0}, 4, {"labeled": 0, "unlabeled": 4}),
    ],
)
def test_the_batch_is_shared_by_largest_remainder(ratios, num_images, counts):
    assert counts_by_stream(ratios, num_images) == counts


@given(
    ratios=st.dictionaries(
        st.sampled_from(["labeled", "unlabeled", "all"]),
        st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        min_size=1,
    ),
    num_images=st.integers(1, 512),
)
def test_every_image_of_the_batch_is_given_to_a_stream(ratios, num_images):
    counts = counts_by_stream(ratios, num_images)

    assert sum(counts.values()) == num_images
    assert list(counts) == list(ratios)
    assert min(counts.values()) >= 0
