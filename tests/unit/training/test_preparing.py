"""Losses look at images when their time has come, and at nothing else."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from distildet.errors import DataError, InterruptedRunError, ResourceError
from distildet.losses.base import DistillationLoss, Needs, Preparation
from distildet.training.preparing import Preparer
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from distildet.training.terms import Term

CPU = torch.device("cpu")
LAST = "checkpoints/step-000006"
NECK = frozenset({"features.neck"})
BANK = "terms.0.loss.banks.P3"


class KeepsMeans(DistillationLoss):
    """Keeps the mean of the neck's first map in each image, of both networks."""

    needs = Needs(student=NECK, teacher=NECK)

    def __init__(self, student, teacher, *, every=1.0):
        super().__init__(student, teacher)
        self.preparation = Preparation(parts=NECK, objects=1, every=every)
        self.register_buffer("times", torch.zeros((), dtype=torch.int64))
        self.seen = None
        self.targets = []

    def observe(self, output, batch, targets):
        self.targets.append([len(one.boxes) for one in targets])
        return {"means": output.features["P3"].mean((1, 2, 3))}

    def prepare(self, student, teacher):
        self.times += 1
        self.seen = [[one["means"] for one in role] for role in (student, teacher)]
        return {"times": int(self.times)}

    def forward(self, student, teacher, batch, targets):
        return {"means": student.features["P3"].square().mean()}


@pytest.fixture
def task(distilling):
    """A task with one such loss; its terms can be replaced."""

    def make(*terms, every=1.0):
        pair = distilling()
        specs = pair.student.spec, pair.teacher.spec
        named = [
            Term(name, KeepsMeans(*specs, every=every), TermSettings(loss="x", **settings), steps=6)
            for name, settings in (terms or [("keeps", {})])
        ]
        return Task(pair.student, pair.teacher, named)

    return make


@pytest.fixture
def prepare(observed):
    """Prepare all terms of a task, and return the preparer."""

    def run(task, preparer=None):
        preparer = preparer or Preparer(task, observed(), steps=6)
        preparer.prepare(list(task.terms), CPU)
        return preparer

    return run


def naive_means(detector, observed):
    """Return what a copy of a detector in eval mode says about each batch."""
    detector = copy.deepcopy(detector).eval()
    with torch.no_grad():
        return [
            detector(batch, want=NECK).features["P3"].mean((1, 2, 3))
            for batch, _ in observed().batches(range(3))
        ]


def notes_of(detector):
    """Return a list that grows with each pass of a detector: in what mode, with a gradient."""
    notes = []
    detector.register_forward_pre_hook(
        lambda module, _: notes.append((module.training, torch.is_grad_enabled()))
    )
    return notes


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# When


# Ten steps, four of which are a pass.
@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (1.0, {}, [0, 4, 8]),
        (0.5, {}, [0, 2, 4, 6, 8]),
        (0.6, {}, [0, 2, 4, 6, 8]),  # 2.4 steps
        (0.65, {}, [0, 3, 6, 9]),  # 2.6 steps
        (0.01, {}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2.5, {}, [0]),  # the next time would be step 10
        (None, {}, [0]),
        (None, {"start": 0.35}, [4]),
        (None, {"start": 0.35, "stop": 0.4}, []),  # no step begins in between
        (1.0, {"start": 0.25}, [3, 7]),
        (1.0, {"start": 0.35, "stop": 0.85}, [4, 8]),
        (1.0, {"start": 0.35, "stop": 0.8}, [4]),
        (1.0, {"start": 0.95}, []),
        (1.0, {"decay": "cosine"}, [0, 4, 8]),
        (1.0, {"weight": "auto"}, [0, 4, 8]),
        (1.0, {"weight": 0.0}, []),
    ],
)
def test_a_loss_is_due_at_its_first_step_and_every_so_many_passes(
    task, observed, every, settings, steps
):
    images = observed(steps_per_pass=4.0)
    preparer = Preparer(task(("keeps", settings), every=every), images, steps=10)

    # Backwards: what is due follows from the step alone.
    due = [step for step in reversed(range(10)) for _ in preparer.due(step)]

    assert due[::-1] == steps


def test_a_loss_without_preparation_is_never_due(distilling, observed):
    preparer = Preparer(distilling(), observed(), steps=10)

    assert [preparer.due(step) for step in range(10)] == [[]] * 10


def test_a_stage_prepares_before_the_steps_that_are_due_and_says_what_was_found(
    trainer, task, observed, tmp_path
):
    trainer(task=task(("keeps", {"start": 0.2})), observed=observed()).run()

    # Progress 1/6, 2/6 ..: from the third step on, every two steps.
    assert [r["prepared"] for r in records(tmp_path / "stage") if "prepared" in r] == [
        {"keeps": {"times": 1}},
        {"keeps": {"times": 2}},
    ]
    assert [(record["step"], "loss" in record) for record in records(tmp_path / "stage")] == [
        (1, True),
        (2, True),
        (3, False),
        (3, True),
        (4, True),
        (5, False),
        (5, True),
        (6, True),
    ]


# What is seen


def test_both_networks_are_seen_in_eval_mode_without_gradient_batch_by_batch(task, prepare):
    task = task().train()
    student, teacher = notes_of(task.student), notes_of(task.teacher)

    prepare(task)

    assert student == [(False, False)] * 3
    assert teacher == [(False, False)] * 3
    # Four images a batch, the last without a box; both networks are shown the same.
    assert task.terms[0].loss.targets == [[1, 1, 1, 0]] * 6


def test_a_loss_is_given_what_the_networks_say_now_in_the_order_of_the_batches(
    task, prepare, observed
):
    task = task().train()
    preparer = prepare(task)
    first = task.terms[0].loss.seen[0]
    with torch.no_grad():
        for weight in task.student.parameters():
            weight.mul_(1.1)

    prepare(task, preparer)

    seen = task.terms[0].loss.seen
    assert not torch.equal(seen[0][0], first[0])
    # The memory layout of the pixels is another one, and so is the rounding.
    torch.testing.assert_close(seen[0], naive_means(task.student, observed), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[1], naive_means(task.teacher, observed), rtol=1e-4, atol=1e-5)


def test_the_student_learns_on_as_it_was(task, prepare):
    task = task().train()
    before = {name: value.clone() for name, value in task.student.state_dict().items()}

    prepare(task)

    assert all(module.training for module in task.student.modules())
    assert not any(module.training for module in task.teacher.modules())
    assert all(p.grad is None for p in task.student.parameters())
    torch.testing.assert_close(dict(task.student.state_dict()), before, rtol=0, atol=0)


def test_frozen_batch_norm_stays_frozen(task, prepare):
    task = task().train()
    task.student.freeze_batch_norm()
    before = [(module, module.training) for module in task.student.modules()]

    prepare(task)

    assert [(module, module.training) for module in task.student.modules()] == before
    assert {is_training for _, is_training in before} == {True, False}


def test_the_teacher_is_shown_the_images_once(task, prepare):
    task = task()
    passes = notes_of(task.teacher)

    preparer = prepare(task)
    first = task.terms[0].loss.seen[1]
    prepare(task, preparer)

    assert len(passes) == 3
    torch.testing.assert_close(task.terms[0].loss.seen[1], first, rtol=0, atol=0)


def test_losses_of_one_moment_share_the_passes_and_a_later_one_has_its_own(task, observed):
    task = task(("a", {}), ("b", {}), ("late", {"start": 0.5}))
    student, teacher = notes_of(task.student), notes_of(task.teacher)
    preparer = Preparer(task, observed(), steps=6)

    first = preparer.prepare(preparer.due(0), CPU)
    passes = len(student), len(teacher)
    then = preparer.prepare([task.terms[2]], CPU)
    last = preparer.prepare(list(task.terms), CPU)

    assert first.keys() == {"a", "b"}
    assert passes == (3, 3)
    assert then == {"late": {"times": 1}}
    assert last == {name: {"times": 2} for name in ("a", "b", "late")}
    assert (len(student), len(teacher)) == (9, 6)
    torch.testing.assert_close(task.terms[2].loss.seen, task.terms[0].loss.seen)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_networks_compute_in_the_precision_of_the_stage(task, prepare, precision):
    task = task()
    task.precision = precision
    kinds = set()
    task.student.neck.register_forward_hook(
        lambda module, args, maps: kinds.update(one.dtype for one in maps.values())
    )

    prepare(task)

    assert kinds == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}


def test_images_without_any_object_leave_global_knowledge_without_prototypes(
    trainer, preparing, observed, batch_of, tmp_path
):
    def without_objects(numbers):
        return (batch_of(number, without_box=range(4)) for number in numbers)

    trainer(task=preparing(), observed=observed(without_objects)).run()

    first, then, *_ = records(tmp_path / "stage")
    assert set(first["prepared"]["global-knowledge"]["prototypes"].values()) == {0}
    assert then["global-knowledge.global"] == 0


# Faults


def broken_at(number, observed):
    def batches(numbers):
        for one in numbers:
            if one == number:
                raise DataError(f"{one}.png: the file is empty")
            yield from observed().batches([one])

    return batches


def test_an_image_that_cannot_be_decoded_ends_the_stage_by_name(trainer, task, observed):
    task = task()

    with pytest.raises(DataError, match=r"1\.png: the file is empty"):
        trainer(task=task, observed=observed(broken_at(1, observed))).run()

    assert task.student.training
    assert task.terms[0].loss.times == 0


def test_an_image_that_one_process_cannot_decode_ends_all(in_processes, trainer, task, observed):
    def work():
        trainer(task=task(), observed=observed(broken_at(1, observed))).run()

    first, second = in_processes(work)

    assert isinstance(first, DataError)
    assert str(first) == str(second) == "1.png: the file is empty"


def test_memory_that_runs_out_while_images_are_looked_at_is_told_so(trainer, task, observed):
    task = task(("keeps", {"start": 0.2}))

    def run_out(module, _):
        if not module.training:
            raise torch.OutOfMemoryError

    task.student.register_forward_pre_hook(run_out)

    with pytest.raises(
        ResourceError,
        match=r"ran out in step 2, while losses looked at images.* or take a smaller batch_size",
    ):
        trainer(task=task, observed=observed()).run()


def test_other_errors_while_images_are_looked_at_are_not_taken_for_the_lack_of_memory(
    trainer, task, observed
):
    task = task()

    def fail(*_):
        raise RuntimeError("a bug")

    task.teacher.register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="a bug"):
        trainer(task=task, observed=observed()).run()


def test_what_a_loss_remarks_about_what_it_has_seen_is_told_once(trainer, preparing, observed):
    def of_one_class(numbers):
        for batch, targets in observed().batches(numbers):
            yield batch, [without_class_b(target) for target in targets]

    # Prepared before steps 0, 2 and 4.
    lines = []
    trainer(task=preparing(), observed=observed(of_one_class, remark=lines.append)).run()

    (line,) = lines
    assert line.startswith("global-knowledge: there are no prototypes of b: no box with sides")


def without_class_b(target):
    kept = target.labels == 0
    return replace(
        target, boxes=target.boxes[kept], labels=target.labels[kept], weights=target.weights[kept]
    )


# Resuming


@pytest.mark.parametrize("choice", ["pursuit", "kmeans", "random"])
def test_a_stage_stopped_after_every_step_equals_one_left_in_peace(
    trainer, preparing, observed, checkpoint_files, tmp_path, choice
):
    # Two steps a pass: prepared before steps 0, 2 and 4.
    def make(name, stop_after=None):
        task = preparing(prototypes=choice)
        return trainer(name, task=task, observed=observed(), stop_after=stop_after)

    make("whole").run()

    for step in range(1, 7):
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            make("stage", stop_after=step).run()
    make("stage").run()

    whole, stage = tmp_path / "whole", tmp_path / "stage"
    assert checkpoint_files(stage / LAST) == checkpoint_files(whole / LAST)
    assert (stage / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [r["step"] for r in records(stage) if "prepared" in r] == [1, 3, 5]


def test_a_step_after_the_last_checkpoint_prepares_again_with_the_same_result(
    trainer, preparing, observed, batch_of, checkpoint_files, tmp_path
):
    def killed_in_the_fourth_step(start, stop):
        yield from (batch_of(step) for step in range(start, 3))
        raise KeyboardInterrupt

    def make(name, **options):
        options = {"task": preparing(), "observed": observed(), **options}
        return trainer(name, checkpoint_every=2, **options)

    make("whole").run()

    # Prepared and trained in step 2, of which no checkpoint knows.
    with pytest.raises(KeyboardInterrupt):
        make("stage", given_batches=killed_in_the_fourth_step).run()
    before = [record["step"] for record in records(tmp_path / "stage")]
    make("stage").run()

    whole, stage = tmp_path / "whole", tmp_path / "stage"
    assert before == [1, 1, 2, 3, 3]
    assert checkpoint_files(stage / LAST) == checkpoint_files(whole / LAST)
    assert (stage / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_signal_while_images_are_looked_at_stops_after_a_checkpoint_and_at_once(
    trainer, preparing, observed, checkpoint_files, tmp_path
):
    # Two steps a pass: three batches of each network before step 0, three of the student before 2.
    told = []

    def stop_at(count):
        def progress(done, total):
            told.append((done, total))
            if len(told) == count:
                raise InterruptedRunError("Stopped by SIGTERM.", exit_code=143)

        return observed(progress=progress)

    trainer("whole", task=preparing(), observed=observed()).run()

    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        trainer(task=preparing(), observed=stop_at(2)).run()
    assert told == [(1, 3), (2, 3)]
    assert not list((tmp_path / "stage" / "checkpoints").glob("*"))
    told.clear()
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        trainer(task=preparing(), observed=stop_at(8)).run()
    assert told == [(1, 3), (2, 3), (3, 3)] * 2 + [(1, 3), (2, 3)]
    kept = [one.name for one in (tmp_path / "stage" / "checkpoints").iterdir()]
    trainer(task=preparing(), observed=observed()).run()

    whole, stage = tmp_path / "whole", tmp_path / "stage"
    assert kept == ["step-000002"]
    assert checkpoint_files(stage / LAST) == checkpoint_files(whole / LAST)
    assert (stage / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_the_checkpoint_holds_the_prototypes_so_that_nobody_looks_again(
    trainer, preparing, observed, checkpoint_files, tmp_path
):
    def nobody_looks(numbers):
        raise DataError("somebody looks")

    options = {"refresh": 100.0}
    trainer("whole", task=preparing(**options), observed=observed()).run()
    with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
        trainer(task=preparing(**options), observed=observed(), stop_after=1).run()

    kept = load_file(tmp_path / "stage" / "checkpoints" / "step-000001" / "model.safetensors")
    task = preparing(**options)
    trainer(task=task, observed=observed(nobody_looks)).run()

    # Six objects of class a and three of class b; a prototype for three of them.
    assert (kept[f"{BANK}.chosen"] >= 0).sum(1).tolist() == [2, 1]
    torch.testing.assert_close(
        {name: dict(task.state_dict())[name] for name in kept if "banks" in name},
        {name: value for name, value in kept.items() if "banks" in name},
        rtol=0,
        atol=0,
    )
    assert checkpoint_files(tmp_path / "stage" / LAST) == checkpoint_files(
        tmp_path / "whole" / LAST
    )


def test_a_rejected_step_keeps_what_was_prepared_for_it(trainer, task, observed, spoiled):
    task = task(every=None)

    result = trainer(task=task, observed=observed(), given_batches=spoiled({0})).run()

    assert result.rejected == 1
    assert task.terms[0].loss.times == 1


# Several processes


@pytest.mark.parametrize("choice", ["pursuit", "kmeans"])
def test_several_processes_have_the_prototypes_of_one(in_processes, preparing, observed, choice):
    def work():
        task = preparing(prototypes=choice)
        preparer = Preparer(task, observed(), steps=6)
        torch.manual_seed(3)
        found = preparer.prepare(preparer.due(0), CPU)
        return found, task.terms.state_dict()

    one, several = work(), in_processes(work, 4)

    assert int(one[1]["0.loss.banks.P3.chosen"].max()) > 3  # of the second batch or a later one
    torch.testing.assert_close(several, [one] * 4, rtol=0, atol=0)
