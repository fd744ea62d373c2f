"""Oracles: the class lists of COCO, PASCAL VOC and Open Images as published, and pairs by hand."""

import pytest

from distildet.class_aliases import SYNONYMS
from distildet.classes import ClassList, map_classes, map_labels, map_names
from distildet.errors import ClassMapError


def names(text):
    return ClassList(tuple(name.strip() for name in text.replace("\n", " ").split(",")))


# As in instances_val2017.json, and as YOLOX lists them.
COCO = names(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
    bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
    sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
    wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
    hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
    vase, scissors, teddy bear, hair drier, toothbrush"""
)
VOC = names(
    """aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
    motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""
)
# Of the 600 names with boxes: those that name a class of COCO, and others near them.
OPEN_IMAGES = names(
    """Aircraft, Airplane, Alarm clock, Apple, Backpack, Ball, Banana, Baseball bat, Baseball glove,
    Bear, Bed, Bench, Bicycle, Bicycle wheel, Bird, Boat, Book, Bookcase, Bottle, Bowl, Boy,
    Broccoli, Brown bear, Bull, Bus, Cake, Car, Carrot, Cat, Cattle, Chair, Clock, Coffee cup,
    Coffee table, Computer keyboard, Computer monitor, Computer mouse, Corded phone, Couch, Desk,
    Digital clock, Dog, Dog bed, Doughnut, Elephant, Fire hydrant, Flowerpot, Flying disc, Football,
    Fork, Furniture, Giraffe, Girl, Hair dryer, Hand dryer, Handbag, Horse, Hot dog, Houseplant,
    Human body, Infant bed, Jet ski, Kitchen & dining room table, Kitchen knife, Kite, Knife,
    Laptop, Loveseat, Luggage and bags, Man, Measuring cup, Microwave oven, Mobile phone,
    Motorcycle, Mouse, Mug, Musical keyboard, Orange, Oven, Parking meter, Person, Pizza, Plant,
    Polar bear, Racket, Refrigerator, Remote control, Rugby ball, Sandwich, Scissors, Sheep, Sink,
    Skateboard, Ski, Snowboard, Sofa bed, Spoon, Stationary bicycle, Stop sign, Street light,
    Studio couch, Submarine sandwich, Suitcase, Surfboard, Table, Tablet computer, Taxi, Teddy bear,
    Telephone, Television, Tennis ball, Tennis racket, Tie, Toaster, Toilet, Toilet paper,
    Toothbrush, Traffic light, Traffic sign, Train, Training bench, Truck, Umbrella, Unicycle, Van,
    Vase, Vehicle, Wall clock, Watercraft, Wine glass, Woman, Zebra"""
)


def pairs(mapping, how):
    return {
        (name, mapping.target[label])
        for name, label, by in zip(mapping.source, mapping.labels, mapping.matched_by, strict=True)
        if by == how
    }


def test_the_lists_are_complete():
    assert (len(COCO), len(VOC)) == (80, 20)


def test_a_teacher_of_coco_has_all_classes_of_voc():
    mapping = map_classes(COCO, VOC)

    assert all(mapping.known)
    assert pairs(mapping, "spelling") == {
        ("dining table", "diningtable"),
        ("potted plant", "pottedplant"),
    }
    assert pairs(mapping, "alias") == {
        ("airplane", "aeroplane"),
        ("couch", "sofa"),
        ("motorcycle", "motorbike"),
        ("tv", "tvmonitor"),
    }


def test_the_table_marks_what_an_alias_has_brought_together():
    lines = map_classes(COCO, VOC).table()

    assert lines[:2] == ["aeroplane    <-  airplane (alias)", "bicycle      <-  bicycle"]
    assert lines[10] == "diningtable  <-  dining table (spelling)"


def test_a_teacher_of_open_images_has_all_classes_of_voc():
    mapping = map_classes(OPEN_IMAGES, VOC)

    assert pairs(mapping, "alias") == {
        ("Airplane", "aeroplane"),
        ("Cattle", "cow"),
        ("Couch", "sofa"),
        ("Houseplant", "pottedplant"),
        ("Kitchen & dining room table", "diningtable"),
        ("Motorcycle", "motorbike"),
        ("Television", "tvmonitor"),
    }


def test_a_teacher_of_open_images_has_the_classes_of_coco_with_one_meaning():
    given = {"Mouse": "drop", "Computer mouse": "mouse", "Computer keyboard": "keyboard"}

    mapping = map_classes(OPEN_IMAGES, COCO, given=given, unknown=["cup", "sports ball"])

    assert pairs(mapping, "alias") == {
        ("Cattle", "cow"),
        ("Doughnut", "donut"),
        ("Flying disc", "frisbee"),
        ("Hair dryer", "hair drier"),
        ("Houseplant", "potted plant"),
        ("Kitchen & dining room table", "dining table"),
        ("Microwave oven", "microwave"),
        ("Mobile phone", "cell phone"),
        ("Remote control", "remote"),
        ("Ski", "skis"),
        ("Television", "tv"),
    }


@pytest.mark.parametrize("name", [name for group in SYNONYMS for name in group])
def test_every_alias_is_a_name_of_one_of_the_lists(name):
    listed = ClassList(tuple({*COCO, *VOC, *(one.lower() for one in OPEN_IMAGES)}))

    assert name in listed.names
    assert sum(name in group for group in SYNONYMS) == 1


@pytest.mark.parametrize(
    "group", [group for group in SYNONYMS if group != ("tv", "tvmonitor", "television")]
)
def test_no_list_has_two_names_of_a_group(group):
    found = [[name for name in data if name.lower() in group] for data in (COCO, VOC, OPEN_IMAGES)]

    assert max(map(len, found)) == 1


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        # Case, spaces and punctuation do not matter, in either direction.
        (("TV-Monitor",), ("Television",), (0,)),
        (("Motor Bike",), ("motorcycle",), (0,)),
        # An equal name or spelling is nearer, and the other name then has no counterpart.
        (("couch", "sofa"), ("sofa",), (None, 0)),
        (("couch", "Sofa"), ("sofa",), (None, 0)),
        (("couch",), ("sofa", "couch"), (1,)),
        (("couch",), ("sofa", "Couch"), (1,)),
        # Two that could be meant, of the source or of the target: neither is.
        (("tv", "television"), ("tvmonitor",), (None, None)),
        (("tv",), ("tvmonitor", "television"), (None,)),
        # No wider or narrower terms, and no second meanings.
        (("man", "mouse", "plant"), ("person", "computer mouse", "potted plant"), (None,) * 3),
    ],
)
def test_an_alias_holds_only_where_one_class_can_be_meant(source, target, expected):
    assert map_labels(ClassList(source), ClassList(target)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # What is given leaves the other name alone ...
        ({"tv": "drop"}, (None, 0, None)),
        ({"tv": "screen"}, (1, 0, None)),
        # ... but a class that something is given for gets nothing more by an alias.
        ({"monitor": "tvmonitor", "tv": "drop"}, (None, None, 0)),
        ({"tv": "tvmonitor", "television": "tvmonitor"}, (0, 0, None)),
    ],
)
def test_what_the_recipe_says_goes_before_an_alias(given, expected):
    source, target = ClassList(("tv", "television", "monitor")), ClassList(("tvmonitor", "screen"))

    assert map_labels(source, target, given) == expected


def test_each_way_of_matching_is_told():
    source = ClassList(("Dog", "cat", "couch", "tv", "zebra"))
    target = ClassList(("dog", "cat", "sofa", "screen"))

    mapping = map_names(source, target, {"tv": "screen"})

    assert mapping.matched_by == ("spelling", "name", "alias", "class_map", None)


def test_names_of_which_several_could_be_meant_are_proposed():
    with pytest.raises(
        ClassMapError, match=r"'tvmonitor'\. It may be meant by 'tv' or 'television'"
    ):
        map_classes(ClassList(("tv", "television", "dog")), ClassList(("tvmonitor", "dog")))
