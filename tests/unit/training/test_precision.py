"""Training in half precision: exact resume, overflows of fp16, and what stays in float32."""

import dataclasses
import json

import pytest
import torch

from distildet.errors import DivergedError, InterruptedRunError, StageError
from distildet.training.task import Task

LAST = "checkpoints/step-000006"
HALVES = ["bf16", "fp16"]


class Enlarged(Task):
    """Has losses so large that the gradients of fp16 overflow, and finite ones."""

    def __init__(self, student, factor):
        super().__init__(student)
        self.factor = factor

    def forward(self, batch, targets):
        losses = super().forward(batch, targets)
        return dataclasses.replace(losses, total=losses.total * self.factor)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def start_at(stage, scale):
    stage.loss_scale.restore(stage.loss_scale.state() | {"scale": scale})
    return stage


@pytest.mark.parametrize("precision", HALVES)
def test_a_run_in_half_precision_that_is_stopped_equals_one_left_in_peace(
    trainer, distilling, checkpoint_files, tmp_path, precision
):
    options = {"precision": precision, "accumulate": 2}
    trainer("whole", task=distilling(weight="auto"), **options).run()

    for step in (1, 4):
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            trainer(stop_after=step, task=distilling(weight="auto"), **options).run()
    trainer(task=distilling(weight="auto"), **options).run()

    files = checkpoint_files(tmp_path / "stage" / LAST)
    assert files == checkpoint_files(tmp_path / "whole" / LAST)
    assert records(tmp_path / "stage") == records(tmp_path / "whole")


def test_a_run_with_overflows_resumes_to_the_same_bits(
    trainer, student_of, checkpoint_files, tmp_path
):
    def stage(name="stage", **options):
        return trainer(name, task=Enlarged(student_of(), 30.0), precision="fp16", **options)

    stage("whole").run()
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        stage(stop_after=4).run()
    stage().run()

    files = checkpoint_files(tmp_path / "stage" / LAST)
    assert files == checkpoint_files(tmp_path / "whole" / LAST)
    assert records(tmp_path / "stage") == records(tmp_path / "whole")
    assert records(tmp_path / "stage")[0] == {"step": 1, "overflow_at_loss_scale": 65536.0}


@pytest.mark.parametrize("precision", HALVES)
def test_training_in_half_precision_lowers_the_loss_and_keeps_weights_in_float32(
    trainer, batch_of, tmp_path, precision
):
    result = trainer(
        steps=20,
        warmup=0.0,
        precision=precision,
        given_batches=lambda start, stop: (batch_of(0) for _ in range(start, stop)),
    ).run()

    losses = [record["loss"] for record in records(tmp_path / "stage") if "loss" in record]
    assert losses[-1] < losses[0] / 2
    floats = [v for v in result.detector.state_dict().values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}


def test_an_overflow_halves_the_scale_changes_nothing_and_is_not_rejected(
    trainer, student_of, checkpoint_files, tmp_path
):
    stage = trainer(task=Enlarged(student_of(), 1e4), precision="fp16", steps=2, checkpoint_every=1)

    result = stage.run()

    checkpoints = tmp_path / "stage" / "checkpoints"
    assert stage.loss_scale.value == 65536 / 4
    assert records(tmp_path / "stage") == [
        {"step": 1, "overflow_at_loss_scale": 65536.0},
        {"step": 2, "overflow_at_loss_scale": 32768.0},
    ]
    assert checkpoint_files(checkpoints / "step-000002") == checkpoint_files(
        checkpoints / "step-000001"
    )
    assert result.rejected == 0
    assert result.overflows == 2
    assert not (tmp_path / "stage" / "rejected").exists()


def test_the_scale_falls_until_gradients_fit_and_training_goes_on(trainer, student_of, tmp_path):
    trainer(task=Enlarged(student_of(), 30.0), precision="fp16").run()

    is_taken = ["loss" in record for record in records(tmp_path / "stage")]
    assert is_taken[:5] == [False, False, False, True, True]


def test_overflows_at_a_scale_below_1_are_rejected_and_end_the_stage(trainer, student_of, tmp_path):
    stage = trainer(task=Enlarged(student_of(), 1e30), precision="fp16", steps=30)

    with pytest.raises(DivergedError, match="10 steps in a row, the last being step 12"):
        start_at(stage, 4.0).run()

    # The scales 4, 2 and 1 come first.
    written = records(tmp_path / "stage")
    assert [record.get("overflow_at_loss_scale") for record in written[:4]] == [4.0, 2.0, 1.0, None]
    assert len(list((tmp_path / "stage" / "rejected").iterdir())) == 10


def test_a_loss_that_is_not_finite_is_rejected_in_fp16_too(trainer, spoiled):
    result = trainer(given_batches=spoiled({3}), precision="fp16").run()

    assert result.rejected == 1


def test_the_student_is_evaluated_in_float32(trainer):
    types = set()

    def evaluate(detector):
        types.add(torch.is_autocast_enabled("cpu"))
        return {"AP": 0.5}

    trainer(precision="bf16", evaluate=evaluate).run()

    assert types == {False}


def test_a_stage_begun_in_another_precision_is_refused(trainer):
    trainer(precision="bf16").run()

    with pytest.raises(StageError, match="precision was 'bf16' and is 'fp32'"):
        trainer().run()


def test_processes_leave_out_the_same_steps_and_keep_the_same_scale(
    in_processes, trainer, student_of, share_of, tmp_path
):
    def work():
        stage = trainer(
            task=Enlarged(student_of(), 30.0),
            precision="fp16",
            batch_norm="frozen",
            given_batches=lambda start, stop: (share_of(step) for step in range(start, stop)),
        )
        return stage.run().detector.state_dict(), stage.loss_scale.value

    (first, scale), (second, other_scale) = in_processes(work)

    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert scale == other_scale < 65536
    is_taken = ["loss" in record for record in records(tmp_path / "stage")]
    assert set(is_taken) == {False, True}
