"""Runs of the preset `global-knowledge`: both trainings, record, pictures and baseline."""

import json
import math

import pytest

PRESET = """\
preset: global-knowledge
teachers: [{{detector: {folder}/teacher/student}}]
"""
TWICE_ON_LABELS = """\
stages:
  - {{stage: train, steps: 2, batch_size: 4, init: pretrained, optimizer: {{lr: 1.5e-3}}}}
  - {{stage: train, steps: 2, batch_size: 4, init: previous, optimizer: {{lr: 1.5e-3}}}}
"""
# The teacher of these tests is hardly trained.
LABELING = ("stages[0].threshold=0.06", "stages[0].ignore_floor=0.051")
TERMS = {"global", "feature", "response"}


def records(stage):
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def terms_of(record):
    return {
        name.removeprefix("global-knowledge."): value
        for name, value in record.items()
        if name.startswith("global-knowledge.")
    }


def weights_of(arm, stage):
    return (arm / stage / "student" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_student_is_trained_twice_and_distills_the_second_time(run):
    folder = run(PRESET, *LABELING, stages=(1, 2))
    control = run(TWICE_ON_LABELS)

    seed = folder / "seed-3"
    first, (prepared, *second) = records(seed / "02-train"), records(seed / "03-train")
    assert not any(terms_of(record) for record in first)
    assert [terms_of(record).keys() for record in second] == [{*TERMS, "factor"}] * 2
    assert all(math.isfinite(value) for record in second for value in terms_of(record).values())
    assert [terms_of(record)["factor"] for record in second] == [1.0, 0.5]
    found = prepared["prepared"]["global-knowledge"]
    assert sum(found["instances"].values()) > 0
    assert min(found["prototypes"].values()) > 0
    pictures = {path.stem for path in (seed / "03-train" / "prototypes").iterdir()}
    assert pictures == {name for name, count in found["instances"].items() if count > 0}
    # The baseline is the same further training without a teacher.
    for stage in ("01-train", "02-train"):
        assert weights_of(seed / "baseline", stage) == weights_of(control / "seed-3", stage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labeled", "unlabeled"])
def test_one_kind_of_images_is_enough(run, tiny, kind):
    if kind == "labeled":
        folder = run(PRESET, "data.unlabeled=[]", stages=(0, 1))
    else:
        source = f"data.unlabeled=[{{format: folder, images: {tiny.folder}/train}}]"
        folder = run(PRESET, "data.labeled=null", source, *LABELING, stages=(1, 2))

    last = sorted((folder / "seed-3").glob("*-train"))[-1]
    assert terms_of(records(last)[-1]).keys() == {*TERMS, "factor"}
    assert list((last / "prototypes").iterdir())


@pytest.mark.slow
def test_a_pair_without_comparable_heads_goes_without_the_response(run):
    student = (
        "student={detector: fcos, backbone: mobilenetv2_050, pretrained: false, neck_channels: 8, "
        "backbone_levels: [C3, C4], extra_levels: 0, head_depth: 1, head_norm: group}"
    )

    folder = run(PRESET, "data.unlabeled=[]", student, stages=(0, 1))

    last = sorted((folder / "seed-3").glob("*-train"))[-1]
    assert terms_of(records(last)[-1]).keys() == {"global", "feature", "factor"}
