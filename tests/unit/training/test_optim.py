import pytest
import torch

from distildet.training.optim import build_optimizer, learning_rate, set_learning_rate
from distildet.training.settings import TrainSettings


def settings(**changes):
    return TrainSettings(**{"seed": 0, "stage": "s", "steps": 10, "lr": 1.0, **changes})


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.5),  # 1 of 2 warm-up steps
        (1, 1.0),  # 2 of 2
        (2, 1.0),  # (1 + cos 0) / 2
        (6, 0.5),  # (1 + cos(4/8 pi)) / 2
        (9, 0.03806023),  # (1 + cos(7/8 pi)) / 2 = (1 - 0.92387953) / 2
    ],
)
def test_the_rate_rises_linearly_and_falls_as_a_cosine(step, expected):
    assert learning_rate(step, settings(warmup=0.2)) == pytest.approx(expected)


def test_a_constant_rate_stays_after_the_warm_up():
    rates = [learning_rate(step, settings(warmup=0.2, decay="constant")) for step in (0, 1, 9)]

    assert rates == [0.5, 1.0, 1.0]


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert learning_rate(0, settings(warmup=0.0, lr=0.3)) == 0.3


def test_a_stage_of_warm_up_alone_ends_at_the_peak():
    assert learning_rate(9, settings(warmup=1.0)) == 1.0


def test_the_backbone_has_its_own_rate(student):
    optimizer = build_optimizer(student, settings(backbone_lr_factor=0.1))
    in_backbone = {id(parameter) for parameter in student.backbone_parameters()}

    set_learning_rate(optimizer, 0.5)

    rate_by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rate_by_id[key] for key in in_backbone} == {0.05}
    assert {rate for key, rate in rate_by_id.items() if key not in in_backbone} == {0.5}


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one(student):
    student.freeze_batch_norm()

    optimizer = build_optimizer(student, settings())

    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    assert len(given) < len(list(student.parameters()))


def test_projectors_learn_at_the_full_rate_and_decay_as_convolutions(student):
    projector = torch.nn.Conv2d(2, 3, 1)

    optimizer = build_optimizer(
        student,
        settings(backbone_lr_factor=0.1, weight_decay=0.3),
        projectors=projector.parameters(),
    )

    group_by_id = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    weight, bias = group_by_id[id(projector.weight)], group_by_id[id(projector.bias)]
    assert (weight["lr_factor"], weight["weight_decay"]) == (1.0, 0.3)
    assert (bias["lr_factor"], bias["weight_decay"]) == (1.0, 0.0)


def test_only_weights_with_two_or_more_axes_decay(student):
    optimizer = build_optimizer(student, settings(weight_decay=0.3))

    assert {
        (group["weight_decay"], parameter.ndim > 1)
        for group in optimizer.param_groups
        for parameter in group["params"]
    } == {(0.3, True), (0.0, False)}


def test_the_named_optimiser_is_built_with_its_momentum(student):
    sgd = build_optimizer(student, settings(optimizer="sgd", momentum=0.8))
    adamw = build_optimizer(student, settings(optimizer="adamw", momentum=0.8))

    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.8
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.999)
