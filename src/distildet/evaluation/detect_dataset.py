"""Detections of a detector on whole datasets, and the file that keeps them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from distildet import artefacts
from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import Plan, evaluation_batches, plan_batches
from distildet.detectors.base import Detector, raise_if_unanswered
from distildet.errors import DataError
from distildet.ops.fitting import in_fitting_parts
from distildet.ops.placement import placed_on
from distildet.ops.precision import Precision, network_precision
from distildet.ops.processes import num_processes
from distildet.ops.shared_work import share_out
from distildet.structures import DETECTIONS, Detections, ImageBatch

BATCHES_AT_ONCE = 4
"""Batches after which processes that share a dataset tell each other how they fare."""


def predictor(
    detector: Detector, device: torch.device, precision: Precision = "fp32"
) -> Callable[[ImageBatch], tuple[Detections, ...]]:
    """Return a function from a batch to its detections, for a detector in eval mode.

    Where memory runs out it goes on with half as many images at once, on the same padded canvas,
    and keeps to that number.

    Args:
        detector: Moved to the device and put into eval mode.
        device: Where to compute.
        precision: What the network computes in; boxes and scores are float32 in any case.

    Raises:
        ResourceError: When called: the memory is too small for a single image.
    """
    detector = placed_on(detector, device).eval()

    @torch.inference_mode()
    def detect(batch: ImageBatch) -> tuple[Detections, ...]:
        with network_precision(device, precision):
            return detector(batch.to(device), want={DETECTIONS}).detections or ()

    fitting = in_fitting_parts(detect, device)
    return lambda batch: tuple(found for part in fitting(batch) for found in part)


def detect_dataset(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Detections]:
    """Detect objects in all images of a dataset at the detector's image size.

    Several processes share the batches out; all must come here. What is found does not depend on
    their number.

    Args:
        detector: Put into eval mode.
        samples: The images.
        batch_size: Images per forward pass.
        workers: Loader processes of this process.
        device: Where to compute.
        progress: Told finished and all images after each batch; with several processes the
            finished ones are an estimate until all are. An error that it raises, such as an
            InterruptedRunError, ends all processes.

    Returns:
        Detections in the image frame by sample id, in the order of the samples, in every process.

    Raises:
        DataError: An image cannot be decoded, or the detector has no answer for it.
        ResourceError: A worker process died, or the memory is too small.
    """
    detector.expect(sample.id for sample in samples)
    predict = predictor(detector, device)

    def detect(share: Plan) -> Iterator[dict[str, Detections]]:
        done = 0
        for loaded in evaluation_batches(
            share, image_size=detector.spec.view_size, workers=workers
        ):
            loaded.raise_if_faulty()
            images = loaded.images
            found = dict(zip(images.image_ids, predict(images), strict=True))
            for detections in found.values():
                raise_if_unanswered(detections)
            done += len(images) * num_processes()
            if progress is not None:
                progress(min(done, len(samples)), len(samples))
            yield found

    plan = plan_batches(samples, batch_size)
    found, error = share_out(plan, detect, at_once=BATCHES_AT_ONCE)
    if error is not None:
        raise error
    by_id = {name: detections for batch in found for name, detections in batch.items()}
    return {sample.id: by_id[sample.id] for sample in samples}


def write_detections(path: Path, detections: Mapping[str, Detections]) -> None:
    """Write detections by sample id as JSON, atomically; float32 values survive exactly."""
    document = {
        sample_id: {
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "labels": found.labels.tolist(),
        }
        for sample_id, found in detections.items()
    }
    artefacts.write_text(path, json.dumps(document) + "\n")


def read_detections(path: Path) -> dict[str, Detections]:
    """Read what `write_detections` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {
            sample_id: Detections(
                boxes=torch.tensor(found["boxes"], dtype=torch.float32).reshape(-1, 4),
                scores=torch.tensor(found["scores"], dtype=torch.float32),
                labels=torch.tensor(found["labels"], dtype=torch.int64),
            )
            for sample_id, found in document.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a file of detections ({error}). Delete it; it is made again."
        ) from error
