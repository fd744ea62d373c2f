"""Oracles: values by hand on images of one colour, where every object's feature is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distildet.classes import ClassList
from distildet.errors import ClassMapError, ConfigError, MissingPartError
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.ops.reduce import add_up, counting, with_totals
from distildet.structures import BACKGROUND, DensePrediction, DetectorOutput

SIZE = (16, 16)
BOX = (2.0, 2.0, 10.0, 10.0)
# Cosines of 1, 0.8 and 0.6 with the first.
AHEAD, NEAR, FAR = (1.0, 0.0), (0.8, 0.6), (0.6, 0.8)


@pytest.fixture
def pair_of(spec_of):
    """Specs without predictions, of these levels; the teacher has one channel more."""

    def make(*levels):
        return tuple(spec_of(dict.fromkeys(levels, channels)) for channels in (2, 3))

    return make


def images(*features, levels=("P3",), padding=0):
    """Images of which every cell of every level has one feature, with further channels of 0."""
    maps = torch.tensor([[*one, *[0.0] * padding] for one in features])[:, :, None, None]
    return DetectorOutput(
        features={
            level: 2 * maps.expand(-1, -1, 16 >> int(level[1:]), 16 >> int(level[1:]))
            for level in levels
        }
    )


def own_images(*features, levels=("P3",)):
    return images(*features, levels=levels)


def guide_images(*features, levels=("P3",)):
    return images(*features, levels=levels, padding=1)


@pytest.fixture
def prepared(pair_of, batch_of, target_of):
    """The term "global" with one prototype, of class 0: AHEAD in both spaces."""

    def make(*, levels=("P3",), **options):
        loss = GlobalKnowledge(*pair_of(*levels), **{"terms": ("global",), **options})
        batch = batch_of((SIZE,), SIZE)
        seen = [
            loss.observe(output, batch, [target_of(BOX)])
            for output in (own_images(AHEAD, levels=levels), guide_images(AHEAD, levels=levels))
        ]
        loss.prepare([seen[0]], [seen[1]])
        return loss

    return make


# An object NEAR for the teacher and FAR for the student: rho = 1 - 0.2.


def test_officially_by_hand(prepared, batch_of, target_of):
    # Smooth L1 of 0.8 * 0.2 is 0.16²/2, times 5. The object of the class without prototypes takes
    # no part.
    value = prepared()(
        own_images(FAR, FAR),
        guide_images(NEAR, NEAR),
        batch_of((SIZE, SIZE), SIZE),
        [target_of(BOX), target_of(BOX, labels=[1])],
    )

    assert value.keys() == {"global"}
    assert value["global"].item() == pytest.approx(5 * 0.0128, rel=1e-5)


@pytest.mark.parametrize(("projection", "apart"), [(None, 0.2), ("ridge", 0.2 / 1.01)])
def test_in_the_paper_by_hand(prepared, batch_of, target_of, projection, apart):
    # The object of the class without prototypes takes no part.
    value = prepared(variant="paper", projection=projection)(
        own_images(FAR, FAR),
        guide_images(NEAR, NEAR),
        batch_of((SIZE, SIZE), SIZE),
        [target_of(BOX), target_of(BOX, labels=[1])],
    )

    assert value["global"].item() == pytest.approx((1 - apart) * apart**2 / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Officially a sum over levels, in the paper a mean.
        ({}, 2 * 5 * 0.0128),
        ({"global_weight": 1.0}, 2 * 0.0128),
        ({"variant": "paper", "projection": "cosine"}, 0.8 * 0.04 / 2),
        ({"variant": "paper", "projection": "cosine", "global_weight": 3.0}, 3 * 0.8 * 0.04 / 2),
    ],
)
def test_of_two_levels_alike_by_hand(prepared, batch_of, target_of, options, expected):
    levels = ("P3", "P4")
    value = prepared(levels=levels, **options)(
        own_images(FAR, levels=levels),
        guide_images(NEAR, levels=levels),
        batch_of((SIZE,), SIZE),
        [target_of(BOX)],
    )

    assert value["global"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_boxes_of_a_teacher_count_as_a_humans(prepared, batch_of, target_of, variant):
    loss, batch = prepared(variant=variant), batch_of((SIZE,), SIZE)
    outputs = own_images(FAR), guide_images(NEAR)

    by_origin = [
        loss(*outputs, batch, [target_of(BOX, origin=origin)])["global"].item()
        for origin in ("human", "teacher")
    ]

    assert by_origin[0] == by_origin[1] > 0


def test_the_global_term_has_a_gradient_to_the_student_alone(prepared, batch_of, target_of):
    student, teacher = own_images(FAR), guide_images(NEAR)
    for output in (student, teacher):
        output.features["P3"].requires_grad_()

    loss = prepared()
    value = loss(student, teacher, batch_of((SIZE,), SIZE), [target_of(BOX)])["global"]
    value.backward()

    assert student.features["P3"].grad.any()
    assert teacher.features["P3"].grad is None
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_observed_are_unit_features_labels_and_what_is_large_enough(pair_of, batch_of, target_of):
    # 30 / 800 of the shorter sides 16 and 8: 0.6 and 0.3, which width and height must exceed.
    loss = GlobalKnowledge(*pair_of("P3"), terms=("global",))
    targets = [
        target_of((0, 0, 0.59, 9), (0, 0, 9, 0.59), (0, 0, 0.61, 0.61), labels=[0, 1, 1]),
        target_of(),
        target_of((0, 0, 0.59, 0.59), (0, 0, 0.31, 0.29)),
    ]

    seen = loss.observe(
        own_images(AHEAD, NEAR, FAR), batch_of((SIZE, SIZE, (8, 16)), SIZE), targets
    )

    assert seen["labels"].tolist() == [0, 1, 1, 0, 0]
    assert seen["counts"].tolist() == [False, False, True, True, False]
    torch.testing.assert_close(seen["P3"], torch.tensor([AHEAD] * 3 + [FAR] * 2))


def test_prototypes_are_chosen_from_all_batches_and_told(pair_of, batch_of, target_of):
    # Two batches; of class 1 both instances are too small, and of class 0 four are large: one
    # prototype a level, the instance 4 of all, which describes NEAR and FAR together best.
    levels = ("P3", "P4")
    loss = GlobalKnowledge(*pair_of(*levels), terms=("global",))
    batch, small = batch_of((SIZE, SIZE), SIZE), (0, 0, 0.5, 0.5)
    first = [target_of(BOX, small, labels=[0, 1]), target_of(BOX)]
    second = [target_of(small, BOX, BOX, labels=[1, 0, 0]), target_of()]

    seen = [
        [
            loss.observe(make(AHEAD, FAR, levels=levels), batch, first),
            loss.observe(make(NEAR, AHEAD, levels=levels), batch, second),
        ]
        for make in (own_images, guide_images)
    ]
    found = loss.prepare(*seen)

    assert loss.remarks == (
        "there are no prototypes of b: no box with sides above 3.75 % of the image's shorter side "
        "was found. The term 'global' leaves these classes out.",
    )
    assert found == {
        "instances": {"a": 4, "b": 0},
        "not_finite": 0,
        "prototypes": {"P3": 1, "P4": 1},
    }
    # Rows: AHEAD (box), AHEAD (small), FAR, NEAR (small), NEAR, NEAR.
    for bank in loss.banks.values():
        assert bank.chosen[0, 0] == 4
        torch.testing.assert_close(bank.own_maps[0, 0], torch.tensor(NEAR))
        torch.testing.assert_close(bank.guide_maps[0, 0], torch.tensor([*NEAR, 0.0]))


def test_each_level_has_prototypes_of_its_own_maps(pair_of, batch_of, target_of):
    levels = ("P3", "P4")
    loss, batch = GlobalKnowledge(*pair_of(*levels), terms=("global",)), batch_of((SIZE,), SIZE)
    fine, coarse = own_images(AHEAD), own_images(FAR, levels=("P4",))
    own = replace(fine, features={**fine.features, **coarse.features})
    guide = guide_images(NEAR, levels=levels)

    loss.prepare(*[[loss.observe(one, batch, [target_of(BOX)])] for one in (own, guide)])

    for level, prototype in (("P3", AHEAD), ("P4", FAR)):
        torch.testing.assert_close(loss.banks[level].own_maps[0, 0], torch.tensor(prototype))
        torch.testing.assert_close(loss.banks[level].guide_maps[0, 0], torch.tensor([*NEAR, 0.0]))


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("prototypes", ["pursuit", "kmeans", "random"])
def test_objects_whose_features_are_not_finite_are_no_prototypes(pair_of, side, prototypes):
    torch.manual_seed(0)
    loss = GlobalKnowledge(*pair_of("P3"), terms=("global",), prototypes=prototypes)
    labels, counts = torch.zeros(40, dtype=torch.int64), torch.ones(40, dtype=torch.bool)
    seen = [
        {"P3": F.normalize(torch.randn(40, channels)), "labels": labels, "counts": counts}
        for channels in (len(NEAR), len(NEAR) + 1)
    ]
    seen[side]["P3"][:30, 1] = float("nan")

    found = loss.prepare([seen[0]], [seen[1]])

    assert (found["instances"], found["not_finite"]) == ({"a": 10, "b": 0}, 30)
    chosen = loss.chosen()["a"]
    assert len(chosen) == len(set(chosen)) == 3
    assert min(chosen) >= 30
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_where_no_image_has_an_object_there_is_no_prototype(pair_of, prepared):
    loss = prepared()

    found = loss.prepare([], [])

    assert found == {"instances": {"a": 0, "b": 0}, "not_finite": 0, "prototypes": {"P3": 0}}
    fresh = GlobalKnowledge(*pair_of("P3"), terms=("global",))
    assert all(map(torch.equal, loss.buffers(), fresh.buffers()))


def test_another_loss_with_the_state_of_a_prepared_one_has_its_value(
    pair_of, prepared, batch_of, target_of
):
    loss = prepared(terms=("global", "feature"))
    other = GlobalKnowledge(*pair_of("P3"), terms=("global", "feature"))
    given = own_images(FAR), guide_images(NEAR), batch_of((SIZE,), SIZE), [target_of(BOX)]

    other.load_state_dict(loss.state_dict())

    expected = {name: value.item() for name, value in loss(*given).items()}
    assert {name: value.item() for name, value in other(*given).items()} == expected
    assert min(expected.values()) > 0


def test_it_looks_at_neck_maps_as_often_and_at_as_many_instances_as_told(pair_of):
    asked = GlobalKnowledge(*pair_of("P3"), refresh=0.5, instances=7).preparation

    assert (asked.parts, asked.objects, asked.every) == ({"features.neck"}, 7, 0.5)
    assert asked.least_side == 30 / 800


# With predictions


@pytest.fixture
def dense_spec(spec_of):
    def make(*classes, levels=("P3",), **changes):
        spec = spec_of(
            dict.fromkeys(levels, 2), parts=("dense", "features.neck"), family="retinanet"
        )
        return replace(spec, classes=ClassList(classes), **changes)

    return make


PRIORS = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])


def with_dense(output, logits, matched=None):
    return replace(
        output,
        dense=DensePrediction(
            logits=(logits,),
            box_codes=(torch.zeros(*logits.shape[:2], 4),),
            priors=(PRIORS,),
            activation="sigmoid",
            matched_labels=None if matched is None else (torch.tensor(matched),),
        ),
    )


def test_the_response_takes_the_mean_of_the_levels_reliabilities(dense_spec, batch_of, target_of):
    # One prototype of class 0, AHEAD. The first image's object differs on P3 alone: rho 0.8 and 1;
    # the second image's two on both: 0.8. KL = 0.143841 at one prior of object 0, one of object 2.
    spec, levels = dense_spec("a", levels=("P3", "P4")), ("P3", "P4")
    loss = GlobalKnowledge(spec, spec, variant="paper", projection="cosine", terms=("response",))
    batch = batch_of((SIZE,), SIZE)
    seen = loss.observe(images(AHEAD, levels=levels), batch, [target_of(BOX)])
    loss.prepare([seen], [seen])
    fine, coarse = images(FAR, FAR), images(NEAR, FAR, levels=("P4",))
    student = replace(fine, features={**fine.features, **coarse.features})
    left, right = (tuple(prior.tolist()) for prior in PRIORS)

    value = loss(
        with_dense(student, torch.full((2, 2, 1), math.log(3)), [[0, BACKGROUND], [BACKGROUND, 0]]),
        with_dense(images(NEAR, NEAR, levels=levels), torch.zeros(2, 2, 1)),
        batch_of((SIZE, SIZE), SIZE),
        [target_of(left), target_of(left, right)],
    )

    assert value.keys() == {"response"}
    expected = 5 * (0.9 + 0.8) * 0.143841 / 2
    assert value["response"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_mean_over_parts_of_a_batch_is_the_value_of_the_whole(
    dense_spec, batch_of, target_of, variant
):
    # Three images, of two, no and one object; the first part has one image.
    torch.manual_seed(0)
    spec = dense_spec("a", "b")
    loss = GlobalKnowledge(spec, spec, variant=variant)
    batch = batch_of((SIZE, (16, 8), SIZE), SIZE)
    targets = [target_of(BOX, (0, 0, 3, 2), labels=[0, 1]), target_of(), target_of(BOX)]
    maps, logits = torch.randn(2, 3, 2, 2, 2) + 0.5, torch.randn(2, 3, 2, 2)
    seen = [[loss.observe(DetectorOutput(features={"P3": one}), batch, targets)] for one in maps]
    loss.prepare(*seen)
    matched = [[0, 1], [BACKGROUND] * 2, [0, BACKGROUND]]

    def values(start, stop):
        student, teacher = (
            with_dense(
                DetectorOutput(features={"P3": one[start:stop]}),
                other[start:stop],
                matched[start:stop],
            )
            for one, other in zip(maps, logits, strict=True)
        )
        return loss(student, teacher, batch.part(start, stop), targets[start:stop])

    with counting(1 / 3) as first:
        values(0, 1)
    with counting(2 / 3) as second:
        values(1, 3)
    totals = add_up([first, second])
    with with_totals(1 / 3, totals):
        start = values(0, 1)
    with with_totals(2 / 3, totals):
        end = values(1, 3)

    whole = {name: value.item() for name, value in values(0, 3).items()}
    mean = {name: (start[name] / 3 + end[name] * 2 / 3).item() for name in start}
    assert whole.keys() == {"global", "feature", "response"}
    assert min(whole.values()) > 0
    assert mean == pytest.approx(whole, rel=1e-5)


def test_of_a_pair_that_allows_all_terms_needs_are_maps_and_predictions(dense_spec):
    loss = GlobalKnowledge(dense_spec("a", "b"), dense_spec("a", "b"))

    assert loss.needs.student == loss.needs.teacher == {"features.neck", "dense"}
    assert loss.needs.given == set()
    assert loss.remarks == ()


def test_regions_of_the_student_are_given_to_the_teacher(dense_spec):
    spec = dense_spec("a", head="region", parts=frozenset({"regions", "features.neck"}))

    needs = GlobalKnowledge(spec, spec).needs

    assert needs.student == needs.teacher == {"features.neck", "regions"}
    assert needs.given == {"regions"}


@pytest.mark.parametrize("terms", [("global",), ("feature",), ("global", "feature")])
def test_without_the_response_neck_maps_are_enough_and_nothing_is_remarked(dense_spec, terms):
    loss = GlobalKnowledge(dense_spec("a"), dense_spec("b"), terms=terms)

    assert loss.needs.student == loss.needs.teacher == {"features.neck"}
    assert loss.remarks == ()


IMPOSSIBLE = [
    # Changes of the teacher of a student that knows a and b.
    ({"head": "region"}, MissingPartError, "a dense head, the teacher 'retinanet' a region head"),
    ({"parts": frozenset({"features.neck"})}, MissingPartError, "'retinanet' does not have dense"),
    ({"classes": ClassList(("c",))}, ClassMapError, "no class of the same name"),
    ({"classes": ClassList(("b",))}, ConfigError, "both know, and there is one"),
    ({"options": {"anchor_scale": 9.0}}, ConfigError, "their priors differ"),
]


@pytest.mark.parametrize(("changes", "reason"), [(one[0], one[2]) for one in IMPOSSIBLE])
def test_a_response_that_the_pair_does_not_allow_is_left_out_with_a_remark(
    dense_spec, batch_of, target_of, changes, reason
):
    teacher = replace(dense_spec("a", "b"), **changes)
    loss = GlobalKnowledge(dense_spec("a", "b"), teacher)

    value = loss(images(FAR), images(NEAR), batch_of((SIZE,), SIZE), [target_of(BOX)])

    assert value.keys() == {"global", "feature"}
    assert loss.needs.student == loss.needs.teacher == {"features.neck"}
    (remark,) = loss.remarks
    assert remark.startswith("the term 'response' is left out: ")
    assert reason in remark


@pytest.mark.parametrize(("changes", "error", "reason"), IMPOSSIBLE)
def test_a_response_that_is_asked_for_and_not_possible_is_an_error(
    dense_spec, changes, error, reason
):
    teacher = replace(dense_spec("a", "b"), **changes)

    with pytest.raises(error, match=reason):
        GlobalKnowledge(dense_spec("a", "b"), teacher, terms=("global", "response"))


def test_a_response_that_is_not_possible_and_the_only_term_is_an_error(dense_spec):
    weights = {"global_weight": 0.0, "feature_weight": 0.0, "background_weight": 0.0}

    with pytest.raises(ClassMapError, match="no class of the same name"):
        GlobalKnowledge(dense_spec("a", "b"), dense_spec("c"), **weights)


def test_one_common_class_of_dense_heads_is_enough_in_the_paper(dense_spec):
    loss = GlobalKnowledge(dense_spec("a", "b"), dense_spec("b"), variant="paper")

    assert "dense" in loss.needs.student


@pytest.mark.parametrize("order", [("P3", "P4"), ("P4", "P3")])
def test_small_objects_are_seen_on_the_finest_level_however_levels_are_listed(
    pair_of, batch_of, target_of, order
):
    # Images of 16: sides below 2.24 are seen on P3, where the maps differ; on P4 they are equal.
    loss = GlobalKnowledge(
        *[pair_of("P3", "P4")[0]] * 2, terms=("feature",), levels=order, background_weight=0.0
    )
    student = DetectorOutput(features={"P3": torch.ones(1, 2, 2, 2), "P4": torch.ones(1, 2, 1, 1)})
    teacher = replace(student, features={**student.features, "P3": torch.zeros(1, 2, 2, 2)})
    batch = batch_of((SIZE,), SIZE)

    small, large = (
        loss(student, teacher, batch, [target_of((0, 0, side, side))])["feature"].item()
        for side in (2.0, 3.0)
    )

    assert small > 0
    assert large == 0


@pytest.mark.parametrize(
    ("variant", "terms", "is_zero"),
    [
        ("official", None, True),
        ("paper", None, False),
        ("paper", ("feature",), False),
        ("paper", ("global", "response"), True),
    ],
)
def test_it_is_zero_at_equality_but_for_the_papers_relu(dense_spec, variant, terms, is_zero):
    spec = dense_spec("a", "b")

    assert GlobalKnowledge(spec, spec, variant=variant, terms=terms).is_zero_at_equality is is_zero


def test_a_level_that_one_side_does_not_have_is_refused(pair_of):
    with pytest.raises(MissingPartError, match=r"levels: P5 is not on both sides"):
        GlobalKnowledge(*pair_of("P3", "P4"), levels=("P3", "P5"))


def test_options_without_a_meaning_are_refused(pair_of):
    with pytest.raises(ConfigError, match=r"^refresh: found -1\.0"):
        GlobalKnowledge(*pair_of("P3"), refresh=-1.0)
