"""Writes boxes as predictions of Label Studio, where people look through and correct them."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement

from distildet.classes import ClassList
from distildet.data.image_record import ImageRecord, areas_left_out, crowd_left_out
from distildet.data.owned_folder import write_folder
from distildet.data.xml_text import require_xml_names, xml_bytes

_FORMAT = "Label Studio"
_TASKS = "tasks.json"
_CONFIG = "label-config.xml"
# Names that tie results to the labeling configuration.
_CONTROL = "label"
_OBJECT = "image"


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions:
    """What only Label Studio has to know.

    Args:
        image_prefix: Put before the URL-quoted name of an image; the default is where Label Studio
            serves local files, relative to its LOCAL_FILES_DOCUMENT_ROOT.
        model_version: By which predictions of several models are told apart.
    """

    image_prefix: str = "/data/local-files/?d="
    model_version: str = "distildet"


def write_label_studio(
    folder: Path,
    records: Sequence[ImageRecord],
    classes: ClassList,
    *,
    options: LabelStudioOptions,
) -> tuple[str, ...]:
    """Write a folder with `tasks.json`, to be imported, and `label-config.xml`.

    The second is the labeling configuration, to be pasted into the settings of the project before
    the import. Each image is a task with one prediction; boxes are in percent of the image. The
    score of a prediction, by which tasks can be sorted, is the mean of those of its boxes.
    Crowd regions and areas are not written: there is no place for them.

    Args:
        folder: New, or as an earlier call left it.
        records: What to write.
        classes: Of the labels.
        options: Where images are served, and the name of the model.

    Returns:
        One line for each kind of thing that is not written, with the number of such things.

    Raises:
        ConfigError: The folder has other things in it.
        DataError: XML cannot hold a class name.
        ResourceError: The disk is full.
    """
    require_xml_names(classes, f"the labeling configuration of {_FORMAT}")
    # One task a line, and text at once: as Python objects, a million boxes need some gigabytes.
    tasks = ",\n".join(
        json.dumps(_task(number, record, classes, options))
        for number, record in enumerate(records, start=1)
    )
    files = [(_TASKS, f"[\n{tasks}\n]\n".encode()), (_CONFIG, xml_bytes(_config(classes)))]
    write_folder(folder, files)
    return (*crowd_left_out(records, _FORMAT), *areas_left_out(records, _FORMAT))


def _task(
    number: int, record: ImageRecord, classes: ClassList, options: LabelStudioOptions
) -> dict[str, Any]:
    results = _results(number, record, classes)
    prediction: dict[str, Any] = {"model_version": options.model_version, "result": results}
    scores = [result["score"] for result in results if "score" in result]
    if scores:
        prediction["score"] = sum(scores) / len(scores)
    # Bytes, since names can have some that are not UTF-8.
    url = options.image_prefix + quote(os.fsencode(record.name))
    return {"data": {_OBJECT: url}, "predictions": [prediction]}


def _results(number: int, record: ImageRecord, classes: ClassList) -> list[dict[str, Any]]:
    height, width = record.size
    results = []
    for i in range(len(record)):
        if record.crowd[i]:
            continue
        x1, y1, x2, y2 = record.boxes[i].tolist()
        result = {
            "id": f"{number}-{i + 1}",
            "type": "rectanglelabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "x": 100 * x1 / width,
                "y": 100 * y1 / height,
                "width": 100 * (x2 - x1) / width,
                "height": 100 * (y2 - y1) / height,
                "rotation": 0,
                "rectanglelabels": [classes[int(record.labels[i])]],
            },
        }
        if record.scores is not None:
            result["score"] = float(record.scores[i])
        results.append(result)
    return results


def _config(classes: ClassList) -> Element:
    view = Element("View")
    SubElement(view, "Image", name=_OBJECT, value=f"${_OBJECT}")
    labels = SubElement(view, "RectangleLabels", name=_CONTROL, toName=_OBJECT)
    for name in classes:
        SubElement(labels, "Label", value=name)
    return view
