"""Figures, their medians and the table.

A figure that misses its target is printed as it is: only a lost message or a dead server makes a run fail.
"""

import statistics


class Figure:
    """One line of the table: the samples of ours and, if there is one, of the bare loop beside it."""

    def __init__(self, name, unit, samples, target=None, bare=None, most=None, least_ratio=None, note=""):
        self.name, self.unit, self.samples, self.bare, self.note = name, unit, list(samples), list(bare or []), note
        self.target = target  # at least
        self.most = most  # at most
        self.least_ratio = least_ratio  # to what is beside it; a figure has one of the three or none

    @property
    def median(self):
        return statistics.median(self.samples)

    @property
    def bare_median(self):
        return statistics.median(self.bare) if self.bare else None

    @property
    def ratio(self):
        """Ours by theirs; None without a bare figure."""
        return self.median / self.bare_median if self.bare and self.bare_median else None

    @property
    def reached(self):
        if self.target is not None:
            return self.median >= self.target
        if self.least_ratio is not None:
            return self.ratio >= self.least_ratio
        return None if self.most is None else self.median <= self.most

    def as_object(self):
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "samples": self.samples,
            "bare_median": self.bare_median,
            "bare_samples": self.bare,
            "ratio": self.ratio,
            "at_least": self.target,
            "at_most": self.most,
            "ratio_at_least": self.least_ratio,
            "reached": self.reached,
            "note": self.note,
        }


def number(value):
    """Readable at a glance: 1,234,567 and 12.3 and 0.123."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _goal(figure):
    if figure.target is not None:
        return f">= {number(figure.target)}"
    if figure.least_ratio is not None:
        return f"ratio {number(figure.least_ratio)}"
    return f"<= {number(figure.most)}" if figure.most is not None else "-"


def _row(figure):
    spread = f"{number(min(figure.samples))} .. {number(max(figure.samples))}" if len(figure.samples) > 1 else "-"
    ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else "-"
    verdict = {None: "", True: "yes", False: "no"}[figure.reached]
    return [
        figure.name,
        _goal(figure),
        number(figure.median),
        figure.unit,
        number(figure.bare_median),
        ratio,
        spread,
        verdict,
    ]


def table(figures):
    """Aligned: names to the left, numbers to the right."""
    head = ["what", "target", "median", "unit", "beside", "ratio", "lowest .. highest", "reached"]
    rows = [head] + [_row(figure) for figure in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left = {0, 3, 7}
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    notes = [f"  {figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join(lines + (["", "notes"] + notes if notes else []))
