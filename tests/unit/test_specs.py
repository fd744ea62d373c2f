import pytest

from distildet.classes import ClassList
from distildet.specs import DetectorSpec, FeatureLevel, part_of_level


@pytest.mark.parametrize(
    ("level", "part"),
    [
        ("C4", "features.backbone"),
        ("P3", "features.neck"),
        ("cls.P3", "features.head"),
        ("box.P3", "features.head"),
    ],
)
def test_the_name_of_a_level_says_its_part(level, part):
    assert part_of_level(level) == part


def test_the_levels_of_a_part_are_found_in_their_order():
    def level(name):
        return FeatureLevel(name=name, channels=8, stride=8)

    spec = DetectorSpec(
        family="retinanet",
        classes=ClassList(("a",)),
        levels=tuple(map(level, ("C3", "P4", "P3", "cls.P4"))),
        head="dense",
        parts=frozenset({"features.neck"}),
        image_size=64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="none",
    )

    assert list(spec.levels_of("features.neck")) == ["P4", "P3"]
    assert spec.levels_of("features.backbone") == {"C3": level("C3")}
    assert spec.levels_of("dense") == {}
