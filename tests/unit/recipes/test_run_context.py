import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.detectors.callable_detector import CallableDetector
from distildet.errors import ClassMapError, WeightsError
from distildet.recipes.progress import Silence
from distildet.recipes.run_context import RunContext, Teacher, share_classes
from distildet.recipes.run_data import RunData
from distildet.training.interruption import Interruption


@pytest.fixture
def stock_file(tmp_path):
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    torch.save(detection.RetinaNet(backbone, 2).state_dict(), tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth"


def test_a_teacher_of_stock_weights_has_the_given_classes_and_size(stock_file):
    teacher = Teacher(stock_file, classes=("car", "bus"), image_size=320)

    assert list(teacher.detector.spec.classes) == ["car", "bus"]
    assert teacher.detector.spec.image_size == 320
    assert teacher.detector is teacher.detector


def test_the_fingerprint_of_a_teacher_tells_its_classes(stock_file):
    first = Teacher(stock_file, classes=("car", "bus"))
    second = Teacher(stock_file, classes=("bus", "car"))

    assert first.fingerprint != second.fingerprint


def test_a_loss_sees_a_teachers_classes_under_the_students_names(stock_file):
    teacher = Teacher(stock_file, classes=("car", "bus"), class_map={"car": "auto"})

    spec = teacher.spec_for(ClassList(("Bus", "auto")))

    assert list(spec.classes) == ["auto", "Bus"]
    assert spec.family == "retinanet"
    assert list(teacher.detector.spec.classes) == ["car", "bus"]


def test_a_detector_is_a_teacher_with_its_own_name_and_fingerprint():
    detector = CallableDetector(list, classes=["car", "bus"], name="mine", version="1")

    teacher = Teacher(detector, class_map={"car": "auto"})

    assert teacher.detector is detector
    assert (teacher.name, teacher.fingerprint) == ("mine 1", detector.fingerprint)
    assert teacher.map_to(ClassList(("auto", "bus"))).labels == (0, 1)


def test_the_fingerprint_of_a_built_detector_follows_its_weights():
    detector = build_detector(
        "retinanet",
        classes=ClassList(("car",)),
        backbone="test_efficientnet",
        pretrained=False,
        neck_channels=8,
    )
    before = Teacher(detector).fingerprint

    again = Teacher(detector).fingerprint
    torch.nn.init.zeros_(detector.head.classification_head.predictor.bias)

    assert again == before
    assert Teacher(detector).fingerprint != before
    assert Teacher(detector).name == "retinanet"


def test_a_teacher_alone_keeps_its_own_classes():
    detector = CallableDetector(list, classes=["car", "bus"], name="mine", version="1")
    teacher = Teacher(detector, class_map={"car": "auto"}, unknown_classes=["bike"])

    alone = teacher.unmapped()

    assert (teacher.is_mapped, alone.is_mapped) == (True, False)
    assert alone.map_to(detector.spec.classes).labels == (0, 1)
    assert alone.fingerprint == teacher.fingerprint


def test_a_teacher_that_is_not_there_is_named_before_it_is_loaded(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: no such file of weights"):
        Teacher(tmp_path / "none.pth")


@pytest.fixture
def context(load_plain, tmp_path):
    def make(*overrides):
        return RunContext(
            recipe=load_plain(*overrides),
            data=RunData(classes=None, labeled=None, hidden=None, unlabeled=None, validation=None),
            classes=ClassList(("car",)),
            out=tmp_path,
            device=torch.device("cpu"),
            interruption=Interruption(),
            progress=Silence(),
        )

    return make


def test_a_run_keeps_decoded_images_in_one_place(context):
    run = context("data.cache=memory")

    assert run.pixel_cache is not None
    assert run.pixel_cache is run.pixel_cache


def test_a_run_keeps_no_images_unless_it_is_told_to(context):
    assert context().pixel_cache is None


def test_teachers_are_told_what_the_others_know(stock_file):
    classes = ClassList(("car", "Bus", "dog"))
    first = Teacher(stock_file, classes=("car", "cat"), class_map={"cat": "dog"})
    second = Teacher(stock_file, classes=("bus", "car"))

    share_classes([first, second], classes)

    assert first.map_to(classes).known == (True, False, True)
    assert second.map_to(classes).known == (True, True, False)
    with pytest.raises(ClassMapError, match="the teacher has no class 'cow'"):
        second.map_to(ClassList((*classes, "cow")))


def test_a_teacher_that_could_not_be_loaded_may_have_any_class(stock_file):
    classes = ClassList(("car", "dog"))
    teacher = Teacher(stock_file, classes=("car", "bus"))

    share_classes([teacher, None], classes)

    assert teacher.map_to(classes).known == (True, False)
