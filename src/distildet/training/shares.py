"""What the processes of a run exchange in training, each of which computes a share of the batch.

One process alone exchanges nothing, and what is returned is its own.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from distildet.detectors.base import BatchNorms
from distildet.errors import StageError
from distildet.ops.processes import from_first, gather, num_processes, rank, sum_in_place
from distildet.structures import ImageBatch, Targets


def start_equal(module: nn.Module) -> None:
    """Give a module the state that it has in the process of rank 0."""
    if num_processes() > 1:
        state = module.state_dict() if rank() == 0 else {}
        module.load_state_dict(from_first({name: value.cpu() for name, value in state.items()}))


@torch.no_grad()
def average_step(
    module: nn.Module, parameters: Sequence[nn.Parameter], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Bring together what the processes have computed in a step, in one message.

    Gradients become their means over processes; a gradient that only some processes have counts
    as 0 in the others. The statistics of each BatchNorm in training mode, which every process took
    from its own share, become their means.

    Args:
        module: Whose BatchNorm layers follow the batches.
        parameters: Whose gradients are averaged, in the same order in every process.
        values: Named scalars, the same names in every process.

    Returns:
        The means of the values, on the device of the parameters.
    """
    if num_processes() == 1:
        return dict(values)
    return _averaged(parameters, _running_statistics(module), values)


def _averaged(
    parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    device = parameters[0].device
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    has_gradient = torch.tensor([p.grad is not None for p in parameters], device=device)
    sent = [*own, *statistics, *values.values(), has_gradient]
    flat = torch.cat([one.to(device, torch.float32).flatten() for one in sent])
    sum_in_place(flat)
    pieces = flat.div_(num_processes()).split_with_sizes([one.numel() for one in sent])
    received = iter(pieces)
    # One that no process has stays away: optimisers pass over it, as with one process.
    for parameter, gradient, is_there in zip(parameters, own, pieces[-1].tolist(), strict=True):
        mean = next(received)
        if is_there:
            parameter.grad = gradient.copy_(mean.view_as(gradient))
    for statistic in statistics:
        statistic.copy_(next(received).view_as(statistic))
    return {name: mean.view(()) for name, mean in zip(values, received, strict=False)}


def _running_statistics(module: nn.Module) -> list[Tensor]:
    return [
        statistic
        for layer in module.modules()
        if isinstance(layer, BatchNorms) and layer.training
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]


def refuse_differences(tensors: Mapping[str, Tensor], place: str) -> None:
    """Make sure that all processes hold the same.

    Args:
        tensors: Named values, equal to the bit in every process.
        place: Named in the message.

    Raises:
        StageError: They have come apart.
    """
    if num_processes() == 1:
        return
    fingerprints = gather(_fingerprint(tensors.values()))
    others = [index for index, one in enumerate(fingerprints) if one != fingerprints[0]]
    if others:
        raise StageError(
            f"{place}: the weights of process {others[0]} differ from those of process 0, which "
            "must not be. Use devices of one kind and the same versions of everything on all "
            "machines; the same command goes on from the last checkpoint."
        )


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def whole_batch(
    batch: ImageBatch, targets: Sequence[Targets]
) -> tuple[ImageBatch, tuple[Targets, ...]]:
    """Return the batch of which every process has a share, in the order that one would have.

    Args:
        batch: The share of this process, on the CPU.
        targets: One an image.
    """
    if num_processes() == 1:
        return batch, tuple(targets)
    shares = [
        [(images.part(i, i + 1), one) for i, one in enumerate(taught)]
        for images, taught in gather((batch, targets))
    ]
    images, all_targets = zip(*chain.from_iterable(zip(*shares, strict=True)), strict=True)
    whole = ImageBatch(
        pixels=torch.cat([image.pixels for image in images]),
        sizes=torch.cat([image.sizes for image in images]),
        image_sizes=torch.cat([image.image_sizes for image in images]),
        image_to_batch=torch.cat([image.image_to_batch for image in images]),
        image_ids=tuple(chain.from_iterable(image.image_ids for image in images)),
        view_ids=tuple(chain.from_iterable(image.view_ids for image in images)),
    )
    return whole, all_targets
