"""Runs with the loss `hands-on-guidance`: what is told and noted, and a run that was killed."""

import json

import pytest
import torch

from distildet.classes import ClassList
from distildet.data.synthetic import SHAPES
from distildet.detectors.bundle import build_detector, save_detector

RECIPE = """\
name: guided
seeds: [3]
data:
  image_size: 64
  workers: 0
  labeled:
    format: coco
    images: {folder}/train
    annotations: {folder}/train/annotations.json
    fraction: 0.5
  unlabeled: [labeled-rest]
teachers: [{{detector: {teacher}}}]
student:
  detector: {student}
  backbone: mobilenetv2_050
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 8
  anchor_scale: 2
stages:
  - {{stage: label, threshold: 0.06, ignore_floor: 0.051}}
  - stage: train
    images: {{labeled: 1, unlabeled: 1}}
    steps: {steps}
    batch_size: 4
    checkpoint_every: 5
    optimizer: {{lr: 2e-3}}
    distill: [{{loss: hands-on-guidance, weight: auto}}]
"""
LEVELS = ("C3", "C4", "P3", "P4")
FIGURES = ("difference", "weight", "foreground", "evenness")


@pytest.fixture
def recipe(tiny, tmp_path):
    def make(student, teacher=None, *, steps):
        path = tmp_path / "guided.yaml"
        teacher = teacher or tiny.teacher
        path.write_text(
            RECIPE.format(folder=tiny.folder, student=student, teacher=teacher, steps=steps)
        )
        return path

    return make


def records(run):
    text = (run / "seed-3" / "02-train" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def console(run):
    return run.with_suffix(".log").read_text()


def guidance(record):
    prefix = "hands-on-guidance."
    return {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}


@pytest.mark.slow
def test_a_killed_guidance_ends_in_the_same_files_and_tells_what_it_has_paired(
    recipe, kills, tmp_path
):
    recipe, whole = recipe("retinanet", steps=20), tmp_path / "whole"
    aim = kills.Aim(stage="02-train", step=8, is_inside_write=False, delay=0)
    kills.run(recipe, whole)

    process = kills.start(recipe, tmp_path / "killed")
    was_killed = kills.kill_at(process, tmp_path / "killed" / "seed-3", aim)
    kills.run(recipe, tmp_path / "killed")

    assert was_killed
    assert kills.differences(whole, tmp_path / "killed") == []
    # Two images of twenty of each kind in a step: it looks again after ten.
    prepared = [one for one in records(whole) if "prepared" in one]
    assert [one["step"] for one in prepared] == [1, 11]
    found = [one["prepared"]["hands-on-guidance"] for one in prepared]
    assert [tuple(one["correspondence"]) for one in found] == [LEVELS] * 2
    # A pair that stays is told once.
    told = {pair: one for one in reversed(found) for pair in one["correspondence"].items()}
    assert console(whole).count(" learns from ") == len(told)
    for (own, guide), one in told.items():
        assert (
            f"seed-3/02-train: hands-on-guidance: {own} learns from {guide} of the teacher, "
            f"affinity {one['affinity'][own][guide]:.2f}\n"
        ) in console(whole)
    steps = [guidance(one) for one in records(whole) if "loss" in one]
    figures = {f"{level}.{figure}" for level in LEVELS for figure in FIGURES}
    assert [one.keys() for one in steps] == [{"backbone", "neck", "factor"} | figures] * 20
    weights = [[one[f"{level}.weight"] for level in LEVELS] for one in steps]
    assert list(map(sum, weights)) == pytest.approx([len(LEVELS)] * 20)
    assert weights[0] == [1] * len(LEVELS)
    assert max(weights[-1]) - min(weights[-1]) > 0.01
    assert "hands-on-guidance.neck" in console(whole)
    assert not any(f".{figure} " in console(whole) for figure in FIGURES)


@pytest.mark.slow
def test_a_teacher_of_another_family_and_pyramid_guides_backbone_and_neck(recipe, kills, tmp_path):
    torch.manual_seed(0)
    teacher = build_detector(
        "fcos",
        classes=ClassList(SHAPES),
        image_size=64,
        backbone="mobilenetv2_050",
        backbone_levels=("C2", "C3", "C4"),
        extra_levels=1,
        neck_channels=12,
        head_depth=1,
    )
    save_detector(teacher, tmp_path / "teacher")

    kills.run(recipe("faster_rcnn", tmp_path / "teacher", steps=2), tmp_path / "run")

    prepared, *_, last = records(tmp_path / "run")
    pairs = prepared["prepared"]["hands-on-guidance"]["correspondence"]
    assert {name[0] + guide[0] for name, guide in pairs.items()} == {"CC", "PP"}
    assert guidance(last).keys() == {
        *("backbone", "neck", "factor"),
        *(f"{level}.{figure}" for level in LEVELS for figure in FIGURES),
    }
