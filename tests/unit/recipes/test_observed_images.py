"""The objects that losses look at beforehand: a fixed choice, in images as they are."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.loader import Stream, TrainingSample
from distildet.errors import DataError
from distildet.losses.base import Preparation
from distildet.ops.processes import rank
from distildet.recipes import observed_images
from distildet.recipes.observed_images import ObservedViews, observed_draws
from distildet.structures import Targets

IDS = [f"{letter}.png" for letter in "abcdefgh"]
# Labels of the objects of each image: eight of class 0, four of class 1, one of class 2.
LABELS = [[0, 1], [0, 0], [1, 0], [], [0, 0, 2], [1], [0], [0, 1]]


def make_sample(folder, name, labels, origin="human"):
    """Return an image whose i-th object has the corner (i, i), weight 1 / (i + 1) and size 10."""
    corners = torch.arange(len(labels), dtype=torch.float32)[:, None].expand(-1, 2)
    targets = Targets(
        boxes=torch.cat([corners, corners + 10], dim=1),
        labels=torch.tensor(labels, dtype=torch.int64),
        weights=1 / (torch.arange(len(labels)) + 1),
        ignore=torch.tensor([[0.0, 0.0, 5.0, 5.0]]),
        known_classes=torch.ones(3, dtype=torch.bool),
        origin=origin,
    )
    return TrainingSample(sample=Sample(id=name, path=folder / name), targets=targets)


def preparation(objects=0, least_side=0.0, images=0):
    return Preparation(
        parts=frozenset({"features.neck"}),
        objects=objects,
        every=1.0,
        least_side=least_side,
        images=images,
    )


@pytest.fixture
def samples(tmp_path):
    return [make_sample(tmp_path, *pair) for pair in zip(IDS, LABELS, strict=True)]


@pytest.fixture
def choose(samples):
    """Choose from all samples, or from some streams."""

    def run(*streams, objects=3, seed=0, stage="01-train"):
        named = [
            Stream(name=f"s{place}", samples=tuple(of_stream))
            for place, of_stream in enumerate(streams or [samples])
        ]
        return observed_draws(named, [preparation(objects)], seed=seed, stage=stage)

    return run


def described(draws):
    """Return by image the classes and left sides of its observed objects."""
    return [
        (
            draw.training_sample.sample.id,
            draw.training_sample.targets.labels.tolist(),
            draw.training_sample.targets.boxes[:, 0].tolist(),
        )
        for draw in draws
    ]


@pytest.mark.parametrize(
    ("objects", "counts"),
    [
        (1, {0: 1, 1: 1, 2: 1}),
        (3, {0: 3, 1: 3, 2: 1}),
        (4, {0: 4, 1: 4, 2: 1}),
        (100, {0: 8, 1: 4, 2: 1}),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_as_many_objects_of_each_class_are_observed_as_are_wanted_or_there(
    choose, objects, counts, seed
):
    draws = choose(objects=objects, seed=seed)

    observed = [label for _, labels, _ in described(draws) for label in labels]
    assert Counter(observed) == counts


def test_what_is_observed_are_the_first_objects_of_each_class_in_the_order_of_the_images(choose):
    everything = described(choose(objects=100, seed=4))

    counts, expected = Counter(), []
    for name, labels, lefts in everything:
        kept = []
        for label, left in zip(labels, lefts, strict=True):
            counts[label] += 1
            if counts[label] <= 2:
                kept.append((label, left))
        if kept:
            expected.append((name, [label for label, _ in kept], [left for _, left in kept]))
    assert described(choose(objects=2, seed=4)) == expected
    assert len(expected) < len(everything)


def test_boxes_labels_and_weights_are_reduced_together_and_all_else_stays(choose, samples):
    of_image = {one.sample.id: one.targets for one in samples}

    for draw in choose(objects=2):
        found, whole = draw.training_sample.targets, of_image[draw.training_sample.sample.id]
        places = found.boxes[:, 0].long()  # the i-th object begins at i
        torch.testing.assert_close(found.boxes, whole.boxes[places], rtol=0, atol=0)
        torch.testing.assert_close(found.labels, whole.labels[places], rtol=0, atol=0)
        torch.testing.assert_close(found.weights, whole.weights[places], rtol=0, atol=0)
        assert found.ignore is whole.ignore
        assert found.known_classes is whole.known_classes


def test_the_choice_depends_on_seed_and_stage_alone(choose, samples):
    first = described(choose())
    torch.manual_seed(99)

    assert described(choose()) == first
    assert described(choose(samples[::-1])) == first
    assert described(choose(seed=1)) != first
    assert described(choose(stage="02-train")) != first


def test_an_image_of_two_streams_comes_once_with_the_targets_of_the_first(
    choose, samples, tmp_path
):
    others = [make_sample(tmp_path, name, [2], "teacher") for name in IDS]

    draws = choose(samples[:4], others, objects=100)

    by_id = {draw.training_sample.sample.id: draw for draw in draws}
    assert len(draws) == len(by_id) == 7  # the fourth has no object in the first stream
    assert {name: one.training_sample.targets.origin for name, one in by_id.items()} == {
        **dict.fromkeys(IDS[:3], "human"),
        **dict.fromkeys(IDS[4:], "teacher"),
    }
    assert [by_id[name].view_id for name in (IDS[0], IDS[7])] == [
        "observed/0/a.png",
        "observed/0/h.png",
    ]


def test_streams_without_any_object_give_one_image_so_that_losses_see_something(choose, samples):
    draws = choose([samples[3]])

    assert described(draws) == [("d.png", [], [])]


# Images for themselves


@pytest.fixture
def choose_for(samples):
    """Choose from all samples for some losses."""

    def run(*preparations, seed=0):
        stream = Stream(name="s", samples=tuple(samples))
        return observed_draws([stream], preparations, seed=seed, stage="01-train")

    return run


def ids(draws):
    return [draw.training_sample.sample.id for draw in draws]


@pytest.mark.parametrize(("images", "count"), [(1, 1), (3, 3), (8, 8), (100, 8)])
def test_as_many_images_are_observed_as_are_wanted_or_there_without_their_objects(
    choose_for, images, count
):
    draws = choose_for(preparation(images=images))

    assert len(set(ids(draws))) == len(draws) == count
    assert {name: (labels, lefts) for name, labels, lefts in described(draws)} == dict.fromkeys(
        ids(draws), ([], [])
    )


def test_images_come_in_an_order_of_the_seed_and_fewer_are_the_first_of_more(choose_for):
    by_seed = [ids(choose_for(preparation(images=100), seed=seed)) for seed in range(5)]

    again = ids(choose_for(preparation(images=3), seed=2))

    assert [sorted(names) for names in by_seed] == [IDS] * 5
    assert len(set(map(tuple, by_seed))) > 1
    assert again == by_seed[2][:3]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("seed", range(5))
def test_images_wanted_beside_objects_are_the_first_and_change_no_choice_of_objects(
    choose_for, order, seed
):
    every = ids(choose_for(preparation(images=100), seed=seed))
    with_objects = {name: rest for name, *rest in described(choose_for(preparation(1), seed=seed))}

    losses = [preparation(1), preparation(images=4), preparation(images=2)]
    draws = choose_for(*losses[::order], seed=seed)

    assert ids(draws) == [name for name in every if name in {*every[:4], *with_objects}]
    assert {name: rest for name, *rest in described(draws)} == {
        name: with_objects.get(name, [[], []]) for name in ids(draws)
    }


def test_one_loss_may_want_images_and_objects(choose_for):
    apart = choose_for(preparation(2), preparation(images=5), seed=3)

    assert described(choose_for(preparation(2, images=5), seed=3)) == described(apart)


def test_no_header_is_read_for_a_loss_that_wants_images_alone(choose_for):
    # There are no files: another loss that asks for the size of objects would fail.
    assert len(choose_for(preparation(images=8, least_side=0.1))) == 8

    with pytest.raises(DataError, match=r"\.png"):
        choose_for(preparation(images=8), preparation(1, least_side=0.1))


def test_several_processes_observe_the_images_of_one(in_processes, choose_for):
    def work():
        return described(choose_for(preparation(1), preparation(images=4)))

    assert in_processes(work) == [work()] * 2


# Objects that are too small


@pytest.fixture
def choose_large(tmp_path):
    """Choose from images of 100 x 80 or 80 x 100 pixels by the objects' (width, height)."""

    def run(sizes_by_image, *preparations, seed=0):
        samples = []
        for place, sizes in enumerate(sizes_by_image):
            sample = make_sample(tmp_path, f"{place:02}.png", [0] * len(sizes))
            boxes = torch.tensor([(5.0, 5.0, 5 + w, 5 + h) for w, h in sizes]).reshape(-1, 4)
            if not sample.sample.path.exists():
                Image.new("L", (100, 80) if place % 2 else (80, 100)).save(sample.sample.path)
            samples.append(replace(sample, targets=replace(sample.targets, boxes=boxes)))
        stream = Stream(name="s", samples=tuple(samples))
        return observed_draws([stream], preparations, seed=seed, stage="01-train")

    return run


def sides(draws):
    """Return (width, height) of all observed objects."""
    boxes = torch.cat([draw.training_sample.targets.boxes for draw in draws])
    return [tuple(size) for size in (boxes[:, 2:] - boxes[:, :2]).tolist()]


@pytest.mark.parametrize("seed", range(5))
def test_objects_that_are_too_small_do_not_take_the_places_of_large_ones(choose_large, seed):
    small, large = (30.0, 7.0), (20.0, 30.0)  # a tenth of the image's shorter side is 8
    images = [[small, small], [small, large]] * 6

    found = choose_large(images, preparation(4, least_side=0.1), seed=seed)

    assert sides(found) == [large] * 4
    assert sides(choose_large(images, preparation(100, least_side=0.1), seed=seed)) == [large] * 6


def test_the_shorter_side_must_be_larger_than_the_least_and_not_as_large(choose_large):
    # 30 / 800 of 80 pixels are 3, however the image is turned.
    images = [[(3.0, 50.0), (50.0, 3.0), (3.01, 50.0), (50.0, 3.01)]] * 2

    found = choose_large(images, preparation(100, least_side=30 / 800))

    assert [min(size) for size in sides(found)] == pytest.approx([3.01] * 4, abs=1e-4)


@pytest.mark.parametrize("losses", [[(2, 0.5), (3, 0.1)], [(3, 0.1), (2, 0.5)]])
@pytest.mark.parametrize("seed", range(5))
def test_each_loss_gets_as_many_objects_as_are_large_enough_for_it(choose_large, losses, seed):
    small, large = (20.0, 20.0), (60.0, 60.0)  # of 80: a quarter, three quarters
    images = [[small]] * 9 + [[large]] * 2

    asked = [preparation(count, least_side=least) for count, least in losses]
    found = Counter(sides(choose_large(images, *asked, seed=seed)))

    # Large ones count for both; at most three small ones may have come before them.
    assert found[large] == 2
    assert 1 <= found[small] <= 3


def test_without_an_object_that_is_large_enough_there_is_one_image_and_no_object(choose_large):
    found = choose_large([[(7.0, 7.0)]] * 3, preparation(4, least_side=0.1))

    assert len(found) == 1
    assert sides(found) == []


def test_headers_are_read_only_of_images_with_objects_and_while_more_are_wanted(
    choose_large, tmp_path
):
    size = (20.0, 20.0)
    images = [[size], [], [size], [size]]
    *_, last = choose_large(images, preparation(100, least_side=0.1))
    path_of_last = last.training_sample.sample.path
    for path in (tmp_path / "01.png", path_of_last):
        path.write_bytes(b"")

    found = choose_large(images, preparation(2, least_side=0.1))

    assert len(found) == 2
    assert sides(choose_large(images, preparation(100))) == [size] * 3
    with pytest.raises(DataError, match=rf"{path_of_last.name}: the file is empty"):
        choose_large(images, preparation(3, least_side=0.1))


@pytest.mark.parametrize("broken", [0, 1])
def test_headers_are_read_by_the_first_process_for_all(
    in_processes, choose_large, monkeypatch, broken
):
    def unreadable(path):
        raise DataError(f"{path.name}: unreadable")

    def found():
        if rank() == broken:
            monkeypatch.setattr(observed_images, "probe_size", unreadable)
        try:
            return sides(choose_large([[(20.0, 20.0)]], preparation(1, least_side=0.1)))
        except DataError as error:
            return str(error)

    expected = "00.png: unreadable" if broken == 0 else [(20.0, 20.0)]
    assert in_processes(found) == [expected, expected]


# Batches


@pytest.fixture
def images(samples):
    """The samples as files of noise, 30 x 20 and 40 x 40, three in a batch."""
    generator = np.random.default_rng(0)
    for place, one in enumerate(samples):
        size = (20, 30, 3) if place % 2 else (40, 40, 3)
        pixels = generator.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(one.sample.path)
    draws = observed_draws(
        [Stream(name="s", samples=tuple(samples))], [preparation(100)], seed=0, stage="01-train"
    )
    return ObservedViews(draws=draws, image_size=40, batch_size=3, workers=0)


def test_batches_have_the_images_in_order_and_the_last_one_the_rest(images):
    batches = [batch for batch, _ in images.batches(range(images.num_batches))]

    ids = [draw.training_sample.sample.id for draw in images.draws]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [name for batch in batches for name in batch.image_ids] == ids


def test_images_come_whole_and_unchanged(images):
    batches = images.batches(range(images.num_batches))

    shown = {
        name: (pixels[:, : size[0], : size[1]], matrix)
        for batch, _ in batches
        for name, pixels, size, matrix in zip(
            batch.image_ids, batch.pixels, batch.sizes, batch.image_to_batch, strict=True
        )
    }
    for draw in images.draws:
        sample = draw.training_sample.sample
        pixels, matrix = shown[sample.id]
        file = torch.from_numpy(np.array(Image.open(sample.path))).movedim(-1, 0)
        scale = 40 / max(file.shape[1:])
        diagonal = torch.tensor([pixels.shape[2] / file.shape[2], pixels.shape[1] / file.shape[1]])
        assert tuple(pixels.shape[1:]) == tuple(round(scale * side) for side in file.shape[1:])
        torch.testing.assert_close(
            matrix, torch.diag(torch.tensor([*diagonal.tolist(), 1.0])).double()
        )
        if scale == 1:
            torch.testing.assert_close(pixels, file / 255, rtol=0, atol=1e-7)
    assert {tuple(pixels.shape[1:]) for pixels, _ in shown.values()} == {(40, 40), (27, 40)}


def test_targets_are_the_observed_objects_in_the_batch_frame(images):
    found = [
        (batch.image_to_batch[place], target)
        for batch, targets in images.batches(range(images.num_batches))
        for place, target in enumerate(targets)
    ]

    for draw, (matrix, target) in zip(images.draws, found, strict=True):
        observed = draw.training_sample.targets
        factors = torch.stack([matrix[0, 0], matrix[1, 1]] * 2).float()
        torch.testing.assert_close(target.boxes, observed.boxes * factors)
        assert target.labels.tolist() == observed.labels.tolist()


def test_batches_never_change_whichever_are_asked_for_and_however_many_decode(images):
    whole = [batch for batch, _ in images.batches(range(images.num_batches))]

    again = [batch for batch, _ in replace(images, workers=1).batches([2, 1])]

    for batch, other in zip(again, [whole[2], whole[1]], strict=True):
        assert batch.image_ids == other.image_ids
        torch.testing.assert_close(batch.pixels, other.pixels, rtol=0, atol=0)


def test_an_image_that_cannot_be_decoded_is_named(images):
    path = images.draws[1].training_sample.sample.path
    path.write_bytes(b"")

    with pytest.raises(DataError, match=rf"{path.name}: the file is empty"):
        list(images.batches(range(images.num_batches)))
