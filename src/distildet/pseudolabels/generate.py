"""Labels images shard by shard, going on where an interrupted call stopped."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from distildet import artefacts
from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import LoadedBatch, Plan
from distildet.errors import DataError
from distildet.ops.processes import num_processes, own_share
from distildet.ops.shared_work import on_first, share_out
from distildet.pseudolabels.quarantine import FailedStage, Quarantine
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections, ImageBatch

PlanBatches = Callable[[Sequence[Sample]], Plan]
Load = Callable[[Plan], Iterable[LoadedBatch]]
Predict = Callable[[ImageBatch], Sequence[Detections]]

# Shards a process for which one loader is started, and headers of images are read in advance.
ROUNDS_AT_ONCE = 8


def label_images(
    store: PseudoLabelStore,
    samples: Sequence[Sample],
    *,
    plan: PlanBatches,
    load: Load,
    predict: Predict,
    progress: Callable[[int, int], None] | None = None,
    quarantine: Quarantine | None = None,
) -> None:
    """Fill the missing shards of a store.

    A shard is a fixed slice of the samples and is written whole, so that no image is labeled
    twice or lost, whenever the process dies. Each shard has batches of its own: which images a
    teacher sees together depends neither on where an earlier call stopped, nor on how many
    processes share the work. In each round they take as many shards as they are, share out the
    batches of these, and the one of rank 0 writes.

    Args:
        store: Made for these samples in this order.
        samples: All images of the work.
        plan: Puts the images of a shard into batches; the same in every process.
        load: Gives planned batches in their order.
        predict: Detections of a batch in the image frame, one for each image.
        progress: Told finished and all images after each batch; with several processes the
            finished ones are an estimate until their shards are.
        quarantine: Takes the images that cannot be decoded, or for which the teacher has no answer
            or boxes that are not finite, and is written before their shard; they have no entry in
            the store. Shards whose bad images were mended since are made again. With None, such an
            image ends the work.

    Raises:
        DataError: The teacher returned no answer or boxes that are not finite, or an image cannot
            be decoded.
        GateError: More images are bad than the quarantine accepts.
        ResourceError: The disk is full; the shards before are intact.
    """
    indices = on_first(lambda: _begin(store, samples, quarantine))
    parts = {i: samples[i * store.shard_size : (i + 1) * store.shard_size] for i in indices}
    if quarantine is not None:
        quarantine.forget(sample.id for part in parts.values() for sample in part)
        quarantine.raise_if_too_many()
    labeling = _Labeling(
        store=store,
        parts=parts,
        plan=plan,
        load=load,
        predict=predict,
        progress=progress,
        quarantine=quarantine,
        total=len(samples),
        done=len(samples) - sum(map(len, parts.values())),
    )
    at_once = ROUNDS_AT_ONCE * num_processes()
    for start in range(0, len(indices), at_once):
        labeling.make(indices[start : start + at_once])


def _begin(
    store: PseudoLabelStore, samples: Sequence[Sample], quarantine: Quarantine | None
) -> list[int]:
    """Clean up after an interrupted call; return which shards are to be made."""
    mended: set[str] = set()
    if quarantine is not None:
        artefacts.remove_partial(quarantine.path.parent)
        mended = quarantine.mended()
    again = {i // store.shard_size for i, sample in enumerate(samples) if sample.id in mended}
    return sorted(again.union(store.missing_shards()))


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What became of the images of a planned batch.

    Args:
        labels: By sample id.
        bad: By sample id what failed, and the whole message.
    """

    labels: Mapping[str, StoredLabels]
    bad: Mapping[str, tuple[FailedStage, str]]


@dataclass(kw_only=True)
class _Labeling:
    """The work of one call.

    Args:
        store: As given to `label_images`, like all that is not said here.
        parts: Images of each shard that is to be made.
        plan: See there.
        load: See there.
        predict: See there.
        progress: See there.
        quarantine: See there.
        total: All images.
        done: Images of finished shards.
    """

    store: PseudoLabelStore
    parts: Mapping[int, Sequence[Sample]]
    plan: PlanBatches
    load: Load
    predict: Predict
    progress: Callable[[int, int], None] | None
    quarantine: Quarantine | None
    total: int
    done: int

    def make(self, indices: Sequence[int]) -> None:
        """Label and write some shards with one loader, round by round."""
        plans = {index: self.plan(self.parts[index]) for index in indices}
        rounds = [
            indices[start : start + num_processes()]
            for start in range(0, len(indices), num_processes())
        ]
        batches = [[batch for index in some for batch in plans[index]] for some in rounds]
        loaded = iter(self.load([batch for some in batches for batch in own_share(some)]))
        for some, of_round in zip(rounds, batches, strict=True):
            self._make_round({index: plans[index] for index in some}, of_round, loaded)

    def _make_round(
        self, plans: Mapping[int, Plan], batches: Plan, loaded: Iterator[LoadedBatch]
    ) -> None:
        """Label and write one shard for each process; an error waits for those before it."""
        goal = self.done + sum(map(len, batches))
        found, error = share_out(
            batches, lambda share: self._label(islice(loaded, len(share)), goal)
        )
        answers = iter(found)
        for index, plan in plans.items():
            of_shard = list(islice(answers, len(plan)))
            if len(of_shard) == len(plan):
                self._write(index, of_shard)
        if error is not None:
            raise error
        self.done = goal

    def _label(self, batches: Iterable[LoadedBatch], goal: int) -> Iterator[_Answer]:
        """Yield what the teacher finds in each batch."""
        done = self.done
        for loaded in batches:
            answer = self._answer(loaded)
            if answer.bad and self.quarantine is None:
                _, message = next(iter(answer.bad.values()))
                raise DataError(message)
            yield answer
            done += num_processes() * (len(answer.labels) + len(answer.bad))
            if self.progress is not None:
                self.progress(min(done, goal), self.total)

    def _answer(self, loaded: LoadedBatch) -> _Answer:
        images = loaded.images
        labels: dict[str, StoredLabels] = {}
        bad: dict[str, tuple[FailedStage, str]] = {
            name: ("decode", str(fault)) for name, fault in loaded.faults.items()
        }
        for name, size, found in zip(
            images.image_ids,
            images.image_sizes.tolist(),
            self.predict(images) if len(images) else (),
            strict=True,
        ):
            if found.fault is not None:
                bad[name] = ("teacher", found.fault)
            elif _is_finite(found):
                labels[name] = StoredLabels(detections=found, image_size=(size[0], size[1]))
            else:
                bad[name] = ("teacher", _not_finite(name))
        return _Answer(labels=labels, bad=bad)

    def _write(self, index: int, answers: Sequence[_Answer]) -> None:
        """Write a shard, in the order of the work, and before it what is bad in it."""
        labels = {name: entry for answer in answers for name, entry in answer.labels.items()}
        if self.quarantine is not None:
            for answer in answers:
                for name, (stage, message) in answer.bad.items():
                    self.quarantine.add(name, stage, message)

        def write() -> None:
            if self.quarantine is not None:
                self.quarantine.write()
            in_order = [sample.id for sample in self.parts[index] if sample.id in labels]
            self.store.write_shard(index, {name: labels[name] for name in in_order})

        on_first(write)
        if self.quarantine is not None:
            self.quarantine.raise_if_too_many()


def _is_finite(found: Detections) -> bool:
    tensors = (found.boxes, found.scores)
    return found.is_finite and all(bool(tensor.isfinite().all()) for tensor in tensors)


def _not_finite(name: str) -> str:
    return (
        f"{name}: the teacher returned boxes or scores that are not finite. Look at the teacher's "
        "weights, or leave this image out."
    )
