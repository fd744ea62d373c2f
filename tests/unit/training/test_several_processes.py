"""Two processes that train together, against one with the same batches."""

import json

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.errors import InterruptedRunError
from distildet.losses.base import LOSSES
from distildet.ops.processes import rank
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from distildet.training.terms import Term

# Sums are added up in another order. The absolute bound is for biases that are still nearly 0,
# beside weights of about 0.1.
SAME = {"rtol": 1e-5, "atol": 5e-6}
PLAIN = {"optimizer": "sgd", "steps": 20, "batch_norm": "frozen"}
# Features of untrained teachers hardly vary, so that students swing which are told to equal them in
# units of that: rounding grows from step to step.
BRIEFLY = {"steps": 8, "lr": 1e-4}


OPTIONS = {"faster_rcnn": {"region_channels": 64, "train_proposals": 100, "region_samples": 32}}


def make_detector(family, seed):
    torch.manual_seed(seed)
    return build_detector(
        family,
        classes=ClassList(("a", "b")),
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=32,
        **OPTIONS.get(family, {}),
    )


def make_task(family, loss=None, **settings):
    # From most other teachers some step of FCOS comes so near to the kink of a ReLU that weights
    # changed by 6e-8 end 2e-5 apart, in one process too; from this one they end 5e-7 apart.
    student, teacher = make_detector(family, 0), make_detector(family, 4)
    if loss is None:
        return Task(student)
    torch.manual_seed(2)
    term = TermSettings(loss=loss, **settings)
    compared = LOSSES.get(loss)(student.spec, teacher.spec)
    return Task(student, teacher, [Term(loss, compared, term, steps=20)])


def losses(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def exit_code(trainer):
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM") as raised:
        trainer.run()
    return raised.value.exit_code


@pytest.fixture
def shares(share_of):
    return lambda start, stop: (share_of(step) for step in range(start, stop))


@pytest.fixture
def train(trainer, shares):
    """Train this process's shares and return the student's averaged weights."""

    def run(name, task=None, **settings):
        settings = {**PLAIN, "given_batches": shares, **settings}
        return trainer(name, task=task, **settings).run().detector.state_dict()

    return run


@pytest.mark.parametrize(
    ("family", "term", "settings"),
    [
        ("fcos", {}, {}),
        ("retinanet", {}, {}),
        ("fcos", {"loss": "adaptive"}, {}),
        ("fcos", {"loss": "adaptive", "weight": "auto"}, {"accumulate": 2}),
        ("retinanet", {"loss": "feature-imitation"}, {"accumulate": 2}),
        ("faster_rcnn", {}, {}),
        ("faster_rcnn", {}, {"accumulate": 2}),
        ("faster_rcnn", {"loss": "adaptive"}, {"accumulate": 2}),
    ],
)
def test_two_processes_train_as_one(in_processes, train, tmp_path, family, term, settings):
    one = train("one", make_task(family, **term), **settings)

    first, second = in_processes(lambda: train("two", make_task(family, **term), **settings))

    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, one, **SAME)
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), **SAME)


@pytest.mark.parametrize(
    ("family", "term", "settings"),
    [
        ("fcos", {"loss": "global-knowledge"}, {}),
        ("retinanet", {"loss": "global-knowledge"}, {}),
        ("faster_rcnn", {"loss": "global-knowledge"}, {}),
        ("fcos", {"loss": "hands-on-guidance", "weight": "auto"}, {"accumulate": 2, **BRIEFLY}),
        ("retinanet", {"loss": "hands-on-guidance"}, BRIEFLY),
        ("faster_rcnn", {"loss": "hands-on-guidance"}, BRIEFLY),
    ],
)
def test_two_processes_prepare_and_train_as_one(
    in_processes, trainer, shares, observed, tmp_path, family, term, settings
):
    # Three batches are looked at, two of them by process 0; a pass is four steps.
    def work(name):
        task = make_task(family, **term)
        options = {"given_batches": shares, "observed": observed(steps_per_pass=4.0)}
        options |= {**PLAIN, **settings}
        student = trainer(name, task=task, **options).run().detector.state_dict()
        return student, task.terms.state_dict()

    one = work("one")

    first, second = in_processes(lambda: work("two"))

    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, one, **SAME)
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), **SAME)


def test_a_process_without_any_box_changes_nothing(in_processes, train, share_of):
    # Images 1 and 3 are the share of process 1.
    def batches(start, stop):
        return (share_of(step, without_box=(1, 3)) for step in range(start, stop))

    def work(name):
        return train(name, make_task("fcos", loss="adaptive"), given_batches=batches)

    one = work("one")

    first, second = in_processes(lambda: work("two"))

    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(first, one, **SAME)


def test_another_number_of_processes_goes_on_with_the_stage(in_processes, train, trainer, shares):
    one = train("one", make_task("fcos"))

    def begin():
        options = {**PLAIN, "given_batches": shares, "stop_after": 10}
        return exit_code(trainer("two", task=make_task("fcos"), **options))

    stopped = in_processes(begin)
    continued = train("two", make_task("fcos"))

    assert stopped == [143, 143]
    torch.testing.assert_close(continued, one, **SAME)


def test_batch_norm_that_learns_is_the_same_in_all_processes(in_processes, train):
    first, second = in_processes(lambda: train("two", batch_norm="train"))

    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_a_share_that_is_not_finite_is_rejected_by_all(in_processes, trainer, share_of, tmp_path):
    # Only the share of process 1 in step 1 is spoiled.
    def batches(start, stop):
        for step in range(start, stop):
            batch, targets = share_of(step)
            batch.pixels[0, 0, 0, 0] += float("nan") if (step, rank()) == (1, 1) else 0.0
            yield batch, targets

    def work():
        stage = trainer(given_batches=batches)
        result = stage.run()
        return result.rejected, result.detector.state_dict()

    (rejected, first), (others_rejected, second) = in_processes(work)

    kept = json.loads((tmp_path / "stage/rejected/step-000001/targets.json").read_text())
    assert (rejected, others_rejected) == (1, 1)
    assert [entry["image"] for entry in kept] == ["1-0", "1-1", "1-2", "1-3"]
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_diverged_processes_end_with_the_same_error(in_processes, trainer, share_of):
    def batches(start, stop):
        for step in range(start, stop):
            batch, targets = share_of(step)
            batch.pixels[:] = float("inf") if rank() == 1 else batch.pixels
            yield batch, targets

    first, second = in_processes(lambda: trainer(given_batches=batches, steps=12).run())

    assert first.exit_code == 4
    assert "10 steps in a row, the last being step 9" in str(first)
    assert str(second) == str(first)


def test_a_signal_to_one_process_stops_all_after_a_checkpoint(
    in_processes, trainer, shares, tmp_path
):
    def work():
        stop_after = 3 if rank() == 1 else None
        return exit_code(trainer(given_batches=shares, stop_after=stop_after))

    assert in_processes(work) == [143, 143]
    assert [p.name for p in (tmp_path / "stage" / "checkpoints").iterdir()] == ["step-000003"]


def test_a_full_disk_is_told_to_all(in_processes, trainer, shares, tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "checkpoints").write_text("a file where the folder should be")

    first, second = in_processes(lambda: trainer(given_batches=shares).run())

    assert "checkpoints" in str(first)
    assert str(first) == str(second)


def test_memory_that_runs_out_ends_several_processes(in_processes, trainer, shares):
    class TaskWithoutMemory(Task):
        def forward(self, batch, targets):
            raise torch.OutOfMemoryError

    def work():
        task = TaskWithoutMemory(make_detector("fcos", 0))
        trainer(task=task, given_batches=shares, batch_norm="frozen").run()

    assert ["The other processes wait" in str(error) for error in in_processes(work)] == [True] * 2
