"""A small tree whose recipe has a teacher and stages, and the ways in which it can be wrong."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector

# The trees and the ways to spoil them, shared by several test files; tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "wrong_input_cases", Path(__file__).with_name("wrong_input_cases.py")
)
cases = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = cases  # dataclasses look their module up
_spec.loader.exec_module(cases)

Case, RUN = cases.Case, cases.RUN
teacher, tree, call = cases.teacher, cases.tree, cases.call

STUDENT = """\
  {detector: retinanet, backbone: test_efficientnet, pretrained: false, backbone_levels: [C3, C4],
   extra_levels: 0, neck_channels: 8, head_depth: 1}
"""
RECIPE = f"""\
name: wrong
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: images, annotations: train.json}}
  unlabeled: [{{format: folder, images: pool}}]
teachers: [{{detector: teacher}}]
student:
{STUDENT}
stages:
  - {{stage: label, images: unlabeled, threshold: 0.2}}
  - {{stage: train, images: {{labeled: 1, unlabeled: 1}}, steps: 1, batch_size: 2,
     optimizer: {{lr: 1e-3}}}}
baseline: false
"""
OPTIONS = {
    "backbone": "test_efficientnet",
    "image_size": 64,
    "backbone_levels": ("C3", "C4"),
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
}


@pytest.fixture
def distilled(tree, teacher):
    """A sound tree whose recipe has a teacher, to be spoilt."""
    (tree / "pool").mkdir()
    cases.picture(7).save(tree / "pool" / "p.png")
    shutil.copytree(teacher, tree / "teacher")
    (tree / "recipe.yaml").write_text(RECIPE)
    return tree


def edited(*pairs):
    """Replace pieces of the recipe's text, each of which must be in it once."""

    def change(tree):
        text = (tree / "recipe.yaml").read_text()
        for old, new in pairs:
            before, found, after = text.partition(old)
            assert found, old
            text = before + new + after
        (tree / "recipe.yaml").write_text(text)

    return change


def added(text):
    """Put text at the end of the recipe."""
    return lambda tree: (tree / "recipe.yaml").write_text((tree / "recipe.yaml").read_text() + text)


def bundle(name, *classes, **options):
    """Write an untrained detector."""

    def change(tree):
        torch.manual_seed(1)
        shutil.rmtree(tree / name, ignore_errors=True)
        detector = build_detector("retinanet", classes=ClassList(classes), **{**OPTIONS, **options})
        logits = detector.head.classification_head.cls_logits
        torch.nn.init.normal_(logits.weight, std=3.0)  # finds something everywhere
        torch.nn.init.constant_(logits.bias, -1.0)
        save_detector(detector, tree / name)

    return change


def categories(*names):
    """Give all annotations these classes; the first is that of every box."""
    listed = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return cases.document(categories=listed)


def weights(content):
    """Write a file that `torch.save` makes, and take it as the teacher."""
    return cases.all_of(
        lambda tree: torch.save(content, tree / "t.pth"),
        edited(("{detector: teacher}", "{detector: t.pth}")),
    )


def set_to(*overrides):
    """Return the command with overrides; it is formatted later."""
    doubled = [text.replace("{", "{{").replace("}", "}}") for text in overrides]
    return (*RUN, *(part for text in doubled for part in ("--set", text)))


def begun(out):
    """Return what a run has left in its folder, but for the file by which it was held."""
    return [path.name for path in out.glob("*") if path.name != ".lock"]


class BlockedCode:
    """Pickled, it would make a folder when it is read, by a module that torch blocks."""

    def __reduce__(self):
        return os.mkdir, ("in/was-here",)


class UnknownCode:
    """Pickled, it would delete a folder when it is read, by a function that torch lacks."""

    def __reduce__(self):
        return shutil.rmtree, ("in/images",)


LABEL_STAGE = "  - {stage: label, images: unlabeled, threshold: 0.2}\n"
TEACHERS = "teachers: [{detector: teacher}]\n"
TEACHER = "{detector: teacher}"


def distilling(entry):
    """Give the train stage a distillation loss."""
    return edited(("steps: 1", f"steps: 1, distill: [{{{entry}}}]"))
