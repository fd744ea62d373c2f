"""The tables and the figure of a kept result; nothing in them is typed by hand."""

from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 300, 50, 30, 60
COLOURS = ("#1b6ca8", "#d1495b")


def tables(document: dict[str, Any]) -> list[str]:
    """Return the Markdown lines of a result.

    Args:
        document: As `benchmarks/reliability.py` keeps it.
    """
    lines = [
        f"{document['objects']} objects in {document['images']} images of {document['scenes']} "
        "scenes; mean reliability over the levels of the neck:",
        "",
    ]
    cases = document["cases"]
    ways = document["falls"]
    lines += _table(
        ["spoiled by", *cases],
        [
            [way, *(_share(by_case[case]["mean"]) for case in cases)]
            for way, by_case in ways.items()
        ],
    )
    lines += ["", "The same, where the object before is seen in a way that spoils nothing:", ""]
    lines += _table(
        ["before", "spoiled by", *cases],
        [
            [harmless, way, *(_share(by_case[case]["mean"]) for case in cases)]
            for harmless, by_way in document["falls_below"].items()
            for way, by_case in by_way.items()
        ],
    )
    lines += ["", "Mean reliability of all objects:", ""]
    clear = next(iter(ways.values()))
    lines += _table(
        ["spoiled by", *cases],
        [
            ["not", *(f"{clear[case]['mean']['clear']:.3f}" for case in cases)],
            *(
                [way, *(f"{by_case[case]['mean']['spoiled']:.3f}" for case in cases)]
                for way, by_case in ways.items()
            ),
        ],
    )
    lines += ["", "Each level by itself, in pairs that fall; in brackets the pairs that are equal:"]
    lines += [""]
    names = list(next(iter(clear.values())))
    lines += _table(
        ["loss", "spoiled by", *names],
        [
            [case, way, *(_alone(by_case[case][name]) for name in names)]
            for case in cases
            for way, by_case in ways.items()
            if way in document["shown_by_level"]
        ],
    )
    lines += ["", "Reliability of clear objects, and in brackets the share that is at 0:", ""]
    lines += _table(
        ["loss", "prototypes a level", *names],
        [
            [case, f"{cases[case]['prototypes']:.0f}"]
            + [
                f"{clear[case][n]['clear']:.3f} ({100 * clear[case][n]['lowest']:.0f} %)"
                for n in names
            ]
            for case in cases
        ],
    )
    return lines


def figure(document: dict[str, Any]) -> str:
    """Return an SVG: for each spoiling the share of pairs that fall, with its interval."""
    ways, cases = list(document["falls"]), list(document["cases"])[: len(COLOURS)]
    step = (WIDTH - LEFT) / len(ways)
    goal = document["goal"]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 14, "pairs in which reliability falls (95 % interval); dashed: the goal"),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line((LEFT, _y(share)), (WIDTH, _y(share)), 'stroke="#dddddd"'))
        parts.append(_text(8, _y(share) + 4, f"{100 * share:.0f} %"))
    dashed = 'stroke="#444444" stroke-dasharray="5 4"'
    parts.append(_line((LEFT, _y(goal)), (WIDTH, _y(goal)), dashed))
    for column, way in enumerate(ways):
        middle = LEFT + (column + 0.5) * step
        parts.append(_text(middle, HEIGHT - BOTTOM + 16, way, ' text-anchor="middle"'))
        for place, (case, colour) in enumerate(zip(cases, COLOURS, strict=True)):
            one, x = document["falls"][way][case]["mean"], middle + 12 * (place - 0.5)
            parts.append(_line((x, _y(one["low"])), (x, _y(one["high"])), f'stroke="{colour}"'))
            parts.append(
                f'<circle cx="{x:.1f}" cy="{_y(one["falls"]):.1f}" r="4" fill="{colour}"/>'
            )
    for place, (case, colour) in enumerate(zip(cases, COLOURS, strict=True)):
        x = LEFT + 140 * place
        parts.append(_dot(x + 6, HEIGHT - 18, colour))
        parts.append(_text(x + 16, HEIGHT - 14, case))
    return "\n".join([*parts, "</svg>", ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|"] + [
        f"| {' | '.join(row)} |" for row in rows
    ]


def _share(one: dict[str, float]) -> str:
    return f"{100 * one['falls']:.0f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})"


def _alone(one: dict[str, float]) -> str:
    return f"{100 * one['falls']:.0f} % ({100 * one['equal']:.0f} %)"


def _clear(one: dict[str, float]) -> str:
    return f"{one['clear']:.3f} ({100 * one['lowest']:.0f} %)"


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _line(start: tuple[float, float], end: tuple[float, float], style: str) -> str:
    (x, y), (x_end, y_end) = start, end
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x_end:.1f}" y2="{y_end:.1f}" '
        f'stroke-width="1.5" {style}/>'
    )


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{words}</text>'
