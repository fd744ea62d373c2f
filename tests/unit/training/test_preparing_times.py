"""How often losses look at images, and what the others keep of what one process has found."""

import json
import weakref

import pytest
import torch

from distildet.errors import InterruptedRunError
from distildet.losses.base import DistillationLoss, Needs, Preparation
from distildet.losses.hands_on_guidance.loss import HandsOnGuidance
from distildet.ops.processes import rank
from distildet.training.preparing import Preparer
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from distildet.training.terms import Term

CPU = torch.device("cpu")
LAST = "checkpoints/step-000006"
NECK = frozenset({"features.neck"})


class CountsLooks(DistillationLoss):
    """Counts how often it has looked, and remembers the buffer as a number.

    What it was told of the teacher it knows as long as somebody keeps it.
    """

    needs = Needs(student=NECK, teacher=NECK)

    def __init__(self, student, teacher, *, every=1.0, times=None):
        super().__init__(student, teacher)
        self.preparation = Preparation(parts=NECK, images=1, every=every, times=times)
        self.factor = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("looks", torch.zeros(()))
        self.number = None
        self.register_load_state_dict_post_hook(forget_number)

    def observe(self, output, batch, targets):
        return {"mean": output.features["P3"].mean()}

    def prepare(self, student, teacher):
        self.told = weakref.ref(teacher[0]["mean"])
        self.looks += 1
        self.number = None
        return {"looks": int(self.looks)}

    def asked(self):
        if self.number is None:
            self.number = int(self.looks)
        return self.number

    def forward(self, student, teacher, batch, targets):
        return {"square": self.factor * student.features["P3"].square().mean()}


def forget_number(loss, _):
    loss.number = None


@pytest.fixture
def task(distilling):
    """A task with one such loss."""

    def make(every=1.0, times=None, **settings):
        pair = distilling()
        loss = CountsLooks(pair.student.spec, pair.teacher.spec, every=every, times=times)
        settings = TermSettings(loss="x", **settings)
        return Task(pair.student, pair.teacher, [Term("counts", loss, settings, steps=6)])

    return make


@pytest.fixture
def guided(distilling):
    """A task with hands-on guidance, which begins with equal random weights each time."""

    def make(**options):
        pair = distilling()
        torch.manual_seed(2)
        loss = HandsOnGuidance(pair.student.spec, pair.teacher.spec, images=12, **options)
        settings = TermSettings(loss="hands-on-guidance", weight="auto")
        return Task(pair.student, pair.teacher, [Term(settings.loss, loss, settings, steps=6)])

    return make


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Ten steps, four of which are a pass.
@pytest.mark.parametrize(
    ("every", "times", "settings", "steps"),
    [
        (1.0, 1, {}, [0]),
        (1.0, 2, {}, [0, 4]),
        (1.0, 3, {}, [0, 4, 8]),
        (1.0, 9, {}, [0, 4, 8]),
        (0.25, 3, {}, [0, 1, 2]),
        (2.5, 2, {}, [0]),  # the second time would be step 10
        (None, 3, {}, [0]),
        (0.5, 2, {"start": 0.35}, [4, 6]),
        (0.5, 3, {"start": 0.35, "stop": 0.7}, [4, 6]),
        (1.0, 2, {"start": 0.25, "decay": "cosine"}, [3, 7]),
    ],
)
def test_a_loss_looks_no_more_often_than_it_says(task, observed, every, times, settings, steps):
    task = task(every=every, times=times, **settings)
    preparer = Preparer(task, observed(steps_per_pass=4.0), steps=10)

    # Backwards: what is due follows from the step alone.
    due = [step for step in reversed(range(10)) for _ in preparer.due(step)]

    assert due[::-1] == steps


@pytest.mark.parametrize(
    ("every", "times", "settings", "kept"),
    [
        (1.0, 2, {}, [True, False]),
        (None, None, {}, [False]),
        (1.0, None, {}, [True, True]),  # it looks before step 8 too
        (1.0, 2, {"stop": 0.4}, [False]),  # before step 4 its course is 0
        (3.0, 2, {}, [False]),  # the second time would be step 12
    ],
)
def test_what_the_teacher_said_is_kept_until_the_last_look(
    task, observed, every, times, settings, kept
):
    task = task(every=every, times=times, **settings)
    preparer = Preparer(task, observed(steps_per_pass=4.0), steps=10)
    found = []

    for step in [0, 4][: len(kept)]:
        preparer.prepare(preparer.due(step), CPU)
        preparer.let_go(step)
        found.append(task.terms[0].loss.told() is not None)

    assert found == kept


def test_a_stage_notes_as_many_looks_as_the_loss_has_taken(trainer, task, observed, tmp_path):
    # Two steps a pass: without a bound it would look before steps 0, 2 and 4.
    task = task(times=2)

    trainer(task=task, observed=observed()).run()

    found = [(r["step"], r["prepared"]) for r in records(tmp_path / "stage") if "prepared" in r]
    assert found == [(1, {"counts": {"looks": 1}}), (3, {"counts": {"looks": 2}})]
    assert task.terms[0].loss.looks == 2


def test_who_goes_on_after_the_last_look_does_not_look_again(trainer, task, observed, tmp_path):
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        trainer(task=task(times=2), observed=observed(), stop_after=3).run()
    fresh = task(times=2)

    trainer(task=fresh, observed=observed()).run()

    assert fresh.terms[0].loss.looks == 2
    assert [r["step"] for r in records(tmp_path / "stage") if "prepared" in r] == [1, 3]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}])
def test_guidance_stopped_after_every_step_equals_guidance_left_in_peace(
    trainer, guided, observed, checkpoint_files, tmp_path, settings
):
    # It looks before steps 0 and 2, and learns weights and margins from every step.
    def make(name, stop_after=None):
        task = guided(release=0.2)
        return trainer(name, task=task, observed=observed(), stop_after=stop_after, **settings)

    make("whole").run()

    for step in range(1, 7):
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            make("stage", stop_after=step).run()
    make("stage").run()

    whole, stage = tmp_path / "whole", tmp_path / "stage"
    weights = [v for k, v in records(stage)[-1].items() if k.endswith(".weight")]
    assert checkpoint_files(stage / LAST) == checkpoint_files(whole / LAST)
    assert (stage / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [r["step"] for r in records(stage) if "prepared" in r] == [1, 3]
    assert max(weights) > min(weights)  # they were learned


def test_guidance_sees_the_same_in_images_whose_objects_are_not_shown(
    trainer, guided, observed, batch_of, tmp_path
):
    def without_objects(numbers):
        return (batch_of(100 + number, without_box=range(4)) for number in numbers)

    trainer("with", task=guided(), observed=observed()).run()
    trainer("without", task=guided(), observed=observed(without_objects)).run()

    assert records(tmp_path / "without") == records(tmp_path / "with")


# Several processes


def test_a_loss_forgets_in_every_process_what_it_remembered_of_its_buffers(
    in_processes, task, observed
):
    def work():
        prepared = task()
        loss, preparer = prepared.terms[0].loss, Preparer(prepared, observed(), steps=6)
        numbers = []
        for _ in range(2):
            preparer.prepare([*prepared.terms], CPU)
            numbers.append(loss.asked())
        return numbers

    assert in_processes(work, 3) == [[1, 2]] * 3


def test_preparing_gives_others_buffers_and_no_parameters(in_processes, task, observed):
    def work():
        prepared = task()
        loss = prepared.terms[0].loss
        loss.factor.data.fill_(rank())
        Preparer(prepared, observed(), steps=6).prepare([*prepared.terms], CPU)
        return loss.looks.item(), loss.factor.item()

    assert in_processes(work) == [(1, 0), (1, 1)]
