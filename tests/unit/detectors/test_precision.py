"""What stays in float32 when the network computes in half precision, in every family."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.ops.precision import network_precision
from distildet.structures import (
    DENSE,
    DETECTIONS,
    FEATURES_BACKBONE,
    FEATURES_NECK,
    LOSSES,
    REGIONS,
)

CPU = torch.device("cpu")
FAMILIES = ["retinanet", "fcos", "faster_rcnn"]
HALVES = ["bf16", "fp16"]
# Half precision has 8 or 11 binary digits; a few layers of them are in a loss.
LARGEST_DISTANCE = 0.05
# Layers and what joins them; no loss, no decoding of boxes, no choice among them, no pooling.
OF_NETWORKS = {
    *("convolution", "addmm", "native_batch_norm", "native_group_norm", "upsample_nearest2d"),
    *("relu", "relu_", "silu_", "sigmoid", "add", "mul", "mean"),
    *("_to_copy", "clone", "detach", "view", "_unsafe_view", "permute", "slice", "t"),
}


def make_detector(family):
    torch.manual_seed(0)
    return build_detector(
        family,
        classes=ClassList(("a", "b")),
        backbone="test_efficientnet",
        image_size=64,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=16,
        score_floor=0.0,
        max_detections=20,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def detector(request):
    return make_detector(request.param).eval()


@pytest.fixture
def batch(make_inputs, as_batch):
    return as_batch(make_inputs(2)[0])


@pytest.fixture
def targets(make_inputs, as_targets):
    return as_targets(make_inputs(2)[1], 2)


@pytest.fixture
def run(detector, batch, targets):
    """Let the detector compute parts in a precision, with the same random numbers each time."""

    def compute(precision, *parts):
        torch.manual_seed(7)
        with network_precision(CPU, precision):
            return detector(batch, targets, want=set(parts))

    return compute


class Types(TorchDispatchMode):
    """Notes in which floating-point types each operation computes."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [value for value in args if isinstance(value, torch.Tensor)]
        dtypes = {value.dtype for value in given if value.is_floating_point()}
        self.seen.setdefault(function.overloadpacket.__name__, set()).update(dtypes)
        return result


@pytest.mark.parametrize("precision", HALVES)
def test_losses_are_float32_and_near_those_of_full_precision(run, precision):
    full = run("fp32", LOSSES).losses
    half = run(precision, LOSSES).losses

    assert {value.dtype for value in half.values()} == {torch.float32}
    assert half.keys() == full.keys()
    torch.testing.assert_close(half, full, rtol=LARGEST_DISTANCE, atol=LARGEST_DISTANCE)


@pytest.mark.parametrize("precision", HALVES)
def test_gradients_and_weights_are_finite_and_float32(detector, run, precision):
    detector.zero_grad()

    sum(run(precision, LOSSES).losses.values()).backward()

    gradients = [parameter.grad for parameter in detector.parameters()]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert {parameter.dtype for parameter in detector.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", HALVES)
def test_convolutions_compute_in_half_precision_and_suppression_in_float32(run, precision):
    with torch.no_grad(), Types() as types:
        run(precision, DETECTIONS)

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert types.seen["convolution"] == {half}
    assert types.seen["nms"] == {torch.float32}


@pytest.mark.parametrize("part", [LOSSES, DETECTIONS])
def test_nothing_but_layers_computes_in_half_precision(run, part):
    with torch.no_grad(), Types() as types:
        run("bf16", part)

    in_half = {name for name, dtypes in types.seen.items() if torch.bfloat16 in dtypes}
    assert "convolution" in in_half
    assert in_half <= OF_NETWORKS


@pytest.mark.parametrize("precision", HALVES)
def test_detections_are_finite_float32_inside_the_image(run, batch, precision):
    with torch.no_grad():
        found = run(precision, DETECTIONS).detections

    assert [len(one) for one in found] == [20] * 4
    assert all(one.is_finite and one.boxes.isfinite().all() for one in found)
    assert {values.dtype for one in found for values in (one.boxes, one.scores)} == {torch.float32}
    extents = torch.stack([one.boxes.amax(0)[2:] for one in found])
    assert (extents <= batch.image_sizes.flip(1)).all()


@pytest.mark.parametrize("part", [FEATURES_BACKBONE, FEATURES_NECK])
def test_feature_maps_are_handed_out_in_float32(run, part):
    features = run("bf16", part).features

    assert {feature.dtype for feature in features.values()} == {torch.float32}


@pytest.mark.parametrize("detector", FAMILIES[:2], indirect=True)
@pytest.mark.parametrize("precision", HALVES)
def test_priors_of_dense_heads_are_those_of_full_precision(run, precision):
    full, half = run("fp32", DENSE).dense, run(precision, DENSE).dense

    torch.testing.assert_close(half.priors, full.priors, rtol=0, atol=0)
    assert {logits.dtype for logits in half.logits} == {torch.float32}
    assert {codes.dtype for codes in half.box_codes} == {torch.float32}


@pytest.mark.parametrize("detector", FAMILIES[2:], indirect=True)
@pytest.mark.parametrize("precision", HALVES)
def test_priors_of_proposals_are_those_of_full_precision(detector, batch, precision):
    def anchors(given):
        with network_precision(CPU, given):
            features = detector.neck(detector.backbone(detector.normalise(batch)))
            return detector.proposal_network(features, tuple(batch.pixels.shape[2:])).priors

    torch.testing.assert_close(anchors(precision), anchors("fp32"), rtol=0, atol=0)


@pytest.mark.parametrize("detector", FAMILIES[2:], indirect=True)
def test_what_is_said_about_regions_is_float32(run):
    regions = run("bf16", REGIONS).regions

    of_regions = (regions.proposals, regions.features, regions.logits, regions.box_codes)
    assert {tensor.dtype for tensors in of_regions for tensor in tensors} == {torch.float32}
