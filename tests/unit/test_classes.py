import re

import pytest

from distildet.classes import DROP, ClassList, join_classes, map_classes, map_labels
from distildet.errors import ClassMapError


def test_a_class_list_maps_names_to_labels_and_back():
    classes = ClassList(("car", "no", "12:30"))

    assert len(classes) == 3
    assert list(classes) == ["car", "no", "12:30"]
    assert classes[1] == "no"
    assert [classes.label(name) for name in classes] == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "The class list is empty"),
        (("car", ""), "Class name '' is empty"),
        (("car", " \t"), r"Class name ' \\t' is empty"),
        (("car", "bus", "car"), "'car' occurs 2 times"),
    ],
)
def test_a_list_whose_labels_could_be_confused_is_refused(names, message):
    with pytest.raises(ClassMapError, match=message):
        ClassList(names)


def test_names_differ_by_case():
    assert ClassList(("Car", "car")).label("car") == 1


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(ClassMapError, match=r"Unknown class 'cra'\..*bus, car.*mean 'car'"):
        ClassList(("car", "bus")).label("cra")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("a", "b"), ("a", "b"), (0, 1)),
        (("a", "b"), ("b", "a"), (1, 0)),
        (("a", "x", "b"), ("b", "c", "a"), (2, None, 0)),
        (("Car", "traffic light"), ("car", "Traffic-Light"), (0, 1)),
        (("a",), ("b",), (None,)),
    ],
)
def test_labels_are_mapped_by_name(source, target, expected):
    assert map_labels(ClassList(source), ClassList(target)) == expected


@pytest.mark.parametrize(
    ("source", "target", "options", "expected"),
    [
        (("a", "b"), ("b", "a"), {}, (1, 0)),
        (("person", "a", "dog"), ("dog", "person"), {}, (1, None, 0)),
        (("Traffic Light", "stop-sign"), ("traffic_light", "Stop sign"), {}, (0, 1)),
        (("tv", "sofa"), ("tvmonitor", "sofa"), {"given": {"tv": "tvmonitor"}}, (0, 1)),
        (("car", "van"), ("vehicle",), {"given": {"car": "vehicle", "van": "vehicle"}}, (0, 0)),
        (("a", "b"), ("a", "b"), {"given": {"b": "drop"}, "unknown": ["b"]}, (0, None)),
        (("a",), ("a", "b"), {"unknown": ["b"]}, (0,)),
        # Two classes that differ in spelling alone are not one, on either side.
        (("car", "Car"), ("car", "CAR"), {"unknown": ["CAR"]}, (0, None)),
        (("日", "本"), ("本", "日"), {}, (1, 0)),
        (("+", "-"), ("-", "+"), {}, (1, 0)),
    ],
)
def test_a_teacher_is_mapped_by_name(source, target, options, expected):
    mapping = map_classes(ClassList(source), ClassList(target), **options)

    assert mapping.labels == expected


def test_a_mapping_says_which_classes_are_known_and_prints_as_a_table():
    mapping = map_classes(
        ClassList(("tv", "Cat", "zebra")),
        ClassList(("cat", "sofa", "tvmonitor")),
        given={"tv": "tvmonitor"},
        unknown=["sofa"],
    )

    assert mapping.known == (True, False, True)
    assert mapping.table() == [
        "cat        <-  Cat (spelling)",
        "sofa       <-  (nothing)",
        "tvmonitor  <-  tv (class_map)",
        "left out: zebra",
    ]


def test_classes_get_the_names_of_those_that_they_alone_stand_for():
    mapping = map_classes(
        ClassList(("tv", "Cat", "car", "van", "zebra")),
        ClassList(("cat", "car", "tvmonitor", "zebra")),
        given={"tv": "tvmonitor", "van": "car", "zebra": "drop"},
        unknown=["zebra"],
    )

    named = mapping.named_as_target()

    assert list(named)[:2] == ["tvmonitor", "cat"]
    # What is dropped, or a part of a class, is none of the target's, whatever it was called.
    assert map_labels(named, mapping.target) == (2, 0, None, None, None)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            {"given": {"tv": "drop"}},
            [r"no class 'tvmonitor'. Nearest: 'monitor'.*class_map.*or list 'tvmonitor' in unk"],
        ),
        (
            {"given": {"tvs": "tvmonitor", "tv": "tvmonitr", "dog": "drop"}},
            [
                "class_map has 'tvs', which is no class of the teacher. Nearest: 'tv'",
                "maps 'tv' to 'tvmonitr', which is no class of the student.*mean 'tvmonitor'",
                "class_map takes the teacher's class 'dog' away from the student's",
            ],
        ),
        (
            {"unknown": ["tvmonitor", "dog", "horse"]},
            [
                "unknown_classes has 'horse', which is no class of the student",
                "unknown_classes has 'dog', but the teacher has this class: dog. Take it out",
                r"'tvmonitor', but the teacher has this class: tv \(alias\)\. .* to drop in class",
            ],
        ),
    ],
)
def test_all_that_cannot_be_mapped_is_told_at_once(options, messages):
    with pytest.raises(ClassMapError) as caught:
        map_classes(ClassList(("dog", "tv", "monitor")), ClassList(("dog", "tvmonitor")), **options)

    for message in messages:
        assert re.search(message, str(caught.value))


def test_a_teacher_may_lack_what_another_has():
    mapping = map_classes(
        ClassList(("a", "b")),
        ClassList(("a", "b", "c")),
        given={"b": DROP},
        elsewhere={"b", "c"},
    )

    assert mapping.known == (True, False, False)


def test_what_nobody_has_is_still_a_fault():
    with pytest.raises(ClassMapError, match=r"the teacher has no class 'c'"):
        map_classes(ClassList(("a",)), ClassList(("a", "b", "c")), elsewhere={"b"})


def test_a_teacher_of_other_classes_altogether_is_refused():
    with pytest.raises(
        ClassMapError,
        match=r"the teacher has none of the student's classes a, b; its own are x, y\. Name",
    ):
        map_classes(ClassList(("x", "y")), ClassList(("a", "b")), elsewhere={"a", "b"})


@pytest.mark.parametrize(
    ("lists", "joined"),
    [
        ([(("b", "a"), {})], ("b", "a")),
        ([(("b", "a"), {}), (("c", "A"), {})], ("b", "a", "c")),
        ([(("car",), {}), (("auto", "dog"), {"auto": "car"})], ("car", "dog")),
        ([(("car",), {}), (("auto", "dog"), {"dog": DROP})], ("car", "auto")),
        ([(("auto",), {"auto": "car"}), (("bus",), {})], ("car", "bus")),
        # As the first spells it, whoever of them says so in class_map.
        ([(("Person",), {}), (("walker",), {"walker": "person"})], ("Person",)),
        ([(("walker",), {"walker": "person"}), (("Person",), {})], ("person",)),
        # A spelling that is that of two is neither.
        ([(("No", "no"), {}), (("x",), {"x": "NO"})], ("No", "no", "NO")),
        ([(("Drop",), {}), (("x", "y"), {"x": DROP})], ("Drop", "y")),
    ],
)
def test_the_classes_of_several_teachers_are_joined_by_name(lists, joined):
    classes = join_classes([(ClassList(names), given) for names, given in lists])

    assert classes.names == joined


def test_class_map_may_spell_a_class_of_the_student_otherwise():
    mapping = map_classes(
        ClassList(("walker", "x")),
        ClassList(("Person", "drop-off", "Drop")),
        given={"walker": "person", "x": DROP},
        elsewhere={"drop-off", "Drop"},
    )

    assert mapping.labels == (0, None)
    assert mapping.matched_by == ("class_map", None)
