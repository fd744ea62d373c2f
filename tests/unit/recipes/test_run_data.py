import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distildet.errors import ClassMapError, DataError
from distildet.recipes.run_data import changed_files, load_run_data
from distildet.recipes.schema import DataConfig, LabelStage, TrainStage


def write_coco(path, names, classes, labels):
    """One box a picture, of the category given for it."""
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": name, "width": 8, "height": 8}
                    for i, name in enumerate(names)
                ],
                "annotations": [
                    {
                        "id": i,
                        "image_id": i,
                        "category_id": classes.index(label),
                        "bbox": [1, 1, 4, 4],
                        "area": 16,
                        "iscrowd": 0,
                    }
                    for i, label in enumerate(labels)
                ],
                "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
            }
        )
    )


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "images" / name)
    write_coco(tmp_path / "train.json", ["a.png", "b.png"], ["cat", "dog"], ["cat", "dog"])
    write_coco(tmp_path / "val.json", ["c.png"], ["dog", "cat"], ["dog"])
    return tmp_path


@pytest.fixture
def load(folder):
    def load_with(**sections):
        raw = {"image_size": "64", **sections}
        return load_run_data(DataConfig.model_validate(raw, context={"folder": folder}))

    return load_with


def source(folder, annotations=None, **more):
    images = str(folder / "images")
    if annotations is None:
        return {"format": "folder", "images": images, **more}
    return {
        "format": "coco",
        "images": images,
        "annotations": str(folder / annotations),
        **more,
    }


def ids(dataset):
    return [sample.id for sample in dataset.samples]


def test_labeled_images_are_not_unlabeled_ones_too(folder, load):
    data = load(labeled=source(folder, "train.json"), unlabeled=[source(folder)])

    assert ids(data.dataset("labeled")) == ["a.png", "b.png"]
    assert ids(data.dataset("unlabeled")) == ["c.png", "d.png"]
    assert ids(data.dataset("all")) == ["a.png", "b.png", "c.png", "d.png"]
    assert data.sizes() == {"labeled": 2, "unlabeled": 2, "all": 4}


def test_validation_images_are_left_out_of_the_unlabeled_ones_and_told(folder, load):
    data = load(
        labeled=source(folder, "train.json"),
        unlabeled=[source(folder)],
        validation=source(folder, "val.json"),
    )

    assert ids(data.dataset("unlabeled")) == ["d.png"]
    assert [line for line in data.remarks() if "data.validation" in line] == [
        "1 unlabeled images are left out, since the metrics are measured on them (data.validation)"
    ]


def test_measuring_on_images_that_were_trained_on_is_refused(folder, load):
    write_coco(folder / "val.json", ["b.png", "c.png"], ["cat", "dog"], ["cat", "dog"])

    with pytest.raises(DataError, match=r"share 1 images: 'b\.png'"):
        load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))


def test_unlabeled_copies_of_validation_images_are_left_out_and_told(folder, load):
    shutil.copy(folder / "images" / "c.png", folder / "images" / "d.png")

    data = load(unlabeled=[source(folder)], validation=source(folder, "val.json"))

    assert ids(data.dataset("unlabeled")) == ["a.png", "b.png"]
    assert data.remarks() == [
        "1 unlabeled images are left out, since the metrics are measured on them (data.validation)",
        "1 unlabeled images are left out, since images that the metrics are measured on "
        "(data.validation) have the same bytes: 'd.png' = 'c.png'",
    ]


def test_labeled_copies_of_validation_images_are_told(folder, load):
    shutil.copy(folder / "images" / "c.png", folder / "images" / "b.png")

    data = load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))

    assert ids(data.labeled) == ["a.png", "b.png"]
    assert [line.partition(". ")[0] for line in data.remarks()] == [
        "1 images of data.labeled are learned from, although images of data.validation have the "
        "same bytes: 'b.png' = 'c.png'"
    ]


@pytest.mark.parametrize("strict", [("true", "false"), ("false", "true")])
def test_labeled_copies_of_validation_images_are_refused_where_reading_is_strict(
    folder, load, strict
):
    shutil.copy(folder / "images" / "c.png", folder / "images" / "b.png")

    with pytest.raises(DataError, match=r"data\.labeled has 1 images .*'b\.png' = 'c\.png'"):
        load(
            labeled=source(folder, "train.json", strict=strict[0]),
            validation=source(folder, "val.json", strict=strict[1]),
        )


def test_the_faults_of_all_sources_are_told_at_once(folder, load):
    (folder / "train.json").write_text("[]")
    write_coco(folder / "val.json", ["gone.png"], ["cat"], ["cat"])
    (folder / "list.txt").write_text("lost.png\n")

    with pytest.raises(DataError) as caught:
        load(
            labeled=source(folder, "train.json"),
            unlabeled=["labeled-rest", source(folder, list=str(folder / "list.txt"))],
            validation=source(folder, "val.json"),
        )

    places = [line.partition(": ")[0] for line in str(caught.value).splitlines()]
    assert places == ["data.labeled", "data.unlabeled[1]", "data.validation"]
    assert "train.json: found a list" in str(caught.value)
    assert "list.txt: listed images must be files" in str(caught.value)
    assert "'gone.png'" in str(caught.value)


def test_what_readers_note_reaches_the_user_once(folder, load):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(folder / "images" / "e.gif", save_all=True, append_images=frames[1:])

    data = load(unlabeled=[source(folder), source(folder)])

    assert data.remarks() == [
        f"{folder / 'images'}: all frames or pages but the first of 1 images: 'e.gif'"
    ]


def test_an_image_that_vanishes_after_reading_is_named(folder, load):
    data = load(unlabeled=[source(folder)])
    (folder / "images" / "b.png").unlink()

    with pytest.raises(DataError, match=r"b\.png: the image was there a moment ago"):
        data.fingerprints()


def test_labeled_rest_are_the_hidden_images_without_their_boxes(folder, load):
    data = load(labeled=source(folder, "train.json", fraction="0.5"), unlabeled=["labeled-rest"])

    assert sorted(ids(data.labeled) + ids(data.unlabeled)) == ["a.png", "b.png"]
    assert data.unlabeled.samples[0].annotations is None
    assert data.hidden.samples[0].annotations is not None


def test_validation_labels_are_counted_in_the_classes_to_learn(folder, load):
    data = load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))

    assert data.validation.classes.names == ("cat", "dog")
    np.testing.assert_array_equal(data.validation.samples[0].annotations.labels, [1])


def test_validation_classes_that_are_matched_by_alias_are_told(folder, load):
    write_coco(folder / "train.json", ["a.png"], ["cat", "airplane"], ["airplane"])
    write_coco(folder / "val.json", ["c.png"], ["Cat", "aeroplane"], ["aeroplane"])

    data = load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))

    np.testing.assert_array_equal(data.validation.samples[0].annotations.labels, [1])
    assert data.remarks() == [
        "data.validation: classes counted under another name for the same: aeroplane as airplane"
    ]


def test_validation_boxes_of_a_class_that_is_not_learned_are_refused(folder, load):
    write_coco(folder / "val.json", ["c.png"], ["dog", "cow"], ["cow"])

    with pytest.raises(
        ClassMapError, match=r"classes cow, which are not among the 2 .*'cow': Nothing"
    ):
        load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))


def test_a_validation_class_without_boxes_is_no_fault(folder, load):
    write_coco(folder / "val.json", ["c.png"], ["dog", "cow"], ["dog"])

    data = load(labeled=source(folder, "train.json"), validation=source(folder, "val.json"))

    np.testing.assert_array_equal(data.validation.samples[0].annotations.labels, [1])


def test_classes_come_from_validation_where_nothing_is_labeled(folder, load):
    data = load(unlabeled=[source(folder)], validation=source(folder, "val.json"))

    assert data.classes.names == ("dog", "cat")
    assert data.labeled is None


def test_images_behind_a_linked_folder_keep_the_names_that_the_user_sees(folder, load):
    (folder / "link").symlink_to(folder / "images", target_is_directory=True)

    data = load(unlabeled=[{"format": "folder", "images": str(folder / "link")}])

    assert ids(data.unlabeled) == ["a.png", "b.png", "c.png", "d.png"]


def test_ids_are_relative_to_the_common_root_of_all_sources(folder, load):
    Path(folder / "more").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "more" / "a.png")

    data = load(
        labeled=source(folder, "train.json"),
        unlabeled=[{"format": "folder", "images": str(folder / "more")}],
    )

    assert ids(data.dataset("all")) == ["images/a.png", "images/b.png", "more/a.png"]


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        (LabelStage(stage="label", images="unlabeled"), 0),
        (
            TrainStage.model_validate(
                {
                    "stage": "train",
                    "images": {"labeled": "1", "unlabeled": "1"},
                    "epochs": "1",
                    "optimizer": {"lr": "1e-3"},
                }
            ),
            0,
        ),
    ],
    ids=["label", "train"],
)
def test_a_stream_without_any_image_of_its_own_is_refused(folder, load, stage, place):
    write_coco(folder / "train.json", ["a.png", "b.png", "c.png", "d.png"], ["cat"], ["cat"] * 4)
    data = load(labeled=source(folder, "train.json"), unlabeled=[source(folder)])

    with pytest.raises(
        DataError, match=rf"stages\[{place}\]\.images: the stream 'unlabeled' has no image"
    ):
        data.require_images([stage])


def test_equal_data_have_equal_fingerprints(folder, load):
    sections = {"labeled": source(folder, "train.json"), "unlabeled": [source(folder)]}

    before, after = (load(**sections).fingerprints() for _ in range(2))
    assert changed_files(before, after, root=folder) == []


def test_changed_added_and_lost_images_are_named(folder, load):
    sections = {"labeled": source(folder, "train.json"), "unlabeled": [source(folder)]}
    before = load(**sections).fingerprints()
    write_coco(folder / "train.json", ["a.png", "b.png"], ["cat", "dog"], ["cat", "cat"])
    (folder / "images" / "d.png").rename(folder / "images" / "e.png")

    images = folder / "images"
    lines = changed_files(before, load(**sections).fingerprints(), root=images)

    assert lines == [
        f"labeled: {images}/b.png has another place, size or annotations",
        f"unlabeled: {images}/d.png is gone",
        f"unlabeled: {images}/e.png was added",
    ]


def test_boxes_that_were_left_out_are_told_once(folder, load):
    document = json.loads((folder / "train.json").read_text())
    document["annotations"][0]["bbox"] = [20, 20, 4, 4]
    (folder / "train.json").write_text(json.dumps(document))

    data = load(labeled=source(folder, "train.json", fraction="0.5"), unlabeled=["labeled-rest"])

    assert len(data.remarks()) == 1
