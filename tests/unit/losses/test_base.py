import pytest
import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.base import LOSSES, Needs, given_to_teacher, misfit
from distildet.losses.feature_imitation import FeatureImitation
from distildet.structures import DetectorOutput, RegionPrediction


def test_importing_the_package_registers_every_loss():
    assert LOSSES.get("feature-imitation") is FeatureImitation


def test_a_missing_part_is_named_for_student_and_teacher(spec_of):
    student = spec_of({"P3": 2}, parts=("dense", "losses"), family="one")
    teacher = spec_of({"P3": 2}, parts=("detections",), family="two")

    with pytest.raises(
        MissingPartError,
        match=r"student 'one' does not have features\.neck \(it has dense, losses\) and the "
        r"teacher 'two' does not have features\.neck \(it has detections\)\.",
    ):
        FeatureImitation(student, teacher)


def test_of_a_teacher_of_boxes_it_is_told_what_it_serves(spec_of):
    teacher = spec_of({}, parts=("detections",), family="onnx")

    message = misfit("feature-imitation", spec_of({"P3": 2}), teacher, {})

    assert "the teacher 'onnx' does not have features.neck (it has detections)." in message
    assert "it serves pseudo labels (preset pseudo-label, or a label stage)" in message
    assert message.endswith("No registered loss fits this pair; it can learn from pseudo labels.")


def test_a_loss_that_fits_is_no_misfit(spec_of):
    assert misfit("feature-imitation", spec_of({"P3": 2}), spec_of({"P3": 4}), {}) is None


def test_a_misfit_says_what_is_missing_and_what_would_fit(spec_of):
    student = spec_of({"P3": 2}, parts=("features.neck", "queries"))
    teacher = spec_of({"P3": 4}, parts=("features.neck", "dense"))

    message = misfit("adaptive", student, teacher, {})

    assert message == (
        "loss 'adaptive' does not fit this pair: the student 'tiny' does not have dense (it has "
        "features.neck, queries). With their default options these losses fit this pair: "
        "feature-imitation, foreground-imitation, global-knowledge, hands-on-guidance."
    )


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (
            "feature-imitation",
            {"levels": ("P5",)},
            "levels: P5 is not on both sides. The student has P3; the teacher has P3.",
        ),
        ("adaptive", {"gamma": -1.0}, "gamma: found -1.0. Accepted: a finite number of 0 or more."),
    ],
)
def test_of_options_that_are_wrong_for_a_pair_that_fits_their_fault_alone_is_told(
    spec_of, loss, options, message
):
    spec = spec_of({"P3": 2}, parts=("dense", "features.neck"))

    assert misfit(loss, spec, spec, options) == message


def test_of_a_pair_that_does_not_fit_no_option_is_blamed(spec_of):
    student, teacher = (
        spec_of({level: 2}, parts=("dense", "features.neck")) for level in ("P3", "P4")
    )

    message = misfit("adaptive", student, teacher, {"gamma": -1.0})

    assert "'adaptive' does not fit this pair: the logits of both are compared" in message
    assert "gamma" not in message


def test_a_misfit_of_every_loss_points_to_pseudo_labels(spec_of):
    message = misfit(
        "feature-imitation", spec_of({"P3": 2}), spec_of({}, parts=("detections",)), {}
    )

    assert "teacher 'tiny' does not have features.neck (it has detections)." in message
    assert message.endswith("No registered loss fits this pair; it can learn from pseudo labels.")


def test_asking_for_a_misfit_draws_no_random_numbers(spec_of):
    before = torch.get_rng_state()

    misfit("feature-imitation", spec_of({"P3": 2}), spec_of({"P3": 4}), {})

    assert torch.get_rng_state().equal(before)


def test_an_unknown_loss_is_refused_with_the_nearest_name(spec_of):
    with pytest.raises(ConfigError, match="Did you mean 'feature-imitation'"):
        misfit("feature-limitation", spec_of({"P3": 2}), spec_of({"P3": 2}), {})


def test_a_loss_needs_of_every_pair_what_its_class_says_by_default(spec_of):
    assert FeatureImitation.needs_of(spec_of({}), spec_of({"P3": 2})) is FeatureImitation.needs


@pytest.mark.parametrize(
    ("given", "names"),
    [([], []), ([[], []], []), ([["regions"], []], ["regions"]), ([["regions"]] * 2, ["regions"])],
)
def test_a_teacher_is_given_what_any_loss_asks_for(given, names):
    regions = RegionPrediction(proposals=(), features=(), logits=(), box_codes=())
    needs = [
        Needs(student=frozenset({"regions"}), teacher=frozenset(), given=frozenset(parts))
        for parts in given
    ]

    found = given_to_teacher(needs, DetectorOutput(regions=regions))

    assert found == dict.fromkeys(names, regions)


@pytest.mark.parametrize(
    ("student", "given", "message"),
    [
        (
            {"features.neck", "regions"},
            {"features.neck", "regions"},
            r"`given` has features\.neck\. Accepted are distildet\.structures\.GIVEN_PARTS: reg",
        ),
        (
            {"dense", "losses"},
            {"regions"},
            r"`given` has regions\. Accepted are the parts needed of the student: dense, losses\.",
        ),
        (set(), {"regions"}, r"`given` has regions\. Accepted are the parts .* student: none\."),
    ],
)
def test_what_cannot_be_given_to_a_teacher_is_no_need(student, given, message):
    with pytest.raises(ValueError, match=message):
        Needs(student=frozenset(student), teacher=frozenset(), given=frozenset(given))
