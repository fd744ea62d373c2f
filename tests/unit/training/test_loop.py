import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.errors import DivergedError, InterruptedRunError, ResourceError, StageError
from distildet.training.loop import seed_everything
from distildet.training.task import Task

LAST = "checkpoints/step-000006"
SETTINGS = [
    pytest.param(
        {"optimizer": optimizer, "accumulate": accumulate, "ema": ema, "batch_norm": batch_norm},
        id=f"{optimizer}-{accumulate}-{ema}-{batch_norm}",
    )
    for optimizer in ("sgd", "adamw")
    for accumulate in (1, 2)
    for ema in (0.0, 0.9)
    for batch_norm in ("train", "frozen")
]


class TaskOfSmallMemory(Task):
    """Has no room for more than `largest` images at once."""

    def __init__(self, student, largest, error=None):
        super().__init__(student)
        self.largest = largest
        self.error = error or torch.OutOfMemoryError()

    def forward(self, batch, targets):
        losses = super().forward(batch, targets)  # BatchNorm has then seen the images
        if len(batch) > self.largest:
            raise self.error
        return losses


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_after_each(trainer, steps, **options):
    for step in steps:
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            trainer(stop_after=step, **options).run()


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_run_stopped_after_every_step_equals_one_left_in_peace(
    trainer, checkpoint_files, tmp_path, settings
):
    trainer("whole", **settings).run()

    stop_after_each(trainer, range(1, 7), **settings)
    trainer(**settings).run()

    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )
    assert records(tmp_path / "stage") == records(tmp_path / "whole")
    assert len(records(tmp_path / "stage")) == 6


@pytest.mark.parametrize("family", ["fcos", "faster_rcnn"])
def test_every_family_stopped_after_every_step_equals_one_left_in_peace(
    trainer, checkpoint_files, tmp_path, family
):
    # Faster R-CNN draws anchors and regions from the global generator.
    def student():
        torch.manual_seed(0)
        return build_detector(
            family,
            classes=ClassList(("a", "b")),
            backbone="test_efficientnet",
            image_size=32,
            backbone_levels=("C3", "C4"),
            extra_levels=0,
            neck_channels=8,
        )

    trainer("whole", task=Task(student())).run()

    for step in range(1, 7):
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            trainer(stop_after=step, task=Task(student())).run()
    trainer(task=Task(student())).run()

    files = checkpoint_files(tmp_path / "stage" / LAST)
    assert files == checkpoint_files(tmp_path / "whole" / LAST)
    assert records(tmp_path / "stage") == records(tmp_path / "whole")


@pytest.mark.parametrize(
    ("term", "settings"),
    [
        ({"weight": "auto"}, {}),
        ({"weight": "auto"}, {"accumulate": 2}),
        ({"weight": "auto", "start": 0.4, "stop": 0.9, "decay": "cosine"}, {}),
    ],
)
def test_a_distilling_run_stopped_after_every_step_equals_one_left_in_peace(
    trainer, distilling, checkpoint_files, tmp_path, term, settings
):
    trainer("whole", task=distilling(**term), **settings).run()

    for step in range(1, 7):
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            trainer(stop_after=step, task=distilling(**term), **settings).run()
    trainer(task=distilling(**term), **settings).run()

    files = checkpoint_files(tmp_path / "stage" / LAST)
    assert files == checkpoint_files(tmp_path / "whole" / LAST)
    assert records(tmp_path / "stage") == records(tmp_path / "whole")


def test_distillation_trains_the_projectors_and_not_the_teacher(trainer, distilling):
    task = distilling()
    teacher = {name: value.clone() for name, value in task.teacher.state_dict().items()}
    projectors = [parameter.clone() for parameter in task.terms.parameters()]

    result = trainer(task=task).run()

    torch.testing.assert_close(task.teacher.state_dict(), teacher, rtol=0, atol=0)
    assert not any(map(torch.equal, task.terms.parameters(), projectors))
    assert result.detector.state_dict().keys() == task.student.state_dict().keys()


def test_the_course_of_a_term_follows_the_steps(trainer, distilling, tmp_path):
    # Progress 0, 1/6 .. 5/6; from 1/3 to 2/3: steps 3 and 4.
    trainer(task=distilling(weight=2.0, start=1 / 3, stop=2 / 3)).run()

    factors = [record.get("feature-imitation.factor") for record in records(tmp_path / "stage")]
    assert factors == [None, None, 2.0, 2.0, None, None]


def test_a_rejected_step_leaves_the_automatic_weight_as_it_was(trainer, distilling, spoiled):
    # The only batch of the calibration is spoiled: the next one takes its place.
    task = distilling(weight="auto")
    task.terms[0].auto_weight.steps = 1

    result = trainer(task=task, given_batches=spoiled({0}), steps=2).run()

    assert result.rejected == 1
    assert task.terms[0].auto_weight.seen.item() == 1
    assert task.terms[0].auto_weight.value.isfinite()


def test_steps_after_the_last_checkpoint_are_done_again_with_the_same_result(
    trainer, checkpoint_files, spoiled, tmp_path
):
    def killed_in_the_sixth_step(start, stop):
        yield from spoiled(())(start, stop - 1)
        raise KeyboardInterrupt

    trainer("whole").run()

    with pytest.raises(KeyboardInterrupt):
        trainer(checkpoint_every=3, given_batches=killed_in_the_sixth_step).run()
    before = [record["step"] for record in records(tmp_path / "stage")]
    trainer(checkpoint_every=3).run()

    assert before == [1, 2, 3, 4, 5]
    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )
    assert records(tmp_path / "stage") == records(tmp_path / "whole")


def test_training_changes_the_weights_and_lowers_the_loss(trainer, batch_of, tmp_path):
    trainer(
        steps=20,
        warmup=0.0,
        given_batches=lambda start, stop: (batch_of(0) for _ in range(start, stop)),
    ).run()

    losses = [record["loss"] for record in records(tmp_path / "stage")]
    assert losses[-1] < losses[0] / 2


def test_a_finished_stage_gives_its_student_again_without_a_step(trainer, tmp_path):
    first = trainer().run().detector.state_dict()
    before = (tmp_path / "stage" / "metrics.jsonl").read_bytes()

    again = trainer().run().detector.state_dict()

    assert (tmp_path / "stage" / "metrics.jsonl").read_bytes() == before
    torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_a_record_has_the_losses_their_sum_the_gradient_and_the_rate(trainer, tmp_path):
    trainer(steps=1, warmup=0.0, lr=0.25).run()

    (record,) = records(tmp_path / "stage")
    assert record.keys() == {"step", "classification", "box", "loss", "gradient_norm", "lr"}
    assert record["loss"] == pytest.approx(record["classification"] + record["box"])
    assert record["lr"] == 0.25


def test_the_gradient_is_clipped_to_its_largest_norm(trainer):
    stage = trainer(steps=1, clip=0.5, batch_norm="frozen")

    stage.run()

    gradients = [p.grad.flatten() for p in stage.task.parameters() if p.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_frozen_batch_norm_keeps_its_statistics_and_scales(trainer, student):
    before = {n: v for n, v in student.state_dict().items() if ".bn" in n}

    after = trainer(batch_norm="frozen").run().detector.state_dict()

    assert before
    torch.testing.assert_close({n: after[n] for n in before}, before, rtol=0, atol=0)


# Non-finite losses


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_non_finite_step_changes_no_weight_buffer_average_or_optimiser_state(
    trainer, checkpoint_files, spoiled, tmp_path, value, optimizer
):
    trainer(
        given_batches=spoiled({3}, value), steps=4, checkpoint_every=1, optimizer=optimizer
    ).run()

    checkpoints = tmp_path / "stage" / "checkpoints"
    assert checkpoint_files(checkpoints / "step-000004") == checkpoint_files(
        checkpoints / "step-000003"
    )
    assert checkpoint_files(checkpoints / "step-000004").keys() == {
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
    }


def test_a_non_finite_step_is_counted_and_its_batch_kept(trainer, batch_of, spoiled, tmp_path):
    result = trainer(given_batches=spoiled({1, 4})).run()

    kept = tmp_path / "stage" / "rejected" / "step-000004"
    pixels = load_file(kept / "pixels.safetensors")["pixels"]
    described = json.loads((kept / "targets.json").read_text())
    batch, targets = batch_of(4)
    assert result.rejected == 2
    assert records(tmp_path / "stage")[4] == {"step": 5, "rejected": ["4-0", "4-1", "4-2", "4-3"]}
    assert torch.isnan(pixels).nonzero().tolist() == [[0, 0, 0, 0]]
    assert pixels[1:].equal(batch.pixels[1:])
    assert [entry["image"] for entry in described] == ["4-0", "4-1", "4-2", "4-3"]
    assert described[0]["boxes"] == targets[0].boxes.tolist()
    assert described[0]["size"] == [32, 32]


def test_a_run_with_a_non_finite_step_resumes_to_the_same_bits(
    trainer, checkpoint_files, spoiled, tmp_path
):
    trainer("whole", given_batches=spoiled({2})).run()

    stop_after_each(trainer, (1, 2, 4, 5), given_batches=spoiled({2}))
    result = trainer(given_batches=spoiled({2})).run()

    assert result.rejected == 1
    assert records(tmp_path / "stage") == records(tmp_path / "whole")
    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )


def test_ten_non_finite_steps_in_a_row_stop_the_stage_and_keep_the_last_checkpoint(
    trainer, spoiled, tmp_path
):
    options = {
        "steps": 20,
        "checkpoint_every": 2,
        "given_batches": spoiled(range(3, 20)),
    }

    with pytest.raises(DivergedError, match="10 steps in a row, the last being step 12") as raised:
        trainer(**options).run()

    assert raised.value.exit_code == 4
    assert len(list((tmp_path / "stage" / "rejected").iterdir())) == 10
    with pytest.raises(DivergedError, match="10 steps in a row, the last being step 12"):
        trainer(**options).run()


def test_nine_non_finite_steps_in_a_row_are_lived_through(trainer, spoiled):
    result = trainer(steps=20, given_batches=spoiled({*range(9), *range(10, 19)})).run()

    assert result.rejected == 18


# Memory


@pytest.mark.parametrize(("largest", "parts"), [(2, 2), (1, 4)])
def test_memory_that_runs_out_splits_batches_as_accumulation_would(
    trainer, student, checkpoint_files, tmp_path, largest, parts
):
    trainer("whole", accumulate=parts, batch_norm="frozen").run()

    result = trainer(task=TaskOfSmallMemory(student, largest), batch_norm="frozen").run()

    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )
    assert len(result.warnings) == 1
    assert f"Set accumulate to {parts}" in result.warnings[0]


def test_batches_are_split_as_a_recipe_could_ask_for_it(trainer, student, batch_of):
    # 2 micro-batches of 3 images are too large; 4 would not divide the batch.
    result = trainer(
        task=TaskOfSmallMemory(student, 2),
        batch_norm="frozen",
        given_batches=lambda start, stop: (batch_of(i, images=6) for i in range(start, stop)),
    ).run()

    assert "split into 3 micro-batches. Set accumulate to 3 to" in result.warnings[0]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("MPS backend out of memory (MPS allocated: 17.2 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_on_any_device_splits_batches(trainer, student, error):
    result = trainer(task=TaskOfSmallMemory(student, 2, error), batch_norm="frozen").run()

    assert "Set accumulate to 2" in result.warnings[0]


def test_other_errors_of_a_pass_are_not_taken_for_the_lack_of_memory(trainer, student):
    task = TaskOfSmallMemory(student, 0, RuntimeError("a bug"))

    with pytest.raises(RuntimeError, match="a bug"):
        trainer(task=task, batch_norm="frozen").run()


def test_memory_that_runs_out_after_the_gradients_is_an_error_with_advice(trainer):
    def run_out(*_):
        raise torch.OutOfMemoryError

    stage = trainer()
    stage.optimizer.register_step_pre_hook(run_out)

    with pytest.raises(ResourceError, match=r"cpu ran out in step 0, while weights .* --out"):
        stage.run()


def test_memory_too_small_for_one_image_is_an_error_that_names_the_images(trainer, student):
    with pytest.raises(ResourceError, match=r"1 images of 32x32 pixels with .* 0-0, 0-1"):
        trainer(task=TaskOfSmallMemory(student, 0), batch_norm="frozen").run()


def test_batches_that_batch_norm_learns_from_are_not_split(trainer, student):
    with pytest.raises(ResourceError, match=r"ran out in step 0: 4 images.* batch_norm: frozen"):
        trainer(task=TaskOfSmallMemory(student, 2)).run()


# Evaluation and checkpoints


def test_the_checkpoint_with_the_best_ap_and_the_last_two_are_kept(trainer, tmp_path):
    measured = iter([None, 0.1, 0.3, 0.2])

    trainer(
        steps=8, evaluations=4, evaluate=lambda detector: {"AP": next(measured), "AP50": 0.5}
    ).run()

    checkpoints = tmp_path / "stage" / "checkpoints"
    state = json.loads((checkpoints / "best" / "state.json").read_text())
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        "best",
        "step-000006",
        "step-000008",
    ]
    assert (state["step"], state["best_step"], state["best_ap"]) == (6, 6, 0.3)
    assert [r for r in records(tmp_path / "stage") if "AP" in r] == [
        {"step": 2, "AP": None, "AP50": 0.5},
        {"step": 4, "AP": 0.1, "AP50": 0.5},
        {"step": 6, "AP": 0.3, "AP50": 0.5},
        {"step": 8, "AP": 0.2, "AP50": 0.5},
    ]


def test_the_averaged_student_is_evaluated_in_eval_mode(trainer):
    seen = []

    result = trainer(evaluations=1, evaluate=lambda detector: seen.append(detector) or {}).run()

    assert seen == [result.detector]
    assert not result.detector.training


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_used(
    trainer, checkpoint_files, tmp_path
):
    trainer("whole").run()
    stop_after_each(trainer, (2, 4))
    (tmp_path / "stage" / "checkpoints" / "step-000004" / "manifest.json").unlink()

    result = trainer().run()

    assert len(result.warnings) == 1
    assert "step-000004: skipped, manifest.json cannot be read" in result.warnings[0]
    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )
    assert records(tmp_path / "stage") == records(tmp_path / "whole")


def test_what_a_killed_writer_left_is_deleted(trainer, tmp_path):
    leftovers = [
        tmp_path / "stage" / ".partial-metrics",
        tmp_path / "stage" / "checkpoints" / ".partial-step",
        tmp_path / "stage" / "rejected" / ".partial-batch",
    ]
    trainer(stop_after=None, steps=1).run()
    for leftover in leftovers:
        leftover.mkdir(parents=True)

    trainer(steps=1).run()

    assert not any(leftover.exists() for leftover in leftovers)


def test_other_settings_are_refused_with_the_old_and_the_new_value(trainer):
    stop_after_each(trainer, (1,))

    with pytest.raises(StageError, match=r"clip was 10\.0 and is 5\.0; lr was 0\.01 and is 0\.02"):
        trainer(lr=0.02, clip=5.0).run()


def test_a_checkpoint_of_another_student_is_refused(trainer, student_of):
    stop_after_each(trainer, (1,))

    with pytest.raises(StageError, match="belongs to another student"):
        trainer(task=Task(student_of("abc"))).run()


def test_all_generators_are_seeded_from_seed_stage_and_step():
    def draw(*arguments):
        seed_everything(*arguments)
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002, S311

    same, again = draw(0, "01-train", 5), draw(0, "01-train", 5)
    others = [draw(1, "01-train", 5), draw(0, "02-train", 5), draw(0, "01-train", 6)]

    assert same == again
    assert len({same, *others}) == 4
