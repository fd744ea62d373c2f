import pytest

from distildet.data.coco import read_coco
from distildet.recipes.demo import CLASSES, write_demo
from distildet.recipes.load import load_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def recipes(folder):
    return write_demo(folder)


def test_the_recipes_of_the_demo_load_and_find_their_scenes(folder, recipes):
    teacher = load_recipe(recipes.teacher)
    student = load_recipe(recipes.student, check_named=False)

    assert student.baseline
    assert teacher.teachers == ()
    assert student.teachers[0].detector == folder / "teacher" / "student"
    assert student.data.labeled.fraction == 0.1
    dataset = read_coco(folder / "train", folder / "train" / "annotations.json")
    assert dataset.classes.names == CLASSES


def test_writing_the_demo_again_keeps_the_scenes(folder, recipes):
    before = (folder / "train" / "annotations.json").stat().st_mtime_ns

    write_demo(folder)

    assert (folder / "train" / "annotations.json").stat().st_mtime_ns == before
