"""A teacher that is only a file of boxes: what another program has found, by name of the image."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import torch
from torchvision.ops import clip_boxes_to_image

from distildet import artefacts
from distildet.data.coco_results import ImageResults, read_results
from distildet.data.dataset import Sample
from distildet.data.headers import probe_size
from distildet.detectors.black_box import MAX_DETECTIONS, BlackBoxDetector, nothing, ranked
from distildet.errors import DataError
from distildet.structures import Detections, ImageBatch

# Nobody looks at the pixels: of a JPEG the smallest draft is decoded.
_SMALLEST_VIEW = 32


class ResultsDetector(BlackBoxDetector):
    """A detector that looks up what a file says about an image.

    An image is found by its sample id, which is its path relative to the folder of the images, or
    in a run to the folder that has all of them. A name in the file belongs to it that is equal to
    the id or, if none is, ends it or is ended by it in whole parts of the path: `photos/a.jpg`
    finds `a.jpg`, and `a.jpg` finds `train/a.jpg`, if there is one such name alone.

    Args:
        file: See `distildet.data.coco_results.read_results`.
        images: See there.

    Raises:
        DataError: See there.
    """

    computes = False

    def __init__(self, file: Path | str, *, images: Path | str | None = None) -> None:
        self._file = Path(file)
        naming = None if images is None else Path(images)
        results = read_results(self._file, naming)
        files = [self._file] if naming is None else [self._file, naming]
        super().__init__(
            family="results",
            classes=results.classes,
            image_size=_SMALLEST_VIEW,
            options={"files": [artefacts.fingerprint_file(path) for path in files]},
        )
        self._by_name = results.by_name
        self._names_by_last: dict[str, list[str]] = {}
        for name in results.by_name:
            self._names_by_last.setdefault(PurePosixPath(name).name, []).append(name)
        self._image_by_name: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Return the path of the file."""
        return str(self._file)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the files."""
        return artefacts.fingerprint_json(dict(self.spec.options))

    def expect(self, image_ids: Iterable[str]) -> None:
        """Make sure that no name in the file stands for two images.

        Args:
            image_ids: Sample ids of all images of a work.

        Raises:
            DataError: One does, or several names fit an image.
        """
        given = list(image_ids)
        for image_id in given:
            if image_id in self._by_name:
                self._image_by_name.setdefault(image_id, image_id)
        for image_id in given:
            self._found(image_id)

    def unanswered(self, samples: Iterable[Sample]) -> list[str]:
        """Return the ids of images that the file does not list, or lists with another size.

        Args:
            samples: Of which the headers are read.

        Raises:
            DataError: See `expect`.
        """
        return [sample.id for sample in samples if not self._answers(sample)]

    def detect(self, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return one result an image, in the image frame, best score first.

        An image that the file does not list, or lists with another size, has a fault as its result.

        Args:
            batch: Of which ids and sizes are looked at.

        Raises:
            DataError: See `expect`.
        """
        return tuple(
            self._answer(image_id, (height, width))
            for image_id, (height, width) in zip(
                batch.image_ids, batch.image_sizes.tolist(), strict=True
            )
        )

    def _answer(self, image_id: str, size: tuple[int, int]) -> Detections:
        found = self._found(image_id)
        if found is None:
            return nothing(
                fault=f"{image_id}: not processed: {self._file} does not list this image. Let the "
                "teacher process it and write the file again, or leave the image out."
            )
        if found.size != size:
            stated, actual = (f"{width}x{height}" for height, width in (found.size, size))
            turned = " (turned by its EXIF tag?)" if found.size == size[::-1] else ""
            return nothing(
                fault=f"{image_id}: {self._file} states {stated} pixels, but the image has {actual}"
                f"{turned}. Its boxes are of another version of the image: process this one."
            )
        boxes = torch.from_numpy(found.boxes)
        return ranked(
            clip_boxes_to_image(boxes, size).float(),
            torch.from_numpy(found.scores),
            torch.from_numpy(found.labels),
            most=MAX_DETECTIONS,
        )

    def _answers(self, sample: Sample) -> bool:
        found = self._found(sample.id)
        if found is None:
            return False
        try:
            return found.size == probe_size(sample.path)
        except DataError:  # whoever decodes the image tells what is wrong with it
            return True

    def _found(self, image_id: str) -> ImageResults | None:
        name = self._name_of(image_id)
        if name is None:
            return None
        other = self._image_by_name.setdefault(name, image_id)
        if other == name != image_id:  # it is the image of just this name
            return None
        if other != image_id:
            raise DataError(
                f"{self._file}: its image {name!r} may be {other!r} or {image_id!r}. Write names "
                "with the folder into the file, so that each is of one image."
            )
        return self._by_name[name]

    def _name_of(self, image_id: str) -> str | None:
        if image_id in self._by_name:
            return image_id
        parts = PurePosixPath(image_id).parts
        fitting = [
            name
            for name in self._names_by_last.get(parts[-1], [])
            if _is_end(PurePosixPath(name).parts, parts)
        ]
        if len(fitting) > 1:
            raise DataError(
                f"{self._file}: for the image {image_id!r} it has several that fit: "
                f"{', '.join(map(repr, fitting[:5]))}. Give the folder of images that their names "
                "are relative to."
            )
        return fitting[0] if fitting else None


def _is_end(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tell whether the shorter path is the end of the longer one."""
    count = min(len(one), len(other))
    return one[-count:] == other[-count:]
