"""What must agree between the sections of a recipe, and the files it names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distildet.detectors.bundle import DECLARED_SUFFIXES, STOCK_SUFFIXES
from distildet.errors import nearest_names
from distildet.pseudolabels.calibrate import FITTED
from distildet.recipes.schema import (
    LABELED_REST,
    DataConfig,
    LabelStage,
    Recipe,
    SourceConfig,
    Stage,
    StudentConfig,
    TeacherEntry,
    TrainStage,
)
from distildet.recipes.source_schema import ANNOTATIONS_BY_FORMAT
from distildet.recipes.streams import LABELED_BY, Stream
from distildet.recipes.teacher_schema import (
    AnyTeacherConfig,
    BundleTeacherConfig,
    OnnxTeacherConfig,
)
from distildet.recipes.values import INIT_WORDS, Boolean

# What a teacher is given by; whether a path without this suffix exists, a folder alone can say.
_BUNDLE = "folder or .pth file"


@dataclass(frozen=True, kw_only=True)
class Sections:
    """The sections of a recipe; one that has a fault of its own is None.

    Args:
        data: Images.
        teachers: None also where one of them has a fault.
        student: Family and weights.
        stages: None where it is no list; a stage that has a fault is None.
        baseline: None where the default is taken, which is never at fault.
    """

    data: DataConfig | None
    teachers: tuple[AnyTeacherConfig, ...] | None
    student: StudentConfig | None
    stages: tuple[LabelStage | TrainStage | None, ...] | None
    baseline: bool | None


def sections_of(recipe: Recipe) -> Sections:
    """Return the sections of a recipe that has passed the schema."""
    return Sections(
        data=recipe.data,
        teachers=recipe.teachers,
        student=recipe.student,
        stages=recipe.stages,
        baseline=recipe.baseline,
    )


def sound_sections(raw: Mapping[str, Any], context: Mapping[str, Any]) -> Sections:
    """Return what can be read of a recipe that has not passed the schema.

    Args:
        raw: The recipe as mappings, lists and texts.
        context: Of the validation, as the schema got it.
    """

    def read(annotation: Any, value: Any) -> Any:
        try:
            return TypeAdapter(annotation).validate_python(value, context=dict(context))
        except ValidationError:
            return None

    stages = raw.get("stages")
    return Sections(
        data=read(DataConfig, raw.get("data")),
        teachers=read(tuple[TeacherEntry, ...], raw.get("teachers", [])),
        student=read(StudentConfig, raw.get("student")),
        stages=tuple(read(Stage, s) for s in stages) if isinstance(stages, list) else None,
        baseline=read(Boolean, raw.get("baseline")),
    )


def disagreements(sections: Sections) -> list[str]:
    """Return one message for each disagreement between sections.

    What depends on a section that has a fault of its own is left out.
    """
    faults = [*_data_faults(sections), *_baseline_faults(sections)]
    stages = sections.stages
    if stages is None:
        return faults
    if None not in stages and not any(isinstance(stage, TrainStage) for stage in stages):
        faults.append("stages: there is no train stage. At least one is needed.")
    for index, stage in enumerate(stages):
        where = f"stages[{index}]"
        if isinstance(stage, LabelStage):
            faults += _labeler_faults(sections, stage, stages[:index], where)
            faults += _stream_faults(sections, stage.images, f"{where}.images")
        elif isinstance(stage, TrainStage):
            for stream in stage.images:
                faults += _stream_faults(sections, stream, f"{where}.images.{stream}")
            faults += _target_faults(stage, stages[:index], where)
            faults += _init_faults(sections, index)
            faults += _distill_faults(sections, stage, where)
    return faults


def _data_faults(sections: Sections) -> Iterator[str]:
    data = sections.data
    if data is None or LABELED_REST not in data.unlabeled:
        return
    where = f"data.unlabeled[{data.unlabeled.index(LABELED_REST)}]"
    if data.unlabeled.count(LABELED_REST) > 1:
        yield f"{where}: labeled-rest is given more than once. Once is enough."
    if data.labeled is None:
        yield f"{where}: labeled-rest needs data.labeled, of which it is the hidden part."
    elif data.labeled.fraction == 1:
        yield (
            f"{where}: labeled-rest is empty, since data.labeled.fraction is 1. "
            "Set a smaller fraction, or remove labeled-rest."
        )


def _baseline_faults(sections: Sections) -> Iterator[str]:
    if not sections.baseline:
        return
    labels_itself = any(
        stage is None or (isinstance(stage, LabelStage) and stage.by == "student")
        for stage in sections.stages or ()
    )
    if sections.teachers == () and not labels_itself:
        yield (
            "baseline: found true, but there are no teachers: the student is trained on labels "
            "alone already. Set it to false, or leave it out."
        )
    if sections.data is not None and sections.data.labeled is None:
        yield (
            "baseline: found true, but there is no data.labeled, and the baseline is trained on "
            "labels alone. Set it to false, or give labeled images."
        )


def _labeler_faults(
    sections: Sections,
    stage: LabelStage,
    earlier: tuple[LabelStage | TrainStage | None, ...],
    where: str,
) -> Iterator[str]:
    if stage.by != "student" and sections.teachers == ():
        yield f"{where}: a label stage needs a teacher. Add one to `teachers`."
    may_have_student = any(one is None or isinstance(one, TrainStage) for one in earlier)
    if stage.by != "teachers" and not may_have_student:
        yield (
            f"{where}.by: found {stage.by!r}, but no train stage is before this one, so that there "
            "is no student yet. Accepted: teachers, or a train stage before it."
        )
    if stage.calibration in FITTED and sections.data is not None and sections.data.labeled is None:
        yield (
            f"{where}.calibration: found {stage.calibration!r}, which is fitted on labeled images, "
            "but there is no data.labeled. Accepted without: auto, none, rank."
        )


def _distill_faults(sections: Sections, stage: TrainStage, where: str) -> Iterator[str]:
    count = None if sections.teachers is None else len(sections.teachers)
    if stage.distill and count == 0:
        yield f"{where}.distill: distillation needs a teacher. Add one to `teachers`."
    elif stage.distill and count is not None:
        yield from _chosen_teacher_faults(stage, count, where)
        if _is_black_box(sections, stage.teacher):
            names = ", ".join(dict.fromkeys(entry.loss for entry in stage.distill))
            yield (
                f"{where}.distill: found {names}, but of the teacher nothing is known but its "
                "boxes, and a loss needs more of it. Such a teacher serves pseudo labels: preset: "
                "pseudo-label, or a label stage and train stages without distill."
            )
    elif stage.teacher_cache is not None:
        yield (
            f"{where}.teacher_cache: there is nothing to store: `distill` is empty, so nothing "
            "asks the teacher while the student trains. Remove teacher_cache, or add a loss."
        )


def _is_black_box(sections: Sections, place: int) -> bool:
    """Tell whether there is a teacher at a place that gives boxes alone."""
    there = (sections.teachers or ())[place : place + 1]
    return any(not isinstance(config, BundleTeacherConfig) for config in there)


def _chosen_teacher_faults(stage: TrainStage, count: int, where: str) -> Iterator[str]:
    """Find losses whose teacher is not known, or that have other teachers than the first."""
    last = f"0..{count - 1}" if count > 1 else "0, or nothing"
    for place, entry in enumerate(stage.distill):
        here = f"{where}.distill[{place}].teacher"
        if entry.teacher is None and count > 1:
            yield (
                f"{here}: missing. There are {count} teachers, and a loss learns from one. Give "
                f"its place in `teachers`: {last}."
            )
        elif entry.teacher is not None and entry.teacher >= count:
            yield f"{here}: found {entry.teacher}. Accepted: {last} (the place in `teachers`)."
        elif entry.teacher not in {None, stage.teacher}:
            yield (
                f"{here}: found {entry.teacher}, but a loss before it has {stage.teacher}. The "
                "losses of a stage learn from one teacher; use another train stage for another."
            )


def _stream_faults(sections: Sections, stream: Stream, where: str) -> Iterator[str]:
    data = sections.data
    if data is None:
        return
    if stream == "all":
        is_missing = data.labeled is None and not data.unlabeled
        needed = "data.labeled or data.unlabeled"
    else:
        is_missing = not getattr(data, stream)
        needed = f"data.{stream}"
    if is_missing:
        yield f"{where}: the stream {stream!r} has no images. Give {needed}."


def _target_faults(
    stage: TrainStage, earlier: tuple[LabelStage | TrainStage | None, ...], where: str
) -> Iterator[str]:
    if None in earlier:
        return
    labeled = {before.images for before in earlier if isinstance(before, LabelStage)}
    for stream, kind in stage.targets.items():
        if kind == "pseudo" and labeled.isdisjoint(LABELED_BY[stream]):
            yield (
                f"{where}.targets.{stream}: pseudo targets need an earlier label stage with "
                f"images: {' or '.join(LABELED_BY[stream])}."
            )


_FIRST_IS_COPIED = (
    " In a stage without losses the first of `teachers` is copied: put the one that you mean there."
)


def _init_faults(sections: Sections, index: int) -> Iterator[str]:
    stages = sections.stages or ()
    stage = stages[index]
    if not isinstance(stage, TrainStage) or "init" not in stage.model_fields_set:
        return
    is_first = not any(
        before is None or isinstance(before, TrainStage) for before in stages[:index]
    )
    if stage.init == "previous" and is_first:
        yield (
            f"stages[{index}].init: found 'previous', but no train stage is before this one. "
            "Accepted: pretrained, teacher, or a path."
        )
    if stage.init == "teacher" and sections.teachers == ():
        yield f"stages[{index}].init: found 'teacher', but there are no teachers."
    if stage.init == "teacher" and _is_black_box(sections, stage.teacher):
        others = range(len(sections.teachers or ()))
        has_other = not stage.distill and not all(_is_black_box(sections, i) for i in others)
        yield (
            f"stages[{index}].init: found 'teacher', but of the teacher nothing is known but its "
            "boxes: it has no weights to start from. Accepted: pretrained, previous, or a path."
            + (_FIRST_IS_COPIED if has_other else "")
        )


def missing_files(recipe: Recipe | Sections) -> list[str]:
    """Return one message for each file or folder of a recipe that is not there.

    Args:
        recipe: A recipe, or what can be read of one.
    """
    sections = sections_of(recipe) if isinstance(recipe, Recipe) else recipe
    faults = []
    for where, path, kind in _named_paths(sections):
        if _exists(path, kind):
            continue
        if _exists(path, "file or folder"):
            advice = DECLARED_SUFFIXES.get(path.suffix.lower()) if kind == _BUNDLE else None
            faults.append(
                f"{where}: {str(path)!r} is no {kind}. "
                + (f"To teach with it, {advice}" if advice else f"Give the path of a {kind}.")
            )
        else:
            faults.append(f"{where}: there is no {kind} {str(path)!r}.{_advice(where, path)}")
    return faults


def _named_paths(sections: Sections) -> Iterator[tuple[str, Path, str]]:
    """Yield recipe path, path, and what has to be there."""
    data = sections.data
    if data is not None:
        sources: dict[str, Any] = {"data.labeled": data.labeled, "data.validation": data.validation}
        sources |= {f"data.unlabeled[{i}]": source for i, source in enumerate(data.unlabeled)}
        for where, source in sources.items():
            if isinstance(source, SourceConfig):
                yield from _source_paths(where, source)
    for index, teacher in enumerate(sections.teachers or ()):
        yield from _teacher_paths(f"teachers[{index}]", teacher)
    if sections.student is not None and isinstance(sections.student.pretrained, Path):
        yield "student.pretrained", sections.student.pretrained, "file"
    for index, stage in enumerate(sections.stages or ()):
        if isinstance(stage, TrainStage) and isinstance(stage.init, Path):
            yield f"stages[{index}].init", stage.init, "file or folder"


def _teacher_paths(where: str, teacher: AnyTeacherConfig) -> Iterator[tuple[str, Path, str]]:
    if isinstance(teacher, BundleTeacherConfig):
        is_stock = teacher.detector.suffix.lower() in STOCK_SUFFIXES
        kind = "file" if is_stock else _BUNDLE
        yield f"{where}.detector", teacher.detector, kind
        return
    is_onnx = isinstance(teacher, OnnxTeacherConfig)
    for key in ("weights", "classes") if is_onnx else ("file", "images"):
        path = getattr(teacher, key)
        if isinstance(path, Path):
            yield f"{where}.{key}", path, "file"


def _source_paths(where: str, source: SourceConfig) -> Iterator[tuple[str, Path, str]]:
    yield f"{where}.images", source.images, "folder"
    if source.annotations is not None:
        yield f"{where}.annotations", source.annotations, ANNOTATIONS_BY_FORMAT[source.format]
    if source.list is not None:
        yield f"{where}.list", source.list, "file"


def _exists(path: Path, kind: str) -> bool:
    test = {"folder": Path.is_dir, _BUNDLE: Path.is_dir, "file": Path.is_file}.get(
        kind, Path.exists
    )
    try:
        return test(path)
    except OSError:  # a name that is too long, or a folder that may not be entered
        return False


def _advice(where: str, path: Path) -> str:
    """Return what may have been meant: one of the words of `init`, or a path from elsewhere."""
    if where.endswith(".init"):
        return f" Give a path, or a word. {nearest_names(path.name, INIT_WORDS)}"
    return " Relative paths start at the folder of the recipe."
