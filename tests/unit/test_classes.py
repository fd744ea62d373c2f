import pytest

from distildet.classes import ClassList, map_labels, unmatched_names
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
    ],
)
def test_labels_are_mapped_by_name(source, target, expected):
    assert map_labels(ClassList(source), ClassList(target)) == expected


def test_lists_without_a_common_name_are_refused():
    with pytest.raises(ClassMapError, match="No class name is common to a, b and A, B"):
        map_labels(ClassList(("a", "b")), ClassList(("A", "B")))


def test_classes_of_one_side_only_are_told_with_the_nearest_name():
    lines = unmatched_names(ClassList(("Bolt", "Nut")), ClassList(("bolt", "Nut")))

    assert [line.split(".")[0] for line in lines] == [
        "The teacher does not know the class 'bolt': it gets no pseudo labels",
        "The teacher's class 'Bolt' is not one to learn: its boxes are dropped",
    ]
    assert lines[0].endswith("Did you mean 'Bolt'?")


def test_equal_class_lists_leave_nothing_to_tell():
    assert unmatched_names(ClassList(("a", "b")), ClassList(("b", "a"))) == []
