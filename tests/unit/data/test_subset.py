"""Parts and unions of data sets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distildet.classes import ClassList
from distildet.data.boxes import BoxRecord, collect_annotations
from distildet.data.coco import read_coco
from distildet.data.dataset import Dataset, Sample
from distildet.data.subset import merge, take_fraction, without_annotations
from distildet.errors import ConfigError, DataError

CLASSES = ClassList(("a", "b", "c", "d"))


def sample(name, labels=(), crowd=False, folder="images"):
    records = [BoxRecord((0.0, 0.0, 1.0, 1.0), label, 1.0, crowd) for label in labels]
    return Sample(id=name, path=Path("/", folder, name), annotations=collect_annotations(records))


def dataset_of(labels_of_images):
    names = [f"{index:04d}.jpg" for index in range(len(labels_of_images))]
    samples = map(sample, names, labels_of_images)
    return Dataset(samples=tuple(samples), classes=CLASSES, dropped=("line",))


def ids(dataset):
    return [s.id for s in dataset.samples]


def labels(dataset):
    return {label for s in dataset.samples for label in s.annotations.labels.tolist()}


label_sets = st.lists(st.sets(st.integers(0, 3)).map(sorted), min_size=1, max_size=60)


@given(
    shown=label_sets,
    fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seed=st.integers(0, 3),
    gap=st.sampled_from([0, 1]),
)
def test_a_smaller_fraction_lies_inside_a_larger_one(shown, fractions, seed, gap):
    dataset = dataset_of(shown)

    small, _ = take_fraction(dataset, fractions[0], seed=seed, scene_gap=gap)
    large, _ = take_fraction(dataset, fractions[1], seed=seed, scene_gap=gap)

    assert set(ids(small)) <= set(ids(large))


@given(shown=label_sets, fraction=st.floats(0.01, 1), seed=st.integers(0, 3))
def test_the_two_parts_are_the_whole_in_its_order(shown, fraction, seed):
    dataset = dataset_of(shown)

    kept, rest = take_fraction(dataset, fraction, seed=seed)

    assert len(kept) == max(1, -int(-(fraction * len(shown) - 0.5) // 1))
    assert sorted(ids(kept) + ids(rest)) == ids(dataset)
    assert ids(kept) == sorted(ids(kept))
    assert ids(rest) == sorted(ids(rest))
    assert (kept.classes, kept.dropped, rest.dropped) == (CLASSES, ("line",), ())


@given(shown=label_sets, fraction=st.floats(0.01, 1), seed=st.integers(0, 3))
def test_every_class_is_present_where_there_are_images_enough(shown, fraction, seed):
    dataset = dataset_of([*shown, [0], [1], [2], [3]])

    kept, _ = take_fraction(dataset, max(fraction, 4 / len(dataset)), seed=seed)

    # In the worst case each kept image adds one class.
    assert labels(kept) == {0, 1, 2, 3}


def test_each_class_keeps_about_the_fraction_of_its_images():
    dataset = dataset_of([[0]] * 100 + [[1]] * 50 + [[2]] * 10 + [[]] * 40)

    kept, _ = take_fraction(dataset, 0.2, seed=0)

    shown = [tuple(s.annotations.labels.tolist()) for s in kept.samples]
    counts = {label: shown.count(label) for label in set(shown)}
    assert counts == {(0,): 20, (1,): 10, (2,): 2, (): 8}


def test_another_seed_takes_other_images():
    dataset = dataset_of([[0]] * 50)

    first, _ = take_fraction(dataset, 0.2, seed=0)
    second, _ = take_fraction(dataset, 0.2, seed=1)

    assert ids(first) != ids(second)


def test_crowds_do_not_count_as_a_class_shown():
    crowds = tuple(sample(f"crowd{i}.jpg", [1], crowd=True) for i in range(50))
    dataset = Dataset(samples=(*crowds, sample("b.jpg", [1]), sample("a.jpg", [0])))

    kept, _ = take_fraction(dataset, 2 / 52, seed=0)

    assert ids(kept) == ["b.jpg", "a.jpg"]


def test_frames_of_a_scene_stay_together():
    scenes = [f"{scene}{frame:02d}.jpg" for scene in range(20) for frame in range(0, 9, 3)]
    dataset = Dataset(samples=tuple(sample(name, [0]) for name in scenes))

    kept, _ = take_fraction(dataset, 0.2, seed=0, scene_gap=3)

    kept_scenes = [name[:-6] for name in ids(kept)]
    assert len(kept) == 12
    assert [kept_scenes.count(scene) for scene in set(kept_scenes)] == [3, 3, 3, 3]


def test_series_of_other_folders_and_names_are_other_scenes():
    names = [f"{series}{frame}.jpg" for series in ("x/a", "x/b", "y/a") for frame in range(10)]
    dataset = Dataset(samples=tuple(sample(name, [0]) for name in [*names, "x/title.jpg"]))

    kept, _ = take_fraction(dataset, 0.01, seed=0, scene_gap=1)

    # 31 images: runs are at most 4 long, so each series is 3 runs of 4, 3, 3 and never joined.
    assert len({name[:3] for name in ids(kept)}) == 1


def test_a_long_scene_is_cut_into_consecutive_frames():
    dataset = dataset_of([[0]] * 50)

    kept, _ = take_fraction(dataset, 0.2, seed=0, scene_gap=1)

    assert ids(kept) == [f"{index:04d}.jpg" for index in range(10)]


def test_no_images_are_split_into_none():
    kept, rest = take_fraction(Dataset(samples=()), 0.5, seed=0)

    assert (len(kept), len(rest)) == (0, 0)


def test_images_that_nobody_looked_at_can_be_split():
    dataset = without_annotations(dataset_of([[0]] * 10))

    kept, rest = take_fraction(dataset, 0.3, seed=0)

    assert (len(kept), len(rest)) == (3, 7)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"fraction is .*above 0 and at most 1"):
        take_fraction(dataset_of([[0]]), fraction, seed=0)


def test_a_negative_gap_is_refused():
    with pytest.raises(ConfigError, match="scene_gap is -1, accepted is 0"):
        take_fraction(dataset_of([[0]]), 0.5, seed=0, scene_gap=-1)


@pytest.mark.shared
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fifth_of_real_scenes_has_every_class(shared_data, seed):
    folder = shared_data / "fod"
    dataset = read_coco(folder / "images", folder / "bright_train.json")

    kept, rest = take_fraction(dataset, 0.2, seed=seed, scene_gap=20)

    assert len(kept) == pytest.approx(235, abs=8)
    assert len(kept) + len(rest) == 1177
    assert labels(kept) == set(range(16))


def test_without_annotations_nothing_is_known():
    bare = without_annotations(dataset_of([[0], [1]]))

    assert [s.annotations for s in bare.samples] == [None, None]
    assert bare.classes is None
    assert ids(bare) == ["0000.jpg", "0001.jpg"]


def test_merging_takes_each_file_once_from_the_first():
    first = Dataset(samples=(sample("a.jpg", [0]),), classes=CLASSES, dropped=("x",))
    second = Dataset(samples=(sample("b.jpg"), sample("a.jpg", [1])), dropped=("y",))

    merged = merge([first, second])

    assert ids(merged) == ["a.jpg", "b.jpg"]
    assert merged.samples[0].annotations.labels.tolist() == [0]
    assert merged.classes == CLASSES
    assert merged.dropped == ("x", "y")


def test_a_link_to_a_file_is_the_same_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    samples = [Sample(id=name, path=tmp_path / name) for name in ("a.jpg", "b.jpg")]

    merged = merge([Dataset(samples=(s,)) for s in samples])

    assert ids(merged) == ["a.jpg"]


def test_one_id_for_two_files_is_refused():
    datasets = [Dataset(samples=(sample("a.jpg", folder=folder),)) for folder in ("x", "y")]

    with pytest.raises(DataError, match=r"common root above both.*'a\.jpg' is /x/a\.jpg and /y/"):
        merge(datasets)


def test_other_class_lists_are_refused():
    datasets = [
        Dataset(samples=(sample("a.jpg"),), classes=ClassList(names))
        for names in (("a", "b"), ("b", "a"))
    ]

    with pytest.raises(DataError, match=r"different class lists.*\['a', 'b'\] and \['b', 'a'\]"):
        merge(datasets)


def test_the_parts_of_one_seed_do_not_depend_on_the_process():
    kept, _ = take_fraction(dataset_of([[0]] * 10), 0.3, seed=5)

    # numpy's permutation stream is fixed for a seed.
    order = np.random.default_rng(5).permutation(10)[:3]
    assert ids(kept) == [f"{index:04d}.jpg" for index in sorted(order)]
