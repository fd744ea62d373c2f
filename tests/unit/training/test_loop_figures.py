"""What a loss tells beside its parts, and what it learns from the steps of a stage."""

import json

import pytest
import torch

from distildet.errors import InterruptedRunError
from distildet.losses.base import DistillationLoss, Needs
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from distildet.training.terms import Term

NECK = frozenset({"features.neck"})


class LearnsMeans(DistillationLoss):
    """The mean square of a map; its mean is a figure, of which it keeps the sum."""

    needs = Needs(student=NECK, teacher=frozenset())
    counts_over_batch = False
    figures = frozenset({"mean"})

    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.register_buffer("sum", torch.zeros((), dtype=torch.float64))
        self.learned = []

    def learn(self, values, *, progress):
        self.learned.append((progress, dict(values)))
        self.sum += values["mean"]

    def forward(self, student, teacher, batch, targets):
        feature = student.features["P3"]
        return {"square": feature.square().mean(), "mean": feature.detach().mean()}


@pytest.fixture
def task(distilling):
    """A task with one such loss."""

    def make(**settings):
        pair = distilling()
        loss = LearnsMeans(pair.student.spec, pair.teacher.spec)
        settings = TermSettings(loss="x", **settings)
        return Task(pair.student, pair.teacher, [Term("learns", loss, settings, steps=6)])

    return make


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def means_in(folder):
    return [record.get("learns.mean") for record in records(folder)]


def test_figures_are_in_the_log_and_not_among_the_losses_that_are_shown(trainer, task, tmp_path):
    told = []
    stage = trainer(task=task(), steps=1)
    stage.progress = lambda done, total, values: told.append(values)

    stage.run()

    (shown,), (noted,) = told, records(tmp_path / "stage")
    assert shown.keys() == {
        *("classification", "box", "loss", "gradient_norm"),
        *("learns.square", "learns.factor"),
    }
    assert noted == {
        "step": 1,
        **shown,
        "learns.mean": noted["learns.mean"],
        "lr": noted["lr"],
    }


def test_a_figure_is_no_part_of_the_loss_that_is_minimised(trainer, task, tmp_path):
    trainer(task=task(weight=2.0), steps=1).run()

    (noted,) = records(tmp_path / "stage")
    parts = noted["classification"] + noted["box"] + 2 * noted["learns.square"]
    assert noted["loss"] == pytest.approx(parts)
    assert abs(noted["learns.mean"]) > 1e-3 * noted["loss"]  # it would be seen


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_loss_learns_from_the_values_of_the_whole_batch(
    trainer, task, student_of, batch_of, tmp_path, accumulate
):
    task, student = task(), student_of().eval()
    with torch.no_grad():
        feature = student(batch_of(0)[0], want=NECK).features["P3"]

    trainer(task=task, accumulate=accumulate, batch_norm="frozen").run()

    progress, values = zip(*task.terms[0].loss.learned, strict=True)
    assert values[0] == pytest.approx(
        {"square": feature.square().mean().item(), "mean": feature.mean().item()}, rel=1e-4
    )
    assert progress == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert [one["mean"] for one in values] == means_in(tmp_path / "stage")


def test_a_loss_learns_only_in_its_part_of_the_stage(trainer, task):
    task = task(start=1 / 3, stop=2 / 3)

    trainer(task=task).run()

    assert [progress for progress, _ in task.terms[0].loss.learned] == [2 / 6, 3 / 6]


def test_a_rejected_step_teaches_a_loss_nothing(trainer, task, spoiled, tmp_path):
    task = task()

    result = trainer(task=task, given_batches=spoiled({0, 3})).run()

    loss = task.terms[0].loss
    assert result.rejected == 2
    assert [progress for progress, _ in loss.learned] == [1 / 6, 2 / 6, 4 / 6, 5 / 6]
    assert loss.sum.item() == pytest.approx(sum(filter(None, means_in(tmp_path / "stage"))))


def test_what_a_loss_has_learned_is_in_the_checkpoint(trainer, task, tmp_path):
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        trainer(task=task(), stop_after=4).run()
    fresh = task()

    trainer(task=fresh).run()

    loss = fresh.terms[0].loss
    assert [progress for progress, _ in loss.learned] == [4 / 6, 5 / 6]
    assert loss.sum.item() == sum(means_in(tmp_path / "stage"))


def test_all_processes_learn_from_the_means_of_their_shares(
    in_processes, trainer, task, share_of, tmp_path
):
    def work(name):
        learning = task()
        batches = lambda start, stop: (share_of(step) for step in range(start, stop))  # noqa: E731 - forked
        trainer(name, task=learning, given_batches=batches, batch_norm="frozen").run()
        return [values for _, values in learning.terms[0].loss.learned]

    one = work("one")

    first, second = in_processes(lambda: work("two"))

    assert second == first
    assert first[0] == pytest.approx(one[0], rel=1e-5)
    assert [values["mean"] for values in first] == means_in(tmp_path / "two")
