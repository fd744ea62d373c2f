import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distildet.losses.base import DistillationLoss, Needs
from distildet.structures import DetectorOutput
from distildet.training.settings import TermSettings
from distildet.training.terms import AutoWeight, Term, term_names


class TwoParts(DistillationLoss):
    """Gives the sum of the losses of the student, and 3."""

    needs = Needs(student=frozenset(), teacher=frozenset())

    def forward(self, student, teacher, batch, targets):
        return {"own": torch.stack(list(student.losses.values())).sum(), "three": torch.tensor(3.0)}


class TellsMore(TwoParts):
    """Gives two figures beside these, and notes what it learns."""

    figures = frozenset({"P3.seven", "nine"})

    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.learned = []

    def learn(self, values, *, progress):
        self.learned.append((values, progress))

    def forward(self, student, teacher, batch, targets):
        figures = {"P3.seven": torch.tensor(7.0), "nine": torch.tensor(9.0)}
        return figures | super().forward(student, teacher, batch, targets)


@pytest.fixture
def term(student):
    def make(*, steps=100, cls=TwoParts, **settings):
        loss = cls(student.spec, student.spec)
        return Term("two", loss, TermSettings(loss="two", **settings), steps=steps)

    return make


def output(*losses):
    return DetectorOutput(losses={str(i): torch.tensor(loss) for i, loss in enumerate(losses)})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"start": 0.25, "stop": 0.75}, [0.0, 1.0, 1.0, 0.0]),
        ({"decay": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        # 0.5 (1 + cos(pi / 4)) = 0.8535534
        ({"decay": "cosine"}, [1.0, 0.8535534, 0.5, 0.1464466]),
        ({"start": 0.25, "stop": 0.75, "decay": "linear"}, [0.0, 1.0, 0.5, 0.0]),
    ],
)
def test_the_course_runs_from_start_to_stop(term, settings, expected):
    found = [term(**settings).course(progress) for progress in (0.0, 0.25, 0.5, 0.75)]

    assert found == pytest.approx(expected)


def test_the_value_is_the_sum_of_the_parts_times_weight_and_course(term):
    # Parts 2 + 3; weight 4, course 0.5.
    value = term(weight=4.0, decay="linear")(
        output(0.5, 1.5), DetectorOutput(), None, (), progress=0.5
    )

    assert {name: part.item() for name, part in value.parts.items()} == {
        "two.own": 2.0,
        "two.three": 3.0,
    }
    assert value.factor.item() == 2.0
    assert value.weighted.item() == 10.0


def test_an_automatic_weight_gives_the_term_its_share_from_the_second_step_on(term):
    automatic = term(weight="auto", share=0.5)
    first = automatic(output(5.0), DetectorOutput(), None, (), progress=0.0)

    automatic.learn(
        {"box": 4.0, "quality": 1.0, "loss": 5.0, "two.own": 5.0, "two.three": 3.0}
        | {"two.factor": 0.0, "other.part": 7.0, "other.factor": 1.0},
        progress=0.0,
    )

    # The detector's loss is 5, the term 5 + 3: weight 5 / 8 of half the share.
    second = automatic(output(5.0), DetectorOutput(), None, (), progress=0.1)
    assert first.weighted.item() == 0.0
    assert second.weighted.item() == pytest.approx(2.5)
    assert second.factor.item() == pytest.approx(0.5 * 5 / 8)


def test_a_step_without_the_term_teaches_nothing(term):
    automatic = term(weight="auto")

    automatic.learn(
        {"box": 5.0, "loss": 5.0, "other.feature": 3.0, "other.factor": 1.0}, progress=0.0
    )

    assert automatic.auto_weight.seen.item() == 0


def test_a_fixed_weight_learns_nothing(term):
    fixed = term(weight=2.0)

    fixed.learn({"box": 5.0, "loss": 5.0, "two.own": 3.0, "two.factor": 2.0}, progress=0.0)

    value = fixed(output(1.0), DetectorOutput(), None, (), progress=0.0)
    assert value.factor.item() == 2.0


# Figures, and what losses learn


def test_figures_are_told_and_left_out_of_the_value(term):
    value = term(cls=TellsMore, weight=4.0)(
        output(0.5, 1.5), DetectorOutput(), None, (), progress=0.0
    )

    assert {name: part.item() for name, part in value.parts.items()} == {
        "two.own": 2.0,
        "two.three": 3.0,
        "two.P3.seven": 7.0,
        "two.nine": 9.0,
    }
    assert value.weighted.item() == 20.0  # 4 (2 + 3)


def test_the_names_of_figures_are_those_of_their_parts(term):
    assert term(cls=TellsMore).figure_names == {"two.P3.seven", "two.nine"}
    assert term().figure_names == frozenset()


@pytest.mark.parametrize("weight", [2.0, "auto"])
def test_a_loss_learns_its_own_values_by_its_own_names(term, weight):
    telling = term(cls=TellsMore, weight=weight)
    others = {"box": 4.0, "loss": 5.0, "two-2.own": 8.0, "two-2.factor": 1.0, "other.nine": 6.0}

    telling.learn(
        {"two.factor": 0.5, "two.own": 2.0, "two.three": 3.0, "two.P3.seven": 7.0, "two.nine": 9.0}
        | others,
        progress=0.25,
    )

    assert telling.loss.learned == [
        ({"own": 2.0, "three": 3.0, "P3.seven": 7.0, "nine": 9.0}, 0.25)
    ]


def test_a_step_without_the_term_teaches_the_loss_nothing(term):
    telling = term(cls=TellsMore)

    telling.learn({"box": 5.0, "loss": 5.0, "two-2.own": 3.0, "two-2.factor": 1.0}, progress=0.5)

    assert telling.loss.learned == []


def test_figures_count_nothing_for_an_automatic_weight(term):
    automatic = term(cls=TellsMore, weight="auto", share=0.5)

    automatic.learn(
        {"box": 5.0, "loss": 5.0, "two.own": 5.0, "two.three": 3.0, "two.factor": 0.0}
        | {"two.P3.seven": 7.0, "two.nine": 9.0},
        progress=0.0,
    )

    # Half of the detector's loss 5 by the term's 5 + 3.
    assert automatic.auto_weight.value.item() == pytest.approx(0.5 * 5 / 8)


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (19, 1), (20, 2), (400, 40), (9000, 50)])
def test_calibration_is_a_tenth_of_the_stage_and_at_most_50_steps(term, steps, expected):
    assert term(steps=steps, weight="auto").auto_weight.steps == expected


def calibrate(weight, pairs):
    found = []
    for own, term in pairs:
        weight.learn(own, term)
        found.append(weight.value.item())
    return found


def test_the_weight_follows_the_sums_and_then_stays():
    weight = AutoWeight(2.0, steps=2)

    # 2 * 1 / 4, then 2 * (1 + 3) / (4 + 12), then no longer.
    assert calibrate(weight, [(1.0, 4.0), (3.0, 12.0), (9.0, 1.0)]) == [0.5, 0.5, 0.5]
    assert weight.seen.item() == 2


@pytest.mark.parametrize(
    ("own", "term", "expected"),
    [(1.0, 0.0, 1e3), (1.0, 1e-9, 1e3), (1e-9, 1.0, 1e-3), (0.0, 0.0, 1e-3), (0.0, 1.0, 1e-3)],
)
def test_the_weight_stays_within_its_bounds(own, term, expected):
    assert calibrate(AutoWeight(1.0, steps=1), [(own, term)]) == pytest.approx([expected])


def test_a_weight_goes_on_from_its_state():
    weight, other = AutoWeight(1.0, steps=2), AutoWeight(1.0, steps=2)
    calibrate(weight, [(3.0, 1.0)])

    other.load_state_dict(weight.state_dict())

    pairs = [(1.0, 7.0), (9.0, 1.0)]
    found = [calibrate(one, pairs) for one in (other, weight)]
    assert found == [[0.5, 0.5], [0.5, 0.5]]


def test_a_weight_that_has_learned_goes_on_from_what_it_loads():
    weight, fresh = AutoWeight(1.0, steps=1), AutoWeight(1.0, steps=1).state_dict()
    calibrate(weight, [(3.0, 1.0)])

    weight.load_state_dict(fresh)

    assert calibrate(weight, [(1.0, 2.0), (9.0, 1.0)]) == [0.5, 0.5]


class Questions(TorchDispatchMode):
    """Counts the numbers that are asked of tensors, for each of which a GPU must be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_weight_asks_its_device_nothing_after_the_first_step():
    weight = AutoWeight(1.0, steps=2)
    weight.learn(3.0, 1.0)

    with Questions() as questions:
        weight.learn(3.0, 1.0)
        weight.learn(3.0, 1.0)

    assert questions.count == 0


def test_a_loss_that_comes_again_gets_a_number():
    assert term_names(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]
