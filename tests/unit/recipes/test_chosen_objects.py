"""What losses chose can be looked at: a picture of each class, of the right objects."""

import hashlib
import os
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.loader import Stream, TrainingSample
from distildet.errors import InterruptedRunError
from distildet.losses.base import DistillationLoss, Needs, Preparation
from distildet.recipes import chosen_objects
from distildet.recipes.chosen_objects import draw_chosen, file_stems
from distildet.recipes.observed_images import ObservedViews, observed_draws
from distildet.report.crops import GAP, SIDE
from distildet.structures import Targets
from distildet.training.settings import TermSettings
from distildet.training.terms import Term

PARTS = frozenset({"features.neck"})
SIDE_OF_OBJECT, MARGIN = 80, 8  # 96 with the margin: a crop is not scaled
PLACES = [(20, 16), (150, 40)]  # (x, y) of the first and second object of an image


class Chooses(DistillationLoss):
    """Chooses what it is told to."""

    needs = Needs(student=PARTS, teacher=PARTS)

    def __init__(self, found):
        torch.nn.Module.__init__(self)
        self.found = found
        self.preparation = Preparation(parts=PARTS, objects=100, every=1.0)

    def chosen(self):
        return self.found

    def forward(self, student, teacher, batch, targets):
        return {}


def terms_of(*losses):
    return [
        Term(f"x-{place}", loss, TermSettings(loss="x"), steps=1)
        for place, loss in enumerate(losses)
    ]


def colour(image, place):
    """Return the colour of an object of an image, by their numbers."""
    return (20 * image + 10, 100 * place + 50, 200)


def save_scene(path, image, num_objects):
    """Save 300 x 200 black pixels with so many objects, each with its margin in its colour."""
    scene = Image.new("RGB", (300, 200))
    for place, (x, y) in enumerate(PLACES[:num_objects]):
        far = SIDE_OF_OBJECT + MARGIN
        scene.paste(colour(image, place), (x - MARGIN, y - MARGIN, x + far, y + far))
    scene.save(path)


@pytest.fixture
def images(tmp_path):
    """Five images with 2, 1, 2, 1, 2 objects, two in a batch, looked at in half their size.

    The third has a further box, so small that nobody is shown it.
    """
    samples = []
    for image in range(5):
        path = tmp_path / f"{image}.png"
        save_scene(path, image, 2 - image % 2)
        boxes = [(x, y, x + SIDE_OF_OBJECT, y + SIDE_OF_OBJECT) for x, y in PLACES[: 2 - image % 2]]
        boxes = [(5, 5, 6, 6), *boxes] if image == 2 else boxes
        targets = Targets(
            boxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.zeros(len(boxes), dtype=torch.int64),
            weights=torch.ones(len(boxes)),
            ignore=torch.zeros(0, 4),
            known_classes=torch.ones(1, dtype=torch.bool),
            origin="human",
        )
        samples.append(TrainingSample(sample=Sample(id=path.name, path=path), targets=targets))
    draws = observed_draws(
        [Stream(name="s", samples=tuple(samples))],
        [Preparation(parts=PARTS, objects=100, every=1.0)],
        seed=0,
        stage="01-train",
    )
    return ObservedViews(draws=draws, image_size=150, batch_size=2, workers=0)


@pytest.fixture
def colours(images):
    """The colours of the eight objects in the order in which they are shown."""
    order = [int(draw.training_sample.sample.id[0]) for draw in images.draws]
    return [colour(image, place) for image in order for place in range(2 - image % 2)]


def draw(terms, images, folder, between=lambda: None):
    draw_chosen(terms, images, folder, between=between)


def cells(path):
    """Return the crops of one row, each as the set of its colours."""
    grid = np.asarray(Image.open(path))
    row = grid[GAP : GAP + SIDE]
    starts = range(GAP, grid.shape[1] - GAP, SIDE + GAP)
    crops = [row[:, start : start + SIDE].reshape(-1, 3) for start in starts]
    return [{tuple(pixel) for pixel in crop.tolist()} for crop in crops]


def test_every_object_is_cut_out_of_its_own_image_at_full_size(images, colours, tmp_path):
    draw(terms_of(Chooses({"all": range(8)})), images, tmp_path / "stage")

    assert cells(tmp_path / "stage" / "prototypes" / "all.png") == [{one} for one in colours]


def test_each_class_has_its_picture_in_the_order_of_the_choice(images, colours, tmp_path):
    found = {"cup": [5, 0, 3], "car/bus": [7], "both": [3, 7]}

    draw(terms_of(Chooses(found)), images, tmp_path)

    assert {path.stem: cells(path) for path in (tmp_path / "prototypes").iterdir()} == {
        "cup": [{colours[5]}, {colours[0]}, {colours[3]}],
        "car%2Fbus": [{colours[7]}],
        "both": [{colours[3]}, {colours[7]}],
    }


def test_each_loss_that_looks_beforehand_has_its_folder(images, colours, tmp_path):
    losses = Chooses({"a": [0]}), Chooses({}), Chooses({"a": [1]})

    draw(terms_of(*losses), images, tmp_path / "stage")

    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [
        "prototypes",
        "prototypes-3",
    ]
    assert cells(tmp_path / "stage" / "prototypes-3" / "a.png") == [{colours[1]}]


def test_where_nothing_was_chosen_nothing_is_decoded_or_written(images, tmp_path, monkeypatch):
    monkeypatch.setattr(ObservedViews, "batches", None)

    draw(terms_of(Chooses({})), images, tmp_path / "stage")

    assert not (tmp_path / "stage").exists()


def test_of_the_files_only_those_with_an_object_of_a_class_are_decoded_again_and_once_for_it(
    images, tmp_path, monkeypatch
):
    decoded = []
    crop_objects = chosen_objects.crop_objects

    def noted(path, boxes):
        decoded.append((path.name, len(boxes)))
        return crop_objects(path, boxes)

    monkeypatch.setattr(chosen_objects, "crop_objects", noted)
    numbers = range(2 - int(images.draws[0].training_sample.sample.id[0]) % 2)

    draw(terms_of(Chooses({"a": numbers, "b": [0]})), images, tmp_path)

    name = images.draws[0].training_sample.sample.id
    assert decoded == [(name, len(numbers)), (name, 1)]


def test_only_the_crops_of_one_class_are_held_at_a_time(images, tmp_path, monkeypatch):
    held, counts = WeakValueDictionary(), []
    crop_objects, draw_grid = chosen_objects.crop_objects, chosen_objects.draw_grid

    def noted_crops(path, boxes):
        crops = crop_objects(path, boxes)
        held.update({id(crop): crop for crop in crops})
        return crops

    def noted_grid(crops):
        counts.append(len(held))
        return draw_grid(crops)

    monkeypatch.setattr(chosen_objects, "crop_objects", noted_crops)
    monkeypatch.setattr(chosen_objects, "draw_grid", noted_grid)

    draw(terms_of(Chooses({"a": [0, 1, 2], "b": [3], "c": [4, 5]})), images, tmp_path)

    assert counts == [3, 1, 2]


@pytest.mark.parametrize("call", range(1, 6))
def test_between_batches_and_classes_it_may_be_stopped_and_leaves_no_half_folder(
    images, tmp_path, call
):
    # Three batches, then two classes.
    calls = []

    def stop():
        calls.append(sorted(path.stem for path in (tmp_path / "stage").rglob("*.png")))
        if len(calls) == call:
            raise InterruptedRunError("stop", exit_code=143)

    with pytest.raises(InterruptedRunError, match="stop"):
        draw(terms_of(Chooses({"a": [0], "b": [7]})), images, tmp_path / "stage", stop)

    assert calls == [[], [], [], [], ["a"]][:call]
    assert not list((tmp_path / "stage").rglob("*"))


def test_a_rerun_replaces_the_pictures_by_the_same(images, tmp_path):
    terms = terms_of(Chooses({"a": [0, 1]}))

    def written():
        draw(terms, images, tmp_path)
        return {path.name: path.read_bytes() for path in (tmp_path / "prototypes").iterdir()}

    assert written() == written()


# Names


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cup", "cup"),
        ("Kühlschrank 2", "Kühlschrank 2"),
        ("..", ".."),
        ("../x", "..%2Fx"),
        ("a%2Fb", "a%252Fb"),
        ("a\0\nb", "a%00%0Ab"),
        ('<a:"b|c?*\\>', "%3Ca%3A%22b%7Cc%3F%2A%5C%3E"),
        ("a\ud800", "a%ED%A0%80"),  # half of a surrogate pair, U+D800
        ("\udcff", "%ED%B3%BF"),
    ],
)
def test_a_class_name_becomes_a_file_name(name, stem, tmp_path):
    (tmp_path / f"{file_stems([name])[name]}.png").write_bytes(b"")

    assert file_stems([name]) == {name: stem}
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}.png"]


@pytest.mark.parametrize("sign", ["a", "é", "犬", "/", "\udcff"])
def test_long_class_names_stay_apart_and_can_be_written(sign, tmp_path):
    names = [sign * 251, sign * 252, sign * 300, sign * 300 + "x"]

    for stem in file_stems(names).values():
        (tmp_path / f"{stem}.png").write_bytes(b"")

    files = [os.fsencode(path.name) for path in tmp_path.iterdir()]
    assert len(files) == 4
    assert max(map(len, files)) <= 255


@pytest.mark.parametrize(
    "names",
    [["Car", "car", "CAR"], ["straße", "STRASSE"], ["a" * 300, "A" * 300], ["É/x", "é/X"]],
)
def test_names_that_differ_in_case_alone_stay_apart_where_file_systems_fold_it(names):
    stems = file_stems(names)

    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    assert all(len(f"{stem}.png".encode()) <= 255 for stem in stems.values())


def test_only_the_second_of_names_that_differ_in_case_alone_gets_a_digest():
    stems = file_stems(["Car", "bus", "car"])

    digest = hashlib.sha256(b"car").hexdigest()[:16]
    assert stems == {"Car": "Car", "bus": "bus", "car": f"car-{digest}"}


def test_classes_whose_names_no_file_system_takes_as_they_are_have_their_pictures(
    images, colours, tmp_path
):
    draw(terms_of(Chooses({"Car": [0], "car": [1], "\ud800": [2]})), images, tmp_path)

    found = {path.name.casefold(): cells(path) for path in (tmp_path / "prototypes").iterdir()}
    assert sorted(found.values(), key=str) == sorted(([{one}] for one in colours[:3]), key=str)
