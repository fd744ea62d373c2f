"""The check finds every kind of loss that does not keep the contract."""

import pytest
import torch
from torch import nn

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import ConfigError, MissingPartError
from distildet.losses.base import DistillationLoss, Needs, Preparation
from distildet.ops.reduce import batch_normaliser
from distildet.registry import Registry
from distildet.structures import DetectorOutput
from distildet.testing import check_loss
from distildet.testing.recorded_output import RecordedOutput, tensors_in, with_tensors

NECK = Needs(student=frozenset({"features.neck"}), teacher=frozenset({"features.neck"}))


class Sound(DistillationLoss):
    """Mean squared difference of the neck's first maps, over all cells."""

    needs = NECK
    is_zero_at_equality = True

    def __init__(self, student, teacher, *, factor=1.0):
        super().__init__(student, teacher)
        self.factor = nn.Parameter(torch.tensor(factor))

    def difference(self, student, teacher):
        own, guide = student.features["P3"], teacher.features["P3"].detach()
        return (self.factor * own - guide).float()

    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square().mean()}


class LooksBeforehand(Sound):
    """Divides by what it has seen, and is not finite before."""

    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.preparation = Preparation(parts=NECK.student, objects=1, every=None)
        self.register_buffer("square", torch.tensor(torch.nan))

    def observe(self, output, batch, targets):
        assert len(batch) == len(targets) == 1
        assert not output.features["P3"].requires_grad
        return {"square": output.features["P3"].square().mean()}

    def prepare(self, student, teacher):
        self.square.copy_(torch.stack([one["square"] for one in teacher]).mean())
        return {}

    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square().mean() / self.square}


class NeverLooks(LooksBeforehand):
    def prepare(self, student, teacher):
        return {}


class LooksAtMoreThanItSays(LooksBeforehand):
    def observe(self, output, batch, targets):
        return {"square": output.dense.logits[0].square().mean()}


class OffersNoPreparation(LooksBeforehand):
    observe = DistillationLoss.observe


class GivesNothing(Sound):
    def forward(self, student, teacher, batch, targets):
        return {}


class GivesAMap(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square()}


class GivesHalfPrecision(Sound):
    def forward(self, student, teacher, batch, targets):
        # Autocast multiplies matrices in bfloat16.
        difference = self.difference(student, teacher).flatten(1)
        return {"feature": (difference @ difference.T).mean()}


class Overflows(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).exp().mean()}


class TeachesTheTeacher(Sound):
    def forward(self, student, teacher, batch, targets):
        own, guide = student.features["P3"], teacher.features["P3"]
        return {"feature": (self.factor * own - guide).float().square().mean()}


class LeavesTheStudent(Sound):
    def forward(self, student, teacher, batch, targets):
        own = student.features["P3"].detach()
        guide = teacher.features["P3"].detach()
        return {"feature": (self.factor * own - guide).float().square().mean()}


class ForgetsAProjector(Sound):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.unused = nn.Linear(1, 1)


class HasAProjectorWithoutEffect(ForgetsAProjector):
    def forward(self, student, teacher, batch, targets):
        nothing = 0 * self.unused(torch.ones(1)).sum()
        return {"feature": super().forward(student, teacher, batch, targets)["feature"] + nothing}


class HasNoGraph(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square().mean().detach()}


class AddsUp(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square().mean((1, 2, 3)).sum()}


class CountsItsOwnPart(Sound):
    """Divides by something of the batch, but of this part alone."""

    def forward(self, student, teacher, batch, targets):
        square = self.difference(student, teacher).square()
        return {"feature": square.sum() / (teacher.features["P3"] > 0).sum()}


class CountsWithoutSayingSo(Sound):
    counts_over_batch = False

    def forward(self, student, teacher, batch, targets):
        square = self.difference(student, teacher).square()
        count = (teacher.features["P3"] > 0).sum().float()
        return {"feature": square.sum() / batch_normaliser(count)}


class PrefersTheFirst(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher)[0].square().mean()}


class NeedsBoxes(Sound):
    def forward(self, student, teacher, batch, targets):
        boxes = sum(len(target.boxes) for target in targets)
        value = self.difference(student, teacher).square().mean()
        return {"feature": value / torch.tensor(boxes).float() * boxes}


class ReadsMore(Sound):
    def forward(self, student, teacher, batch, targets):
        _ = teacher.dense
        return super().forward(student, teacher, batch, targets)


class ReadsLess(Sound):
    needs = Needs(student=NECK.student | {"dense"}, teacher=NECK.teacher)


class Rises(Sound):
    """The value of `Sound` with the opposite gradient."""

    def forward(self, student, teacher, batch, targets):
        value = self.difference(student, teacher).square().mean()
        return {"feature": 2 * value.detach() - value}


class IsNeverZero(Sound):
    def forward(self, student, teacher, batch, targets):
        return {"feature": self.difference(student, teacher).square().mean() + 1}


class HasNoDefault(Sound):
    def __init__(self, student, teacher, *, levels):
        super().__init__(student, teacher)


class HasItsOwnWeight(Sound):
    def __init__(self, student, teacher, *, weight=1.0):
        super().__init__(student, teacher)


class TellsMore(Sound):
    """Tells the size of the difference beside its part, and divides by what it learns of it."""

    figures = frozenset({"P3.size"})

    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.register_buffer("scale", torch.ones(()))

    def size(self, student, teacher):
        return self.difference(student, teacher).detach().abs().mean()

    def learn(self, values, *, progress):
        self.scale.fill_(1 + values["P3.size"] * progress)

    def forward(self, student, teacher, batch, targets):
        value = self.difference(student, teacher).square().mean() / self.scale
        return {"feature": value, "P3.size": self.size(student, teacher)}


class HasAFigureWithAGradient(TellsMore):
    def size(self, student, teacher):
        return self.difference(student, teacher).abs().mean()


class LacksAFigure(TellsMore):
    figures = frozenset({"P3.size", "P4.size"})


class HasAFigureThatIsNotFinite(TellsMore):
    def learn(self, values, *, progress):
        pass

    def size(self, student, teacher):
        return super().size(student, teacher) / 0


class TellsFiguresAlone(TellsMore):
    figures = frozenset({"P3.size", "feature"})


class HasAFigureOfTheBatch(TellsMore):
    """The largest difference of a part of the batch says nothing of the whole."""

    def size(self, student, teacher):
        return self.difference(student, teacher).detach().abs().amax()


class HasAFigureOfADoubleType(TellsMore):
    def size(self, student, teacher):
        return super().size(student, teacher).double()


class LearnsAParameter(TellsMore):
    def learn(self, values, *, progress):
        self.factor.data += values["P3.size"]


class LearnsBesideItsBuffers(TellsMore):
    """A stage that is resumed has forgotten it."""

    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.count = 1

    def learn(self, values, *, progress):
        self.count += 1
        self.scale.fill_(self.count)

    def forward(self, student, teacher, batch, targets):
        value = self.difference(student, teacher).square().mean() / self.count
        return {"feature": value, "P3.size": self.size(student, teacher)}


class LearnsWhatIsNotFinite(TellsMore):
    def learn(self, values, *, progress):
        self.scale.fill_(float("nan"))


FAULTY = [
    (HasAFigureWithAGradient, "forward returns all that `figures` names, finite and without"),
    (LacksAFigure, "forward returns all that `figures` names, finite and without gradient"),
    (HasAFigureThatIsNotFinite, "forward returns all that `figures` names, finite and without"),
    (TellsFiguresAlone, "forward returns at least one part, each a float32 scalar"),
    (HasAFigureOfADoubleType, "forward returns at least one part, each a float32 scalar"),
    (HasAFigureOfTheBatch, "micro-batches give value and figures of the whole batch"),
    (LearnsAParameter, "learning from steps changes buffers alone, and keeps it finite"),
    (LearnsBesideItsBuffers, "learning from steps changes buffers alone, and keeps it finite"),
    (LearnsWhatIsNotFinite, "learning from steps changes buffers alone, and keeps it finite"),
    (GivesNothing, "forward returns at least one part, each a float32 scalar"),
    (GivesAMap, "forward returns at least one part, each a float32 scalar"),
    (GivesHalfPrecision, "the parts are finite float32 scalars under autocast too"),
    (Overflows, r"value and gradient are finite on outputs of \+-1e4"),
    (TeachesTheTeacher, "the teacher gets no gradient"),
    (LeavesTheStudent, "student and every projector get a gradient"),
    (ForgetsAProjector, "student and every projector get a gradient"),
    (HasAProjectorWithoutEffect, "student and every projector get a gradient"),
    (HasNoGraph, "student and every projector get a gradient"),
    (HasNoGraph, "images without boxes give a finite value with a graph"),
    (HasNoGraph, "20 steps of training reduce it"),
    (AddsUp, "a batch that is doubled keeps the value"),
    (CountsItsOwnPart, "micro-batches give value and figures of the whole batch"),
    (CountsWithoutSayingSo, "counts_over_batch says whether it counts"),
    (PrefersTheFirst, "the order of the images does not matter"),
    (NeedsBoxes, "images without boxes give a finite value with a graph"),
    (ReadsMore, "forward reads the parts in `needs`, all and no others"),
    (ReadsLess, "forward reads the parts in `needs`, all and no others"),
    (Rises, "20 steps of training reduce it"),
    (IsNeverZero, "it is 0 where student and teacher are the same"),
    (HasItsOwnWeight, "the option 'weight' has another name than a key of an entry"),
]


@pytest.fixture
def pair():
    torch.manual_seed(0)
    options = {"backbone": "test_efficientnet", "image_size": 64, "backbone_levels": ("C3",)}
    options |= {"extra_levels": 0, "neck_channels": 4, "head_depth": 0, "anchor_octaves": 1}
    return [RetinaNet(ClassList(tuple(names)), **options) for names in ("a", "ab")]


@pytest.fixture
def check(pair):
    def run(cls, **options):
        registry = Registry("distillation loss")
        registry.register("tried")(cls)
        check_loss("tried", *pair, registry=registry, **options)

    return run


def test_a_sound_loss_passes(check):
    check(Sound)


def test_a_sound_loss_with_a_figure_that_learns_passes(check):
    check(TellsMore)


def test_a_loss_looks_at_the_images_before_it_is_checked(check):
    check(LooksBeforehand)

    with pytest.raises(AssertionError, match="value and gradient are finite on random outputs"):
        check(NeverLooks)


def test_a_loss_is_shown_the_parts_of_its_preparation_alone(check):
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'logits'"):
        check(LooksAtMoreThanItSays)


def test_a_loss_that_says_it_looks_beforehand_must_do_so(check):
    with pytest.raises(NotImplementedError, match="OffersNoPreparation has no preparation"):
        check(OffersNoPreparation)


@pytest.mark.parametrize(("cls", "claim"), FAULTY)
def test_a_claim_that_does_not_hold_is_named(check, cls, claim):
    with pytest.raises(
        AssertionError, match=rf"'tried' with the student 'retinanet'(.|\n)*{claim}"
    ):
        check(cls)


def test_options_are_given_to_the_loss(check):
    with pytest.raises(AssertionError, match="it is 0 where student and teacher are the same"):
        check(Sound, options={"factor": 2.0})


def test_an_option_without_default_is_named(check):
    with pytest.raises(AssertionError, match="the option 'levels' has a default"):
        check(HasNoDefault, options={"levels": ("P3",)})


def test_a_pair_that_the_loss_does_not_fit_is_refused(check):
    with pytest.raises(MissingPartError, match="the student 'retinanet' does not have regions"):
        check(
            type(
                "Other",
                (Sound,),
                {"needs": Needs(student=frozenset({"regions"}), teacher=frozenset())},
            )
        )


def test_an_unknown_loss_is_refused(pair):
    with pytest.raises(ConfigError, match="Unknown distillation loss 'nothing'"):
        check_loss("nothing", *pair)


def test_the_detectors_stay_as_they_were(check, pair):
    before = [{n: v.clone() for n, v in one.state_dict().items()} for one in pair]

    check(Sound)

    torch.testing.assert_close([dict(one.state_dict()) for one in pair], before, rtol=0, atol=0)
    assert all(one.training for one in pair)
    assert all(p.grad is None for one in pair for p in one.parameters())


# Outputs


@pytest.fixture
def output():
    return DetectorOutput(
        features={"C3": torch.ones(1), "P3": torch.ones(2), "cls.P3": torch.ones(3)},
        losses={"box": torch.ones(4)},
    )


@pytest.mark.parametrize(
    ("read", "parts"),
    [
        (lambda output: None, set()),
        (lambda output: output.features, set()),
        (lambda output: output.features["C3"], {"features.backbone"}),
        (lambda output: output.features.get("cls.P3"), {"features.head"}),
        (lambda output: [*output.features], set()),
        (
            lambda output: dict(output.features),
            {"features.backbone", "features.neck", "features.head"},
        ),
        (lambda output: (output.dense, output.regions), {"dense", "regions"}),
        (lambda output: (output.losses["box"], output.detections), {"losses", "detections"}),
    ],
)
def test_a_recorded_output_notes_the_parts_that_are_read(output, read, parts):
    recorded = RecordedOutput(output)

    read(recorded)

    assert recorded.read == parts


def test_a_recorded_output_holds_what_the_output_does(output):
    recorded = RecordedOutput(output)

    assert recorded.features == output.features
    assert len(recorded.features) == 3
    assert recorded.losses is output.losses


def test_tensors_are_replaced_wherever_they_are(output):
    doubled = with_tensors(output, lambda name, tensor: tensor * 2 if name == "losses" else tensor)

    assert doubled.losses["box"].tolist() == [2.0] * 4
    assert [len(tensor) for tensor in tensors_in(doubled)] == [1, 2, 3, 4]
    assert doubled.detections is None
