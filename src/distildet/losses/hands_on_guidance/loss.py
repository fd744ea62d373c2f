"""Hands-on guidance: features of every level are paired, measured and weighed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from distildet.errors import MissingPartError
from distildet.losses.base import LOSSES, DistillationLoss, Needs, Observation, Preparation
from distildet.losses.hands_on_guidance.channel_scales import ChannelScales
from distildet.losses.hands_on_guidance.correspondence import affinities
from distildet.losses.hands_on_guidance.guided_level import GuidedLevel, GuidedValue
from distildet.losses.hands_on_guidance.levels import (
    PARTS_BY_GROUP,
    LevelGroup,
    learning_groups,
    level_groups,
    missing_groups,
    student_levels,
)
from distildet.losses.hands_on_guidance.macro_weights import HORIZON, MacroWeights
from distildet.losses.hands_on_guidance.observed_levels import mean_and_variance, observe_level
from distildet.losses.hands_on_guidance.options import (
    DEFAULT_GROUPS,
    Group,
    HandsOnGuidanceOptions,
    Measure,
    Pairing,
)
from distildet.losses.hands_on_guidance.regions import Regions
from distildet.losses.hands_on_guidance.running_mean import RunningMean
from distildet.ops.level_affinity import ordered_map
from distildet.specs import DetectorSpec, FeatureLevel
from distildet.structures import DetectorOutput, ImageBatch, Targets

_RELEASED = "released"
_FIGURES = ("difference", "weight", "foreground", "evenness", _RELEASED)


@LOSSES.register("hands-on-guidance")
class HandsOnGuidance(DistillationLoss):
    """Pushes the features of every level to equal those of the teacher's level alike.

    Backbone and neck are imitated together, and the towers of heads if asked for. Which level
    learns from which is found from what both say about images; channels are compared in units of
    the teacher's deviation, in size and in direction; cells count by the objects in them, by what
    the teacher looks at and by how hard they are, and levels the more, the more they lag behind.
    Towers of another depth or of few steps do not get near the teacher's, and it hurts to try.

    Formula:
        L = Σ_k π_k λ_k L_k / Σ_k π_k,   L_k = mean over images of Σ_p w_p e_p,   Σ_p w_p = 1
        e_p = max(0, d_p + direction * g_p - m)
        d_p = mean_c huber(v - t),   g_p = 1 - cos(v, t);   v = (a(S) - μ) / s,   t = (T - μ) / s
        (for the cosine both have a further channel of 0.01 √c: near 0 there is no direction)
        w_p ∝ (M_p + background * N_p) exp(attention * mean_c |t|) (1 + hardness * min(e / ē, 4))
        λ = K softmax(R / macro_temperature) within 0.2..3, of sum K;  R_k = L_k now / L_k at first
        k: the K levels of the student that are compared, each with one of the teacher in its group;
        p: the cells that show image, on the coarser grid of both; a: 1x1 projector; μ, s: mean and
        deviation of the teacher's channels; huber: x²/2 up to 1, then |x| - 1/2; M: 1 / area of the
        smallest box over a cell, N: equal over the rest, each of sum 1; on necks and heads a box is
        on the student's level that looks for objects nearest to it in size; ē: mean of e; m: 0, or
        what a share `release` of the cells lay below of late; π: weight of the group.

    Needs:
        some of features.backbone, features.neck, features.head on both sides, whatever their
        levels, channels and strides · class lists may differ · boxes of people or pseudo labels;
        their labels and weights, and the classes looked for, are not used

    Args:
        student: Facts of the student; its levels are read here.
        teacher: Facts of the teacher.
        groups: Of "backbone", "neck", "head"; None for the first two, as far as both have them, or
            those of the levels in `correspondence`.
        correspondence: "affinity": the levels most alike, in order; "order": first with first; or
            by hand, such as {"P3": "P4"}, of the student's levels that are to learn.
        stride_penalty: Of the affinity, for a stride that is twice as large or half, >= 0; None for
            0.5.
        images: That levels are compared on, and the teacher's statistics taken of.
        measure: "hands-on", e as above; or "squared": |a(S) - T|² / Σ_c s².
        direction: Factor of the direction, >= 0; None for 0.5.
        release: Share of the cells that are near enough, 0..1; 0 releases none.
        micro: Whether cells are weighed; otherwise all count the same.
        background: Factor of all outside of boxes, those inside count 1; >= 0, None for 0.5.
        attention: How much cells count that the teacher is active in, >= 0; None for 2.
        hardness: How much cells count that differ more than others, >= 0; None for 1.
        macro: Whether levels are weighed by their progress; otherwise λ = 1.
        macro_temperature: At least 0.001; the smaller, the more for the level that lags most. None
            for 1.
        backbone_weight: π of the backbone's levels, >= 0; 0 leaves them out, None for 0.5.
        neck_weight: π of the neck's levels; None for 1.
        head_weight: π of the levels of head towers; None for 1.

    Shape:
        per level student feature [b, c, h, w], teacher feature [b, d, i, j].

    Returns:
        "backbone", "neck", "head", those compared: unitless scalars >= 0, L in parts, unweighted,
        float32; 0 is equality. As figures of each level "difference" L_k, "weight" λ_k,
        "foreground" Σ w over cells in boxes, "evenness" 1 / (cells Σ w²), and "released" where
        `release` is not 0.

    Gradient:
        To student and projectors only; none through weights, margin or statistics.

    Raises:
        MissingPartError: No group is common, one in `groups` is not, or a level in `correspondence`
            is not there.
        ConfigError: An option has no meaning, or none for this pair.

    Source:
        After the abstract of "Hands-on Guidance for Distilling Object Detectors", arXiv 2103.14337,
        which is all that is known of the paper: its idea is kept, and all formulas are ours. Not a
        reproduction. The foreground is weighed as in Yang et al., "Focal and Global Knowledge
        Distillation for Detectors", CVPR 2022, arXiv 2111.11837.
        Checked against: values by hand and a loop over cells.
    """

    guides: Tensor
    counts_over_batch = False

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        groups: tuple[Group, ...] | None = None,
        correspondence: Pairing | Mapping[str, str] = "affinity",
        stride_penalty: float | None = None,
        images: int = 512,
        measure: Measure = "hands-on",
        direction: float | None = None,
        release: float = 0.0,
        micro: bool = True,
        background: float | None = None,
        attention: float | None = None,
        hardness: float | None = None,
        macro: bool = True,
        macro_temperature: float | None = None,
        backbone_weight: float | None = None,
        neck_weight: float | None = None,
        head_weight: float | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.options = HandsOnGuidanceOptions(
            groups=groups,
            correspondence=correspondence,
            stride_penalty=stride_penalty,
            images=images,
            measure=measure,
            direction=direction,
            release=release,
            micro=micro,
            background=background,
            attention=attention,
            hardness=hardness,
            macro=macro,
            macro_temperature=macro_temperature,
            backbone_weight=backbone_weight,
            neck_weight=neck_weight,
            head_weight=head_weight,
        )
        self.groups, self.remarks_on_pair = _groups_of(student, teacher, self.options)
        self.remarks = self.remarks_on_pair
        by_hand = correspondence if isinstance(correspondence, Mapping) else None
        if by_hand is not None:
            self.groups = learning_groups(self.groups, by_hand)
        self.options.refuse_idle(list(dict.fromkeys(one.group for one in self.groups)))
        self.levels = tuple(student_levels(self.groups, by_hand))
        self.is_zero_at_equality = by_hand is None or all(
            own == guide for own, guide in by_hand.items()
        )
        parts = frozenset(PARTS_BY_GROUP[self.groups[one.group].group] for one in self.levels)
        self.needs = Needs(student=parts, teacher=parts)
        self.preparation = Preparation(
            parts=parts,
            # Again once the student has seen its images: it begins with random necks and heads.
            every=1.0 if correspondence == "affinity" else None,
            times=2,
            images=images,
        )
        self.guided = nn.ModuleList(
            GuidedLevel(one.level.channels, self.groups[one.group], self.options)
            for one in self.levels
        )
        self.scales = nn.ModuleDict(
            {
                _key(level): ChannelScales(level.channels)
                for group in self.groups
                for level in group.guide
            }
        )
        temperature = self.options.value("macro_temperature")
        self.macro = MacroWeights(len(self.levels), temperature) if macro else None
        self.margins = RunningMean(len(self.levels), HORIZON) if release > 0 else None
        self.figures = frozenset(
            f"{one.level.name}.{figure}"
            for one in self.levels
            for figure in _FIGURES
            if figure != _RELEASED or self.margins is not None
        )
        self.register_buffer("guides", torch.tensor([one.guide for one in self.levels]))
        # As numbers: asking a GPU for them in each step would wait for the GPU.
        self._guides: list[int] | None = None
        self._told: dict[tuple[str, str], str] = {}
        self.register_load_state_dict_post_hook(_forget_guides)  # type: ignore[no-untyped-call] # torch has no type

    @classmethod
    def needs_of(cls, student: DetectorSpec, teacher: DetectorSpec) -> Needs:
        """Return the parts of both's backbone and neck; see `DistillationLoss.needs_of`."""
        found = level_groups(student, teacher, DEFAULT_GROUPS)
        parts = frozenset(PARTS_BY_GROUP[group.group] for group in found)
        return Needs(student=parts, teacher=parts)

    def observe(
        self,
        output: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],  # noqa: ARG002 - every cell counts, whatever is in it
    ) -> Observation:
        """Return of every level its values on a grid, and statistics of its channels."""
        names = {level.name for group in self.groups for level in (*group.own, *group.guide)}
        return {
            kind: one
            for name in sorted(names & output.features.keys())
            for kind, one in observe_level(name, output.features[name], batch).items()
        }

    def prepare(
        self, student: Sequence[Observation], teacher: Sequence[Observation]
    ) -> Mapping[str, Any]:
        """Take the teacher's statistics, and pair the levels; see `DistillationLoss.prepare`.

        Returns:
            "correspondence": by level of the student that of the teacher; "affinity": by level of
            the student that to each of its group; "left_out": by level of the teacher, how many
            channels hardly vary and are left out.
        """
        affinity = [
            affinities(group, student, teacher, stride_penalty=self.options.value("stride_penalty"))
            for group in self.groups
        ]
        left_out = {}
        for level in (level for group in self.groups for level in group.guide):
            scale = self._scale(level)
            scale.fill(*mean_and_variance(teacher, level.name))
            left_out[level.name] = level.channels - int(scale.num_channels)
        if self.options.correspondence == "affinity":
            maps = [ordered_map(one) for one in affinity]
            self._pair([maps[one.group][one.place] for one in self.levels])
        pairs = {
            one.level.name: guide.name
            for one, guide in zip(self.levels, self._guide_levels(), strict=True)
        }
        by_level = {
            own.name: {
                guide.name: round(value, 4) for guide, value in zip(group.guide, row, strict=True)
            }
            for group, rows in zip(self.groups, affinity, strict=True)
            for own, row in zip(group.own, rows.tolist(), strict=True)
        }
        self.remarks = (
            *self.remarks_on_pair,
            # Of a pair that stays, in the same words: the run tells each line once.
            *(
                self._told.setdefault(
                    pair, f"{pair[0]} learns from {pair[1]} of the teacher, affinity {value:.2f}"
                )
                for pair in pairs.items()
                for value in [by_level[pair[0]][pair[1]]]
            ),
        )
        return {"correspondence": pairs, "affinity": by_level, "left_out": left_out}

    def learn(self, values: Mapping[str, float], *, progress: float) -> None:
        """Let macro weights and margins follow the step; see `DistillationLoss.learn`."""
        names = [one.level.name for one in self.levels]
        if self.macro is not None:
            self.macro.learn([values[f"{name}.difference"] for name in names], progress)
        if self.margins is not None:
            self.margins.learn([values[f"{name}.{_RELEASED}"] for name in names], progress)

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return the groups' parts and the figures; see `DistillationLoss.forward`."""
        parts: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        whole = sum(self.options.weight(self.groups[one.group].group) for one in self.levels)
        regions = Regions(batch, targets, self.options.value("background"))
        if self.macro is not None:
            weights = self.macro.weights.clone()  # which change in place after the step
        else:
            device = student.features[self.levels[0].level.name].device
            weights = torch.ones(len(self.levels), device=device)
        for number, (one, guide) in enumerate(zip(self.levels, self._guide_levels(), strict=True)):
            group, name = self.groups[one.group], one.level.name
            found: GuidedValue = self.guided[number](
                student.features[name],
                teacher.features[guide.name].detach(),
                self._scale(guide),
                partial(regions.cells, place=one.place, sizes=group.sizes),
                None if self.margins is None else self.margins.value[number],
            )
            weighted = self.options.weight(group.group) / whole * weights[number] * found.value
            parts[group.group] = parts.get(group.group, 0) + weighted
            figures |= {
                f"{name}.difference": found.value.detach(),
                f"{name}.weight": weights[number],
                f"{name}.foreground": found.foreground,
                f"{name}.evenness": found.evenness,
            }
            if found.released is not None:
                figures[f"{name}.{_RELEASED}"] = found.released
        return parts | figures

    def _pair(self, guides: list[int]) -> None:
        """Let each level learn from that place of its group."""
        if self.guides.tolist() != guides:
            # What was learned of levels, was learned of others.
            for learned in (self.macro, self.margins):
                if learned is not None:
                    learned.restart()
        self.guides.copy_(torch.tensor(guides))
        self._guides = None

    def _scale(self, level: FeatureLevel) -> ChannelScales:
        """Return that of a level of the teacher."""
        return cast("ChannelScales", self.scales[_key(level)])

    def _guide_levels(self) -> list[FeatureLevel]:
        """Return for each level that learns the teacher's level that it learns from."""
        if self._guides is None:
            self._guides = self.guides.tolist()
        return [
            self.groups[one.group].guide[guide]
            for one, guide in zip(self.levels, self._guides, strict=True)
        ]


def _key(level: FeatureLevel) -> str:
    """Return the name of a level as a module may have it: without a dot."""
    return level.name.replace(".", "-")


def _forget_guides(loss: HandsOnGuidance, _: object) -> None:
    """Let a loss ask again which levels it has paired, after that was loaded."""
    loss._guides = None


def _groups_of(
    student: DetectorSpec, teacher: DetectorSpec, options: HandsOnGuidanceOptions
) -> tuple[list[LevelGroup], tuple[str, ...]]:
    """Return the groups to compare, and a line for each that the pair does not have.

    Raises:
        MissingPartError: None is left, or one that is asked for is missing.
    """
    asked = [group for group in options.asked if options.weight(group) > 0]
    found = level_groups(student, teacher, asked)
    missing = missing_groups(student, teacher, asked)
    if missing and (options.groups is not None or not found):
        both = [group for group in get_args(Group) if level_groups(student, teacher, [group])]
        raise MissingPartError(
            f"groups: {'; '.join(missing)}. Both have: {', '.join(both) or 'none'}. Take the "
            "others out, or choose another loss."
        )
    # Who pairs levels by hand names what is to be compared.
    by_hand = isinstance(options.correspondence, Mapping)
    return found, () if by_hand else tuple(missing)
