"""Whether something that was measured again and again stays flat: the judge of a soak, and its picture.

In: what a process holds, the judgement by slope, a table, a drawing. Out: what is run (`test_soak`).

The slope is the median of the slopes between samples half the time apart (after Theil and Sen): one
outlier, or somebody who comes and goes, does not tilt it, and a slow leak does.
"""

import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import median

WARM_UP = 0.25
"""The share of the time in which caches fill and arenas grow; it is not judged."""
LEAST_SAMPLES = 8
_PAPER, _INK, _FAINT, _RULE, _GOOD, _BAD = (
    "#fbfaf7", "#22252a", "#80858d", "#e3e0d8", "#2f6f9f", "#b3452c",
)  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """How much a quantity may grow in all of the judged time."""

    unit: str
    growth: float
    share: float = 0.0
    """Of its median, where that is more."""


LIMITS = {
    # Anonymous memory: pages of mapped files are counted when they are first touched.
    "memory": Limit("MB", 4.0, 0.04),
    "files": Limit("files", 1.5),
    "threads": Limit("threads", 1.5),
}


def held(pid):
    """What a process holds now, by the names of `LIMITS`."""
    status = Path(f"/proc/{pid}/status").read_text()

    def number(name):
        return int(status.partition(f"{name}:")[2].split()[0])

    return {
        "memory": number("RssAnon") / 1024,
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": number("Threads"),
    }


@dataclass
class Course:
    """One quantity of one process over time."""

    of: str
    limit: Limit
    samples: list[tuple[float, float]] = field(default_factory=list)

    @property
    def judged(self):
        end_s = self.samples[-1][0]
        return [(at_s, value) for at_s, value in self.samples if at_s >= WARM_UP * end_s]

    @property
    def growth(self):
        """What the slope adds up to over the judged time."""
        judged = self.judged
        assert len(judged) >= LEAST_SAMPLES, f"{self.of}: too few samples to judge by"
        half = len(judged) // 2
        slopes = [
            (late - early) / (late_s - early_s)
            for (early_s, early), (late_s, late) in zip(judged, judged[half:], strict=False)
        ]
        return median(slopes) * (judged[-1][0] - judged[0][0])

    @property
    def allowed(self):
        return max(self.limit.growth, self.limit.share * median(v for _, v in self.judged))

    @property
    def flat(self):
        return self.growth <= self.allowed


def table(courses):
    """Write each course as a line."""
    lines = [f"{'':18}{'first':>9}{'least':>9}{'most':>9}{'last':>9}{'growth':>9}{'allowed':>9}"]
    for course in courses:
        values = [value for _, value in course.judged]
        figures = (values[0], min(values), max(values), values[-1], course.growth, course.allowed)
        row = "".join(f"{figure:9.1f}" for figure in figures)
        lines.append(f"{course.of:18}{row}  {'flat' if course.flat else 'GROWS'}")
    return "\n".join(lines)


def drawing(courses, title):
    """Draw the courses below each other on one time axis, as SVG; what is not judged is pale."""
    left, width, height, gap, top = 190, 760, 70, 26, 84
    end_s = max(course.samples[-1][0] for course in courses)
    bottom = top + len(courses) * (height + gap)
    full = left + width + 130
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {bottom + 44}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
        f'<text x="24" y="38" font-size="20" fill="{_INK}">{escape(title)}</text>'
        f'<text x="24" y="60" fill="{_FAINT}">growth by the median slope; the first '
        f"{WARM_UP:.0%} of the time is not judged</text>"
    ]
    for tick in range(7):
        x = left + tick * width / 6
        parts.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom - gap}" stroke="{_RULE}"/>'
            f'<text x="{x:.1f}" y="{bottom}" text-anchor="middle" fill="{_FAINT}">'
            f"{tick * end_s / 360:.1f} min</text>"
        )
    for row, course in enumerate(courses):
        y = top + row * (height + gap)
        values = [value for _, value in course.samples]
        # From zero to a little above: a leak shows as what it is, and noise does not look like one.
        most = 1.15 * max(values) or 1.0
        dots = [
            (at_s, f"{left + at_s / end_s * width:.1f},{y + height - value / most * height:.1f}")
            for at_s, value in course.samples
        ]
        colour = _GOOD if course.flat else _BAD
        judged = " ".join(dot for at_s, dot in dots if at_s >= WARM_UP * course.samples[-1][0])
        whole = " ".join(dot for _, dot in dots)
        verdict = f"{course.growth:+.1f} of {course.allowed:.1f} {course.limit.unit}"
        parts.append(
            f'<text x="24" y="{y + height / 2}" fill="{_INK}">{escape(course.of)}</text>'
            f'<text x="{left - 8}" y="{y + 10}" text-anchor="end" fill="{_FAINT}">{most:.0f}</text>'
            f'<line x1="{left}" y1="{y + height}" x2="{left + width}" y2="{y + height}" '
            f'stroke="{_FAINT}"/>'
            f'<polyline points="{whole}" fill="none" stroke="{_RULE}" stroke-width="2"/>'
            f'<polyline points="{judged}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{left + width + 8}" y="{y + height / 2}" fill="{colour}">{verdict}</text>'
        )
    return "".join([*parts, "</svg>"])
