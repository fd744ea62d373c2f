"""A computation that has room for a few images, against the same with room for all."""

import pytest
import torch

from distildet.errors import ResourceError
from distildet.ops.fitting import in_fitting_parts
from distildet.structures import ImageBatch

CPU = torch.device("cpu")
SAID = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    MemoryError(),
]


@pytest.fixture
def batch():
    sizes = torch.tensor([[8, 8]] * 5)
    return ImageBatch(
        pixels=torch.zeros(5, 3, 8, 16),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(5, 1, 1),
        image_ids=tuple("abcde"),
    )


@pytest.fixture
def seen():
    """The images of each part that was tried."""
    return []


@pytest.fixture
def with_room_for(seen):
    def make(largest, error=SAID[0]):
        def compute(part):
            seen.append("".join(part.image_ids))
            if len(part) > largest:
                raise error
            return "".join(part.image_ids)

        return in_fitting_parts(compute, CPU)

    return make


@pytest.mark.parametrize(
    ("largest", "tried", "values"),
    [
        (5, ["abcde"], ["abcde"]),
        (4, ["abcde", "ab", "cd", "e"], ["ab", "cd", "e"]),
        (2, ["abcde", "ab", "cd", "e"], ["ab", "cd", "e"]),
        (1, ["abcde", "ab", "a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
    ],
)
def test_a_batch_is_halved_until_it_fits(with_room_for, batch, seen, largest, tried, values):
    assert with_room_for(largest)(batch) == values
    assert seen == tried


def test_what_fitted_is_kept_for_the_next_batch(with_room_for, batch, seen):
    compute = with_room_for(2)
    compute(batch)
    seen.clear()

    compute(batch)

    assert seen == ["ab", "cd", "e"]


@pytest.mark.parametrize("error", SAID, ids=["cuda", "mps", "memory"])
def test_memory_too_small_for_one_image_is_named(with_room_for, batch, error):
    with pytest.raises(ResourceError, match="memory of cpu is too small for the image a at 8x16"):
        with_room_for(0, error)(batch)


def test_other_errors_pass(with_room_for, batch):
    with pytest.raises(RuntimeError, match="shapes differ"):
        with_room_for(0, RuntimeError("shapes differ"))(batch)


def test_a_batch_of_nothing_is_not_computed(with_room_for, batch, seen):
    assert with_room_for(5)(batch.part(0, 0)) == []
    assert seen == []
