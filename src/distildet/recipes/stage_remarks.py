"""What a train stage tells beside its progress: whatever may be other than it was meant."""

from pathlib import Path

from torch import nn

from distildet.detectors.base import BatchNorms, Detector
from distildet.ops.processes import num_processes
from distildet.training.loop import TrainResult
from distildet.training.terms import LARGEST_WEIGHT, LEAST_WEIGHT, Term


def batch_norm_remarks(student: Detector, batch_norm: str, batch_size: int) -> list[str]:
    """Return a line if BatchNorm learns from less than a batch, since several processes share it.

    Args:
        student: That trains.
        batch_norm: "train" or "frozen".
        batch_size: Images that BatchNorm would see in one process: those of a micro-batch.
    """
    has_any = any(isinstance(layer, BatchNorms) for layer in student.modules())
    if num_processes() == 1 or batch_norm == "frozen" or not has_any:
        return []
    return [
        f"BatchNorm sees the {batch_size // num_processes()} images of each process alone, not "
        f"{batch_size} as in one process. With batch_norm: frozen in the stage the result is that "
        "of one process but for rounding; see docs/distributed.md."
    ]


def left_out_remarks(result: TrainResult, folder: Path, steps: int) -> list[str]:
    """Return a line for each reason for which steps of a stage changed no weights.

    Args:
        result: Of the stage.
        folder: Of the stage.
        steps: All steps of the stage.
    """
    lines = []
    if result.rejected:
        lines.append(
            f"{result.rejected} of {steps} steps were left out, since their loss or gradient was "
            f"not finite. Look at their images in {folder / 'rejected'}, or lower the learning "
            "rate."
        )
    if result.overflows:
        lines.append(
            f"{result.overflows} of {steps} steps were left out while the loss scale of fp16 "
            "was too large. A few are usual."
        )
    return lines


def loss_remarks(task: nn.Module) -> list[str]:
    """Return what the losses of a stage say about the pair of detectors and their options.

    Args:
        task: With its terms.
    """
    return [
        f"{term.name}: {line}"
        for term in task.modules()
        if isinstance(term, Term)
        for line in term.loss.remarks
    ]


def weight_remarks(task: nn.Module) -> list[str]:
    """Return a line for each automatic weight that would lie outside its bounds.

    Args:
        task: Whose terms have trained a student.
    """
    lines = []
    for term in task.modules():
        if not isinstance(term, Term) or term.auto_weight is None:
            continue
        bound = _bound(float(term.auto_weight.value))
        if bound is not None:
            lines.append(
                f"{term.name}: `weight: auto` is at its bound of {bound:g}, so the loss does not "
                "have the share that was asked for. Look at its values in metrics.jsonl, and "
                "choose another share, or a weight."
            )
    return lines


def _bound(weight: float) -> float | None:
    """Return the bound that a weight lies at, which was rounded to float32."""
    for bound in (LEAST_WEIGHT, LARGEST_WEIGHT):
        if abs(weight - bound) < 1e-6 * bound:
            return bound
    return None
