"""MPS has no float64: it may appear on the CPU alone, whatever device computes.

There is no MPS where this is tested. On the CPU, every operation that takes or gives float64 is
noted with the file of ours that asked for it; what stands in the list below keeps to the CPU.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import distildet
from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.evaluation.detect_dataset import predictor
from distildet.pseudolabels.dense_codes import encode_dense
from distildet.structures import LOSSES, DensePrediction
from distildet.training.task import Task

CPU = torch.device("cpu")
SOURCES = Path(distildet.__file__).parent
# Both hold `ImageBatch.image_to_batch`, which stays on the CPU, and boxes that were brought there.
KEPT_ON_THE_CPU = {"ops/frames.py", "structures.py"}


class Float64(TorchDispatchMode):
    """Notes the files from which operations on float64 come."""

    def __init__(self):
        super().__init__()
        self.files = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        values = tree_leaves((args, kwargs, result))
        if any(isinstance(v, torch.Tensor) and v.dtype == torch.float64 for v in values):
            self.files.add(innermost_file())
        return result


def innermost_file():
    frame = sys._getframe(2)
    while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(SOURCES):
        frame = frame.f_back
    return "elsewhere" if frame is None else file_of(frame)


def file_of(frame):
    return Path(frame.f_code.co_filename).relative_to(SOURCES).as_posix()


@pytest.fixture(params=["retinanet", "fcos", "faster_rcnn"])
def family(request):
    torch.manual_seed(0)
    return build_detector(
        request.param,
        classes=ClassList(("a", "b")),
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        score_floor=0.0,
    )


@pytest.fixture
def prepared(batch_of):
    """Batches of two steps, made before anything is noted."""
    batches = [batch_of(step) for step in range(2)]
    return {"steps": 2, "given_batches": lambda start, stop: iter(batches[start:stop])}


def test_float64_is_noticed():
    with Float64() as float64:
        torch.zeros(1).double()

    assert float64.files == {"elsewhere"}


def test_training_has_no_float64_but_on_the_cpu(trainer, family, prepared):
    with Float64() as float64:
        trainer(task=Task(family), **prepared).run()

    assert float64.files <= KEPT_ON_THE_CPU


@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"accumulate": 2}])
def test_distillation_has_no_float64_but_on_the_cpu(trainer, distilling, prepared, options):
    with Float64() as float64:
        trainer(task=distilling(weight="auto"), **prepared, **options).run()

    assert float64.files <= KEPT_ON_THE_CPU


def test_losses_have_no_float64_at_all(family, batch_of):
    batch, targets = batch_of(0)

    with Float64() as float64:
        losses = family(batch, targets, want={LOSSES}).losses
        sum(losses.values()).backward()

    assert float64.files == set()


@pytest.mark.parametrize("top_k", [0, 5])
def test_storing_what_a_teacher_says_has_no_float64_at_all(top_k):
    dense = DensePrediction(
        logits=(torch.zeros(2, 9, 3),),
        box_codes=(torch.zeros(2, 9, 4),),
        priors=(torch.zeros(9, 4),),
        activation="sigmoid",
    )

    with Float64() as float64:
        encode_dense(dense, ["a", "b"], top_k=top_k)

    assert float64.files == set()


def test_detections_have_no_float64_but_on_the_cpu(family, batch_of):
    batch, _ = batch_of(0)

    with Float64() as float64:
        found = predictor(family, CPU)(batch)

    assert any(map(len, found))
    assert float64.files == KEPT_ON_THE_CPU
