"""The entries of `distill`: what they accept, and the terms that come of them."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.errors import ConfigError, MissingPartError
from distildet.recipes.distill_schema import DistillConfig, TermScheduleConfig
from distildet.recipes.distill_terms import build_terms, distill_faults, term_settings
from distildet.recipes.load import dump_recipe
from distildet.recipes.schema import TrainStage, without_teachers
from distildet.training.settings import TermSettings, TrainSettings

TRAIN = {"stage": "train", "epochs": "1", "optimizer": {"lr": "0.1"}}
LOSS = "loss: feature-imitation"


def stage(*entries):
    return TrainStage.model_validate({**TRAIN, "distill": list(entries)})


def spec_of(*levels, channels=8):
    return build_detector(
        "retinanet",
        classes=ClassList(("a",)),
        backbone="test_efficientnet",
        backbone_levels=levels,
        extra_levels=0,
        neck_channels=channels,
        head_depth=0,
    ).spec


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{weight: 1}", r"stages\[1\]\.distill\[0\]\.loss: missing\. It is required"),
        ("{loss: }", r"stages\[1\]\.distill\[0\]\.loss: found ''\. Accepted: at least one entry"),
        (f"{{{LOSS}, weight: much}}", r"distill\[0\]\.weight: found 'much'\. Accepted: auto, or"),
        (f"{{{LOSS}, weight: -1}}", r"distill\[0\]\.weight: found '-1'\. Accepted: greater than"),
        (f"{{{LOSS}, weight: nan}}", r"distill\[0\]\.weight: found 'nan'\. Accepted: a finite n"),
        (f"{{{LOSS}, weight: auto, share: 0}}", r"distill\[0\]\.share: found '0'\. Accepted: gre"),
        (f"{{{LOSS}, share: 2}}", r"distill\[0\]\.share: found 2\.0, but weight is 1\.0\. A shar"),
        (f"{{{LOSS}, schedule: {{stop: 1.5}}}}", r"distill\[0\]\.schedule\.stop: found '1\.5'"),
        (f"{{{LOSS}, schedule: {{start: 1}}}}", r"distill\[0\]\.schedule\.start: found '1'"),
        (
            f"{{{LOSS}, schedule: {{start: 0.5, stop: 0.5}}}}",
            r"distill\[0\]\.schedule\.stop: found 0\.5\. Accepted: above start 0\.5, up to 1",
        ),
        (
            f"{{{LOSS}, schedule: {{decay: constant}}}}",
            r"distill\[0\]\.schedule\.decay: found 'constant'\. Accepted: cosine, linear, none",
        ),
        (
            f"{{{LOSS}, schedule: {{begin: 0}}}}",
            r"schedule\.begin: unknown key\. Accepted: decay, start, stop",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named(load_distilled, entry, message):
    with pytest.raises(ConfigError, match=message):
        load_distilled(f"stages[1].distill=[{entry}]")


def test_an_entry_has_weight_1_and_the_whole_stage_by_default(load_distilled):
    (entry,) = load_distilled(f"stages[1].distill=[{{{LOSS}}}]").stages[1].distill

    assert term_settings(entry) == TermSettings(loss="feature-imitation")


def test_what_is_given_reaches_the_term_typed():
    entry = DistillConfig.model_validate(
        {
            "loss": "feature-imitation",
            "weight": "auto",
            "share": "0.5",
            "schedule": {"start": "0.1", "stop": "0.9", "decay": "linear"},
            "levels": ["P3", "P4"],
        }
    )

    assert term_settings(entry) == TermSettings(
        loss="feature-imitation",
        weight="auto",
        share=0.5,
        start=0.1,
        stop=0.9,
        decay="linear",
        options={"levels": ("P3", "P4")},
    )


@pytest.mark.parametrize("weight", ["0", "2.5", "auto"])
def test_a_written_recipe_loads_again_to_the_same_entries(load_distilled, load_text, weight):
    entry = f"{LOSS}, weight: {weight}, levels: [P3], schedule: {{stop: 0.5, decay: none}}"
    recipe = load_distilled(f"stages[1].distill=[{{{entry}}}]")

    assert load_text(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("model", [DistillConfig, TermScheduleConfig])
def test_every_key_has_a_description(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_without_teachers_nothing_is_distilled():
    (baseline,) = without_teachers([stage({"loss": "feature-imitation"})])

    assert baseline.distill == ()


def test_the_faults_of_all_entries_are_found_with_their_paths():
    stages = [
        None,
        stage({"loss": "feature-limitation"}, {"loss": "feature-imitation"}),
        stage({"loss": "feature-imitation", "levels": "P3", "level": "P4"}),
    ]

    faults = distill_faults(stages)

    assert len(faults) == 3
    assert faults[0].startswith("stages[1].distill[0].loss: found 'feature-limitation'. Accepted:")
    assert faults[0].endswith("Did you mean 'feature-imitation'?")
    assert faults[1] == "stages[2].distill[0].levels: found 'P3'. Accepted: a list."
    assert faults[2] == (
        "stages[2].distill[0].level: unknown option. Accepted: levels. Did you mean 'levels'?"
    )


def test_settings_of_an_entry_with_faults_are_refused_with_all_of_them():
    (entry,) = stage({"loss": "feature-imitation", "levels": "P3", "temperature": "2"}).distill

    with pytest.raises(ConfigError, match=r"^levels: found(.|\n)*\ntemperature: unknown"):
        term_settings(entry)


def settings(*terms, seed=0):
    return TrainSettings(seed=seed, stage="01-train", steps=100, terms=terms)


def test_terms_are_built_for_the_pair_in_their_order():
    terms = (
        TermSettings(loss="feature-imitation", weight="auto"),
        TermSettings(loss="feature-imitation", options={"levels": ("P4",)}),
    )

    built = build_terms(settings(*terms), spec_of("C3", "C4"), spec_of("C2", "C3", "C4"))

    assert [term.name for term in built] == ["feature-imitation", "feature-imitation-2"]
    assert [term.loss.levels for term in built] == [("P3", "P4"), ("P4",)]
    assert built[0].auto_weight.steps == 10
    assert built[1].auto_weight is None


def test_projectors_start_as_a_function_of_the_seed_and_differ_between_entries():
    term = TermSettings(loss="feature-imitation")
    pair = spec_of("C3"), spec_of("C3", channels=12)

    def weights(seed):
        built = build_terms(settings(term, term, seed=seed), *pair)
        return [one.loss.projectors["P3"].weight for one in built]

    first = weights(0)
    torch.rand(3)
    again, other = weights(0), weights(1)

    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not first[0].equal(first[1])
    assert not first[0].equal(other[0])


def test_a_loss_that_does_not_fit_the_pair_is_refused():
    with pytest.raises(MissingPartError, match="no neck level in common"):
        build_terms(settings(TermSettings(loss="feature-imitation")), spec_of("C3"), spec_of("C4"))
