"""Runs of the preset `adaptive`: on both kinds of images, and without one of them or of boxes."""

import json
from pathlib import Path

import pytest

from distildet.errors import DataError
from distildet.pseudolabels.store import PseudoLabelStore

PRESET = """\
preset: adaptive
teachers: [{{detector: {folder}/teacher/student}}]
"""
LABELS_ALONE = """\
stages:
  - {{stage: train, steps: 2, batch_size: 4, init: pretrained, optimizer: {{lr: 1.5e-3}}}}
"""
# The teacher of these tests is hardly trained.
LABELING = ("stages[0].threshold=0.06", "stages[0].ignore_floor=0.051")


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def metrics_of(stage):
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def weights_of(arm, stage):
    return (arm / stage / "student" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_baseline_is_the_same_student_on_the_labels_alone(run):
    both = run(PRESET, *LABELING, stages=(1,))
    labels_alone = run(LABELS_ALONE)

    seed = both / "seed-3"
    assert metrics_of(seed / "02-train")[0]["adaptive.classification"] > 0
    assert result_of(both)["images_seen"] == {
        "student": [[{"labeled": 4, "unlabeled": 4}]],
        "baseline": [[{"labeled": 8}]],
    }
    assert weights_of(seed / "baseline", "01-train") == weights_of(
        labels_alone / "seed-3", "01-train"
    )


@pytest.mark.slow
def test_without_unlabeled_images_the_loss_is_on_the_labeled_ones_alone(run):
    folder = run(PRESET, "data.unlabeled=[]", stages=(0,))

    assert metrics_of(folder / "seed-3" / "01-train")[0]["adaptive.classification"] > 0
    assert result_of(folder)["images_seen"] == {
        "student": [[{"labeled": 8}]],
        "baseline": [[{"labeled": 8}]],
    }


@pytest.mark.slow
def test_without_labels_the_student_learns_from_the_teacher_alone(run, tiny):
    folder = run(
        PRESET,
        "data.labeled=null",
        f"data.unlabeled=[{{format: folder, images: {tiny.folder}/train}}]",
        *LABELING,
        stages=(1,),
    )

    assert metrics_of(folder / "seed-3" / "02-train")[0]["adaptive.classification"] > 0
    assert result_of(folder)["images_seen"] == {"student": [[{"unlabeled": 8}]]}


@pytest.mark.slow
def test_the_cached_teacher_says_what_the_live_one_says_on_both_streams(run):
    # Four of the labeled and eight of the unlabeled images; the labeled ones come twice. A rate
    # this small leaves the student as it is, so that steps do not enlarge a difference.
    settings = ("data.labeled.fraction=0.1", "stages[1].augmentation=none", "baseline=false")
    settings += ("stages[1].steps=4", "stages[1].epochs=null", "stages[1].batch_size=4")
    settings += ("stages[1].optimizer.lr=1e-12", *LABELING)

    live = run(PRESET, *settings)
    cached = run(PRESET, *settings, "stages[1].teacher_cache={views: 1}")

    of_live, of_cached = (
        [record["adaptive.classification"] for record in metrics_of(one / "seed-3" / "02-train")]
        for one in (live, cached)
    )
    assert len(of_live) == 4
    assert of_cached == pytest.approx(of_live, rel=1e-4)
    # What is stored is rounded to float16: were all equal, no cache would have been read.
    assert of_cached != of_live


@pytest.mark.slow
def test_a_teacher_of_the_students_own_section_teaches_it_nothing_until_it_moves(run, tiny):
    # The teacher was trained with the section above and 16 channels in the neck. With frozen
    # statistics of batch norm a student of the teacher's weights says what the teacher says.
    folder = run(
        PRESET,
        "student.neck_channels=16",
        f"stages[1].init={tiny.teacher}",
        "stages[1].batch_norm=frozen",
        "baseline=false",
        *LABELING,
        stages=(1,),
    )

    seed = folder / "seed-3"
    first, second = (r["adaptive.classification"] for r in metrics_of(seed / "02-train"))
    assert first == pytest.approx(0, abs=1e-7)
    assert second > 1e-5
    assert (seed / "02-train" / "student" / "config.json").read_bytes() == (
        tiny.teacher / "config.json"
    ).read_bytes()


@pytest.fixture
def pool(tiny, tmp_path):
    """Return unlabeled images: all, or those in which the teacher has a box of 0.15, or none."""
    stored = PseudoLabelStore.open(tiny.run / "seed-3" / "01-label" / "store").read()
    scores = {Path(name).name: one.detections.scores for name, one in stored.items()}
    with_box = {name for name in scores if (scores[name] >= 0.15).any()}
    folder = f"format: folder, images: {tiny.folder}/train"
    sources = {"all": f"data.unlabeled=[{{{folder}}}]"}
    for kind, names in (("with box", with_box), ("without box", scores.keys() - with_box)):
        listed = tmp_path / f"{kind}.txt"
        listed.write_text("\n".join(sorted(names)))
        sources[kind] = f"data.unlabeled=[{{{folder}, list: {listed}}}]"
    assert 0 < len(with_box) < len(scores)
    return sources


@pytest.mark.slow
def test_an_image_in_which_the_teacher_finds_no_box_is_not_used(run, pool):
    settings = ("data.labeled=null", "stages[0].threshold=0.15", "stages[0].ignore_floor=0.051")

    of_all = run(PRESET, *settings, pool["all"], stages=(1,))
    of_those = run(PRESET, *settings, pool["with box"], stages=(1,))
    with_empty = run(PRESET, *settings, pool["all"], "stages[0].keep_empty=1", stages=(1,))

    weights = weights_of(of_all / "seed-3", "02-train")
    assert weights_of(of_those / "seed-3", "02-train") == weights
    assert weights_of(with_empty / "seed-3", "02-train") != weights


@pytest.mark.slow
def test_without_any_box_the_run_says_where_and_what_to_do(run):
    with pytest.raises(
        DataError,
        match=r"seed-3/01-label: the teacher has no box at or above the thresholds \(0\.90 to "
        r"0\.90\) in 20 images.* Look at the teacher with .*, or choose a new run folder ",
    ):
        run(PRESET, "stages[0].threshold=0.9", stages=(1,))


@pytest.mark.slow
def test_with_boxes_on_labeled_images_alone_the_run_says_which_stream_is_empty(run, pool):
    settings = ("stages[0].images=all", "stages[0].threshold=0.15", pool["without box"])

    with pytest.raises(
        DataError,
        match=r"Stream 'unlabeled' has no image left .* lower the threshold or raise keep_empty",
    ):
        run(PRESET, *settings, stages=(1,))
