import re

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector
from distildet.errors import ConfigError, WeightsError
from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import RunData
from distildet.recipes.schema import StudentConfig
from distildet.recipes.student import initial_student, student_options
from distildet.training.interruption import Interruption

OPTIONS = {
    "backbone": "mobilenetv2_050",
    "backbone_levels": ("C4",),
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
    "image_size": 64,
}
RECIPE = """
name: student
data:
  image_size: 64
  labeled: {format: coco, images: images, annotations: labels.json}
teachers: [{detector: teacher}]
student:
  {detector: FAMILY, neck_norm: NORM, backbone: mobilenetv2_050, pretrained: false,
   backbone_levels: [C4],
   extra_levels: 0, neck_channels: 8, head_depth: 1}
stages:
  - {stage: train, steps: 1, optimizer: {lr: 1e-3}}
  - {stage: train, steps: 1, optimizer: {lr: 1e-3}, init: INIT}
"""


def save_bundle(folder, classes, **options):
    torch.manual_seed(5)
    detector = build_detector("retinanet", classes=classes, **{**OPTIONS, **options})
    save_detector(detector, folder)
    return detector


@pytest.fixture
def start(tmp_path):
    def start_with(
        init, *, seed=0, classes=("cat", "dog"), previous=None, norm="none", family="retinanet"
    ):
        # The second stage is the one that starts: a first one cannot begin with "previous".
        text = RECIPE.replace("INIT", init).replace("NORM", norm).replace("FAMILY", family)
        text = text if family == "retinanet" else text.replace(", head_depth: 1", "")
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = load_recipe(tmp_path / "recipe.yaml", check_named=False)
        has_teacher = (tmp_path / "teacher").exists()
        context = RunContext(
            recipe=recipe,
            data=RunData(classes=None, labeled=None, hidden=None, unlabeled=None, validation=None),
            classes=ClassList(classes),
            out=tmp_path,
            device=torch.device("cpu"),
            interruption=Interruption(),
            progress=Silence(),
            teachers=(Teacher(tmp_path / "teacher"),) if has_teacher else (),
        )
        return initial_student(context, recipe.stages[1], seed, previous)

    return start_with


def test_the_first_weights_are_a_function_of_the_seed_alone(start):
    first = start("pretrained", seed=1).state_dict()
    torch.rand(3)
    second = start("pretrained", seed=1).state_dict()
    other = start("pretrained", seed=2).state_dict()

    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_init_teacher_takes_neck_and_head_and_leaves_the_backbone(start, tmp_path):
    teacher = save_bundle(tmp_path / "teacher", ClassList(("cat", "dog")))

    student = start("teacher")

    of_teacher = dict(teacher.named_parameters())
    in_backbone = {id(parameter) for parameter in student.backbone_parameters()}
    outside = {n: p for n, p in student.named_parameters() if id(p) not in in_backbone}
    inside = {n: p for n, p in student.named_parameters() if id(p) in in_backbone}
    assert outside
    assert all(torch.equal(p, of_teacher[name]) for name, p in outside.items())
    assert any(not torch.equal(p, of_teacher[name]) for name, p in inside.items())


def test_init_teacher_with_more_classes_takes_all_but_the_class_layer(start, tmp_path):
    teacher = save_bundle(tmp_path / "teacher", ClassList(("cat", "dog", "cow")))
    of_teacher = dict(teacher.named_parameters())

    student = start("teacher")

    taken = [
        name
        for name, parameter in student.named_parameters()
        if parameter.shape == of_teacher[name].shape and torch.equal(parameter, of_teacher[name])
    ]
    resized = [n for n, p in student.named_parameters() if p.shape != of_teacher[n].shape]
    assert len(resized) == 2  # weight and bias of the class layer
    assert taken


def test_init_teacher_of_another_shape_is_refused(start, tmp_path):
    save_bundle(tmp_path / "teacher", ClassList(("cow",)), neck_channels=4, anchor_octaves=1)

    with pytest.raises(WeightsError, match="none agrees between this teacher and this student"):
        start("teacher")


@pytest.mark.parametrize("init", ["teacher", "bundle"])
@pytest.mark.parametrize("theirs", [("dog", "cat"), ("cat", "cow")])
def test_weights_for_as_many_other_classes_are_refused(start, tmp_path, init, theirs):
    save_bundle(tmp_path / init, ClassList(theirs))

    with pytest.raises(
        WeightsError,
        match=re.escape(f"for the classes {', '.join(theirs)}, the student learns cat, dog."),
    ):
        start(init)


def test_init_from_a_path_takes_every_weight(start, tmp_path):
    bundle = save_bundle(tmp_path / "bundle", ClassList(("cat", "dog")))

    student = start("bundle")

    torch.testing.assert_close(student.state_dict(), bundle.state_dict(), rtol=0, atol=0)


def test_init_from_a_path_with_other_shapes_is_refused(start, tmp_path):
    save_bundle(tmp_path / "bundle", ClassList(("cat", "dog", "cow")))

    with pytest.raises(WeightsError, match="bundle: these weights do not fit the student"):
        start("bundle")


def test_init_from_a_path_with_other_anchors_is_refused(start, tmp_path):
    # As many anchors a place, so that every shape is the same.
    save_bundle(tmp_path / "bundle", ClassList(("cat", "dog")), anchor_scale=6.0)

    with pytest.raises(
        WeightsError,
        match=r"bundle: these weights were trained with anchor_scale 6\.0 and not \S+\. Give",
    ):
        start("bundle")


def test_a_later_stage_starts_from_the_bundle_of_the_stage_before(start, tmp_path):
    bundle = save_bundle(tmp_path / "01-train" / "student", ClassList(("cat", "dog")))

    student = start("previous", previous=tmp_path / "01-train")

    torch.testing.assert_close(student.state_dict(), bundle.state_dict(), rtol=0, atol=0)


def test_options_are_typed_by_the_family():
    config = StudentConfig.model_validate(
        {"detector": "retinanet", "neck_channels": "32", "backbone_levels": ["C3", "C4"]},
        context={"folder": None},
    )

    assert student_options(config) == {"neck_channels": 32, "backbone_levels": ("C3", "C4")}


def test_all_faulty_options_are_told_with_their_path():
    config = StudentConfig.model_validate(
        {"detector": "retinanet", "neck_chanels": "32", "head_depth": "deep"},
        context={"folder": None},
    )

    with pytest.raises(
        ConfigError,
        match=r"(?s)student\.neck_chanels: unknown option.*'neck_channels'.*student\.head_depth",
    ):
        student_options(config)


def test_init_teacher_takes_the_statistics_of_batch_norm_with_its_scale(start, tmp_path):
    torch.manual_seed(5)
    teacher = build_detector(
        "retinanet", classes=ClassList(("cat", "dog")), **OPTIONS, neck_norm="batch"
    )
    statistics = "neck.fpn.inner_blocks.0.1.running_mean"
    teacher.get_buffer(statistics).fill_(3.0)
    save_detector(teacher, tmp_path / "teacher")

    student = start("teacher", norm="batch")

    assert student.get_buffer(statistics).eq(3.0).all()


def test_class_columns_of_other_classes_are_not_taken(start, tmp_path):
    # Three columns on both sides, but one of the teacher's stands for no class.
    torch.manual_seed(5)
    options = {**OPTIONS, "train_proposals": 5}
    options.pop("head_depth")
    teacher = build_detector(
        "faster_rcnn", classes=ClassList(("cat", "dog")), unused_columns=(1,), **options
    )
    save_detector(teacher, tmp_path / "teacher")

    student = start("teacher", classes=("cat", "dog", "cow"), family="faster_rcnn")

    name = "region_head.predictor.cls_score.weight"
    assert not student.get_parameter(name).equal(teacher.get_parameter(name))
    body = "region_head.layers.1.weight"
    assert student.get_parameter(body).equal(teacher.get_parameter(body))
