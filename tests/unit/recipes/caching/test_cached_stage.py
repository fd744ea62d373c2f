"""A stage learns from stored predictions, and deletes them when it is done."""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distildet.errors import ConfigError
from distildet.recipes.teacher_cache import CACHE, refuse_uncached
from distildet.recipes.train_stage import run_train_stage


def test_losses_that_need_more_are_refused_with_those_that_fit(teachers):
    spec = teachers["retinanet"].detector.spec

    with pytest.raises(
        ConfigError,
        match=r"'dense', and the loss 'feature-imitation' needs its features\.neck\. Remove "
        r"teacher_cache, or take a loss that needs no more: adaptive\.$",
    ):
        refuse_uncached("feature-imitation", spec, spec)


def test_a_loss_that_needs_regions_of_this_pair_is_refused(region_detector):
    spec = region_detector.spec

    with pytest.raises(
        ConfigError, match=r"the loss 'adaptive' needs its regions\. Remove teacher_cache\.$"
    ):
        refuse_uncached("adaptive", spec, spec)


def test_losses_that_need_no_more_pass(teachers):
    spec = teachers["retinanet"].detector.spec

    refuse_uncached("adaptive", spec, spec)


def train(context, folder, steps=4):
    run_train_stage(
        context, context.recipe.stages[0], folder, seed=0, steps=steps, previous=None, labels=()
    )


def test_a_stage_learns_from_its_cache_and_deletes_it(context, stage_folder, monkeypatch):
    train(context, stage_folder)

    lines = (stage_folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(record["adaptive.classification"] > 0 for record in records[:4])
    assert not (stage_folder / CACHE).exists()
    assert (stage_folder / "DONE").exists()


def changed(context, **changes):
    """Return the context with other settings of its stage."""
    stage = context.recipe.stages[0].model_copy(update=changes)
    return replace(context, recipe=context.recipe.model_copy(update={"stages": (stage,)}))


def test_unchanged_pictures_are_stored_once_whatever_the_views(context, stage_folder, listener):
    train(changed(context, augmentation="none"), stage_folder)

    assert listener.messages[0].startswith("Teacher cache: 5 views of ")


def test_steps_that_are_left_out_are_told_and_noted(context, stage_folder, listener):
    optimizer = context.recipe.stages[0].optimizer.model_copy(update={"lr": 1e30})
    train(changed(context, optimizer=optimizer, clip=0.0), stage_folder)

    noted = json.loads((stage_folder / "DONE").read_text())
    assert (noted["steps"], noted["rejected"], noted["overflows"]) == (4, 3, 0)
    assert listener.messages[-1].startswith("01-train: 3 of 4 steps were left out, since their")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_deleted_cache_gives_its_room_back_at_once(context, stage_folder):
    gc.disable()
    try:
        train(context, stage_folder)
        maps = Path("/proc/self/maps").read_text()
    finally:
        gc.enable()

    assert CACHE not in maps


def test_a_cache_that_outlived_its_stage_is_deleted(context, stage_folder):
    train(context, stage_folder)
    (stage_folder / CACHE).mkdir()

    train(context, stage_folder)

    assert not (stage_folder / CACHE).exists()
