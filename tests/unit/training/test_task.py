import copy
from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.errors import ConfigError
from distildet.losses.adaptive import Adaptive
from distildet.losses.hands_on_guidance.loss import HandsOnGuidance
from distildet.training.settings import TermSettings
from distildet.training.task import Task, backward, split_batch
from distildet.training.terms import Term

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1, 1, 1, 1, 1]), (9, [1, 1, 1, 1, 1])],
)
def test_micro_batches_are_equal_but_for_the_last(batch_of, parts, sizes):
    pieces = split_batch(*batch_of(0, images=5), parts)

    assert [len(piece) for piece, _ in pieces] == sizes
    assert [len(targets) for _, targets in pieces] == sizes


def test_micro_batches_hold_every_image_once_on_the_same_canvas(batch_of):
    batch, targets = batch_of(0, images=5)

    pieces = split_batch(batch, targets, 2)

    for name in ("pixels", "sizes", "image_sizes", "image_to_batch"):
        joined = torch.cat([getattr(piece, name) for piece, _ in pieces])
        assert joined.equal(getattr(batch, name))
    assert pieces[0][0].image_ids + pieces[1][0].image_ids == batch.image_ids
    assert tuple(pieces[0][1]) + tuple(pieces[1][1]) == targets


def test_the_total_is_the_sum_of_the_parts(student, batch_of):
    losses = Task(student)(*batch_of(0))

    assert losses.parts.keys() == {"classification", "box"}
    assert losses.total.item() == pytest.approx(sum(v.item() for v in losses.parts.values()))


SMALL = {
    "backbone": "test_efficientnet",
    "image_size": 32,
    "backbone_levels": ("C3", "C4"),
    "extra_levels": 0,
    "neck_channels": 8,
}
OPTIONS = {
    "retinanet": {"head_depth": 1, "anchor_scale": 2.0},
    "fcos": {"head_depth": 1},
    "faster_rcnn": {
        "anchor_scale": 2.0,
        "proposal_samples": 20,
        "train_proposals": 30,
        "region_samples": 12,
        "region_channels": 16,
    },
}


def make_detector(family):
    torch.manual_seed(0)
    return build_detector(family, classes=ClassList(("a", "b")), **SMALL, **OPTIONS[family])


def gradients_of(task, batch, targets, parts):
    task.zero_grad()
    torch.manual_seed(3)
    losses = backward(task, batch, targets, micro_batches=parts, device=CPU)
    return losses, {n: p.grad.clone() for n, p in task.named_parameters() if p.requires_grad}


@pytest.fixture(params=sorted(OPTIONS))
def of_any_family(request):
    student = make_detector(request.param).train()
    student.freeze_batch_norm()
    return student


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_of_8_equals_its_micro_batches_with_frozen_batch_norm(
    of_any_family, batch_of, parts
):
    task = Task(of_any_family)
    # 3 of 8 images without a box, spread unevenly over the parts
    batch, targets = batch_of(0, images=8)
    targets = (targets[7], targets[7], *targets[2:])
    whole_losses, whole = gradients_of(task, batch, targets, 1)

    losses, accumulated = gradients_of(task, batch, targets, parts)

    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weight", [2.0, "auto"])
def test_a_distilled_batch_equals_its_micro_batches(distilling, batch_of, weight):
    batch, targets = batch_of(0, images=8)
    tasks = [distilling(weight=weight).train() for _ in range(2)]
    for task in tasks:
        task.student.freeze_batch_norm()

    whole_losses, whole = gradients_of(tasks[0], batch, targets, 1)
    losses, accumulated = gradients_of(tasks[1], batch, targets, 3)

    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_the_pass_that_counts_leaves_no_trace_in_batch_norm(batch_of):
    batch, targets = batch_of(0)
    student = make_detector("fcos").train()
    alone, counted = Task(copy.deepcopy(student)), Task(student)
    for piece, piece_targets in split_batch(batch, targets, 2):
        alone(piece, piece_targets)

    backward(counted, batch, targets, micro_batches=2, device=CPU)

    torch.testing.assert_close(
        dict(counted.named_buffers()), dict(alone.named_buffers()), rtol=1e-4, atol=1e-6
    )


def test_micro_batches_draw_the_same_regions_after_other_draws(batch_of):
    torch.manual_seed(0)
    student = make_detector("faster_rcnn").train()
    student.freeze_batch_norm()

    def draw_as_dropout_does(module, pixels):
        torch.rand(len(pixels[0]))

    student.backbone.register_forward_pre_hook(draw_as_dropout_does)
    batch, targets = batch_of(0, images=4)

    whole_losses, whole = gradients_of(Task(student), batch, targets, 1)
    losses, accumulated = gradients_of(Task(student), batch, targets, 2)

    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_a_micro_batch_draws_what_it_drew_while_it_was_counted_and_no_other_draws_so(
    batch_of,
):
    student, drawn = make_detector("fcos"), []
    student.backbone.register_forward_pre_hook(
        lambda module, args: drawn.append(torch.rand(()).item())
    )

    backward(Task(student), *batch_of(0), micro_batches=2, device=CPU)

    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_only_what_a_pass_may_change_is_copied(distilling, batch_of):
    task = distilling(weight="auto").train()
    of_batch_norm = len(task.buffer_values())

    task.student.freeze_batch_norm()

    assert of_batch_norm == len(list(task.student.buffers()))
    assert task.buffer_values() == []


def test_only_terms_whose_losses_look_beforehand_are_prepared(distilling, preparing):
    looking, other = preparing(), distilling()

    both = Task(looking.student, looking.teacher, [*other.terms, *looking.terms])

    (term,) = looking.terms
    assert both.preparations == {term: term.loss.preparation}
    assert other.preparations == {}


def test_what_a_loss_has_prepared_is_not_copied(preparing, batch_of):
    task = preparing().train()
    task.student.freeze_batch_norm()

    assert any("banks" in name for name, _ in task.named_buffers())
    assert task.buffer_values() == []


def test_a_loss_that_has_prepared_nothing_yet_gives_finite_losses(preparing, batch_of):
    task = preparing().train()

    losses = backward(task, *batch_of(0), micro_batches=2, device=CPU)

    assert losses["global-knowledge.global"] == 0
    assert all(value.isfinite() for value in losses.values())


def test_buffers_that_a_pass_has_changed_can_be_put_back(student, batch_of):
    task = Task(student).train()
    before = {name: value.clone() for name, value in task.named_buffers()}
    values = task.buffer_values()
    task(*batch_of(0))
    changed = [name for name, value in task.named_buffers() if not value.equal(before[name])]

    task.put_back(values)

    assert changed
    torch.testing.assert_close(dict(task.named_buffers()), before, rtol=0, atol=0)


def test_a_batch_without_any_box_gives_every_trainable_weight_a_gradient(student, batch_of):
    batch, targets = batch_of(0)

    backward(Task(student.train()), batch, [targets[-1]] * 4, micro_batches=1, device=CPU)

    assert [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None] == []


# Distillation


class Watched(torch.nn.Module):
    """A detector that notes what its passes were asked for and given, and if with a gradient."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        self.spec = detector.spec
        self.passes = []
        self.given = []

    def forward(self, batch, targets=None, *, want, given=None):
        self.passes.append((sorted(want), targets is not None, torch.is_grad_enabled()))
        self.given.append(given)
        return self.detector(batch, targets, want=want, given=given)


def watch(task):
    task.student, task._teacher = Watched(task.student), (Watched(task.teacher),)
    return task


def make_task_of_regions():
    student, teacher = make_detector("faster_rcnn"), make_detector("faster_rcnn")
    for weights in teacher.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    term = TermSettings(loss="adaptive")
    loss = Adaptive(student.spec, teacher.spec)
    return Task(student, teacher, [Term("adaptive", loss, term, steps=4)])


def test_the_teacher_judges_the_regions_that_the_student_learns_from(batch_of):
    task = watch(make_task_of_regions().train())

    task(*batch_of(0))

    [given] = task.teacher.given
    assert task.student.passes == [(["losses", "regions"], True, True)]
    assert task.teacher.passes == [(["regions"], False, False)]
    assert given.keys() == {"regions"}
    # A few of the test proposals: region_samples is 12.
    assert [len(boxes) for boxes in given["regions"].proposals] == [12] * 4


def test_a_teacher_of_equal_weights_says_of_the_students_regions_what_the_student_says(batch_of):
    task = make_task_of_regions().train()
    task.student.freeze_batch_norm()
    task.teacher.load_state_dict(task.student.state_dict())

    parts = task(*batch_of(0)).parts

    assert parts["adaptive.classification"].item() == pytest.approx(0, abs=1e-6)
    assert parts["classification"] > 0


def test_a_teacher_whose_terms_read_no_regions_is_given_nothing(distilling, batch_of):
    task = watch(distilling())

    task(*batch_of(0))

    assert task.teacher.given == [{}]


UNDECIDED = torch.tensor([[x, y, x + 12.0, y + 12.0] for x in (0, 8, 16) for y in (0, 8, 16)])


@pytest.mark.parametrize(
    "changes", [{}, {"origin": "teacher", "ignore": UNDECIDED}], ids=["human", "teacher"]
)
def test_a_batch_whose_regions_are_compared_equals_its_micro_batches(batch_of, changes):
    batch, targets = batch_of(0, images=8)
    # Undecided regions in some images alone.
    targets = tuple(replace(t, **changes) if i % 3 else t for i, t in enumerate(targets))
    task = make_task_of_regions().train()
    task.student.freeze_batch_norm()

    whole_losses, whole = gradients_of(task, batch, targets, 1)
    losses, accumulated = gradients_of(task, batch, targets, 3)

    assert whole_losses["adaptive.classification"] > 0
    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_the_total_has_each_term_times_its_factor(distilling, batch_of):
    task = distilling(weight=3.0, decay="linear")
    task.progress = 0.75

    losses = task(*batch_of(0))

    parts = {name: value.item() for name, value in losses.parts.items()}
    assert parts.keys() == {"classification", "box", "feature-imitation.feature"}
    assert losses.factors["feature-imitation.factor"].item() == 0.75
    assert losses.total.item() == pytest.approx(
        parts["classification"] + parts["box"] + 0.75 * parts["feature-imitation.feature"]
    )


def test_student_and_teacher_see_the_batch_once_for_the_parts_that_the_terms_need(
    distilling, batch_of
):
    task = watch(distilling())

    task(*batch_of(0))

    assert task.student.passes == [(["features.neck", "losses"], True, True)]
    assert task.teacher.passes == [(["features.neck"], False, False)]


@pytest.mark.parametrize(
    ("settings", "progress"),
    [
        ({"weight": 0.0}, 0.0),
        ({"weight": 0}, 0.5),
        ({"start": 0.5}, 0.4),
        ({"stop": 0.5}, 0.5),
    ],
)
def test_a_term_that_does_not_count_costs_no_pass_and_changes_nothing(
    distilling, student, batch_of, settings, progress
):
    task = watch(distilling(**settings))
    task.progress = progress

    losses = task(*batch_of(0))

    assert task.teacher.passes == []
    assert losses.factors == {}
    torch.testing.assert_close(losses.total, Task(student)(*batch_of(0)).total, rtol=0, atol=0)


def test_the_figures_of_a_task_are_those_of_all_its_terms(distilling):
    task = distilling()
    spec, settings = task.student.spec, TermSettings(loss="x")
    losses = [HandsOnGuidance(spec, spec, groups=(group,)) for group in ("backbone", "neck")]
    terms = [Term(f"x-{i}", loss, settings, steps=4) for i, loss in enumerate(losses)]

    of_all = Task(task.student, task.teacher, [*terms, *task.terms]).figure_names

    kinds = ("difference", "weight", "foreground", "evenness")
    assert of_all == {
        f"{name}.{kind}" for name in ("x-0.C3", "x-0.C4", "x-1.P3", "x-1.P4") for kind in kinds
    }
    assert task.figure_names == frozenset()


def test_a_term_of_weight_0_has_no_projector(distilling):
    assert list(distilling(weight=0.0).terms.parameters()) == []


def test_the_teacher_is_no_part_of_the_tasks_state(distilling):
    task = distilling().train()

    assert {name.split(".")[0] for name in task.state_dict()} == {"student", "terms"}
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    assert not any(module.training for module in task.teacher.modules())


def test_the_projectors_and_an_automatic_weight_are(distilling):
    names = distilling(weight="auto", options={"levels": ("P3",)}).terms.state_dict().keys()

    assert names == {
        "0.loss.projectors.P3.weight",
        "0.loss.projectors.P3.bias",
        "0.auto_weight.value",
        "0.auto_weight.detector_sum",
        "0.auto_weight.term_sum",
        "0.auto_weight.seen",
    }


def test_gradients_reach_student_and_projectors_and_leave_the_teacher_as_it_was(
    distilling, batch_of
):
    task = distilling().train()
    before = {name: value.clone() for name, value in task.teacher.state_dict().items()}

    losses = backward(task, *batch_of(0), micro_batches=2, device=CPU)

    assert losses.keys() == {
        "classification",
        "box",
        "feature-imitation.feature",
        "feature-imitation.factor",
        "loss",
    }
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    torch.testing.assert_close(task.teacher.state_dict(), before, rtol=0, atol=0)


def test_terms_without_a_teacher_are_refused(distilling, student):
    with pytest.raises(ConfigError, match="distill: a distillation loss compares the student with"):
        Task(student, terms=distilling().terms)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_student_and_teacher_compute_in_half_precision_and_terms_in_float32(
    distilling, batch_of, precision, dtype
):
    task = distilling()
    task.precision = precision
    in_networks, in_terms = set(), set()
    for detector in (task.student, task.teacher):
        detector.neck.register_forward_hook(
            lambda module, args, maps: in_networks.update(one.dtype for one in maps.values())
        )
    task.terms[0].loss.projectors["P3"].register_forward_hook(
        lambda module, args, projected: in_terms.update({args[0].dtype, projected.dtype})
    )

    losses = task(*batch_of(0))

    assert in_networks == {dtype}
    assert in_terms == {torch.float32}
    assert {value.dtype for value in losses.parts.values()} == {torch.float32}


def test_scaled_losses_give_scaled_gradients_and_are_told_as_they_are(distilling, batch_of):
    plain, scaled = distilling(), distilling()

    told = backward(plain, *batch_of(0), micro_batches=2, device=CPU)
    told_scaled = backward(
        scaled, *batch_of(0), micro_batches=2, device=CPU, scaled=lambda loss: 1024 * loss
    )

    # A power of two changes no digit.
    assert told_scaled == told
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(other.grad, 1024 * one.grad)
