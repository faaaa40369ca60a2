"""The figures of a benchmark as a picture: throughput and latency by requests at once, and one against the other.

What is drawn is told once (`Panel`); SVG and HTML are written here, PNG by matplotlib (extra `bench`).
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Sequence

import msgspec

from inference_engine.adapters.cli.bench.figures import Level
from inference_engine.adapters.cli.bench.report import Outcome, sentence, table

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 22, 52, 46
_HEAD, _FOOT = 50, 30


class Series(msgspec.Struct, frozen=True):
    """One line: its points, and a word at each of them, which may be empty."""

    name: str
    points: tuple[tuple[float, float], ...]
    words: tuple[str, ...] = ()
    colour: int = 0
    dashed: bool = False

    @property
    def paint(self) -> str:
        return COLOURS[self.colour % len(COLOURS)]


class Panel(msgspec.Struct, frozen=True):
    """One diagram. `x_values` are the ticks of a logarithmic x axis; without them it is linear and begins at 0."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_values: tuple[float, ...] = ()


def drawn(outcome: Outcome, ending: str) -> bytes:
    """The picture as a file of this kind: `.svg`, `.html` or `.png`."""
    panels = panels_of(outcome)
    if ending == ".png":
        return _png(outcome, panels)
    picture = svg(outcome, panels)
    return (picture if ending == ".svg" else _page(outcome, picture)).encode()


def panels_of(outcome: Outcome) -> list[Panel]:
    """Throughput, latency, and the one against the other."""
    levels = [level for level in outcome.levels if level.requests]
    chat = any(level.tokens_per_s is not None for level in levels)
    by_rows = {
        rows: [level for level in levels if level.rows == rows]
        for rows in dict.fromkeys(level.rows for level in levels)
    }
    several = len(by_rows) > 1
    ticks = tuple(sorted({float(level.concurrency) for level in levels}))

    def lines(value: Callable[[Level], float | None], name: str, tone: int = 0) -> list[Series]:
        """A line for each number of rows. With several, colours tell the rows apart, and dashes p99 from p50."""
        return [
            Series(
                ", ".join(part for part in (name, _rows(rows) if several else "") if part),
                tuple((level.concurrency, found) for level in group if (found := value(level)) is not None),
                colour=place if several else tone,
                dashed=several and name == "p99",
            )
            for place, (rows, group) in enumerate(by_rows.items())
        ]

    if chat:
        latency = lines(lambda one: one.first_token_p50_ms, "p50") + lines(lambda one: one.first_token_p99_ms, "p99", 1)
        what = "time to first token (ms)"
    else:
        latency = lines(lambda one: one.p50_ms, "p50")
        latency += [] if several else lines(lambda one: one.p90_ms, "p90", 3)
        latency += lines(lambda one: one.p99_ms, "p99", 1)
        what = "latency (ms)"
    trade = tuple(
        Series(
            _rows(rows) if several else "p99",
            tuple((level.throughput, level.tail_ms) for level in group if level.tail_ms is not None),
            tuple(str(level.concurrency) for level in group if level.tail_ms is not None),
            place if several else 1,
        )
        for place, (rows, group) in enumerate(by_rows.items())
    )
    unit, at_once = outcome.unit, "requests at once"
    tail = f"p99 of {what}" if chat else f"p99 {what}"
    return [
        Panel("Throughput", at_once, f"throughput ({unit})", tuple(lines(lambda one: one.throughput, "")), ticks),
        Panel(what.partition(" (")[0].capitalize(), at_once, what, tuple(latency), ticks),
        Panel("p99 by throughput", f"throughput ({unit}); numbers: {at_once}", tail, trade),
    ]


def _rows(rows: int) -> str:
    return f"{rows} row" if rows == 1 else f"{rows} rows"


# -- scales --------------------------------------------------------------------------------------------------------


def nice_ticks(top: float) -> list[float]:
    """Four to eight round values from 0 to at least `top`."""
    if not top > 0:
        return [0.0, 1.0]
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [round(index * step, 12) for index in range(math.ceil(top / step - 1e-9) + 1)]


def _tick(value: float) -> str:
    return f"{value:,.10g}"


class _Frame:
    """Where values of a panel lie, in pixels of the picture."""

    def __init__(self, panel: Panel, left: float, top: float) -> None:
        points = [point for series in panel.series for point in series.points]
        self.left, self.top = left + _LEFT, top + _TOP
        self.right, self.bottom = left + _WIDTH - _RIGHT, top + _HEIGHT - _BOTTOM
        self.y_ticks = nice_ticks(max((y for _, y in points), default=0.0))
        self.x_ticks = list(panel.x_values) or nice_ticks(max((x for x, _ in points), default=0.0))
        self._log = bool(panel.x_values)

    def x(self, value: float) -> float:
        low, high = self._place(self.x_ticks[0]), self._place(self.x_ticks[-1])
        share = (self._place(value) - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - value / self.y_ticks[-1] * (self.bottom - self.top)

    def _place(self, value: float) -> float:
        return math.log2(value) if self._log else value


# -- SVG and HTML --------------------------------------------------------------------------------------------------


def svg(outcome: Outcome, panels: Sequence[Panel]) -> str:
    """The panels beside each other, with a head and a line that says what is recommended."""
    width, height = _WIDTH * len(panels), _HEAD + _HEIGHT + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#334155">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(16, 26, outcome.model, size=17, weight=600, fill="#0f172a"),
        _text(16, 44, outcome.where),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, index * _WIDTH, _HEAD)
    parts.append(_text(16, height - 10, sentence(outcome), size=12, fill="#0f172a"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    frame = _Frame(panel, left, top)
    parts = [_text(frame.left, top + 18, panel.title, size=13, weight=600, fill="#0f172a")]
    for value in frame.y_ticks:
        y = frame.y(value)
        parts.append(f'<path d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}" stroke="#e2e8f0"/>')
        parts.append(_text(frame.left - 6, y + 4, _tick(value), anchor="end"))
    ticks = frame.x_ticks if panel.x_values or len(frame.x_ticks) < 6 else frame.x_ticks[::2]
    parts += [_text(frame.x(value), frame.bottom + 16, _tick(value), anchor="middle") for value in ticks]
    parts.append(f'<path d="M{frame.left:.1f} {frame.bottom:.1f}H{frame.right:.1f}" stroke="#94a3b8"/>')
    middle_x, middle_y = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    parts.append(_text(middle_x, frame.bottom + 34, panel.x_label, anchor="middle"))
    turned = f' transform="rotate(-90 {left + 14} {middle_y})"'
    parts.append(_text(left + 14, middle_y, panel.y_label, anchor="middle", more=turned))
    for series in panel.series:
        parts += _line(series, frame)
    return parts + _legend(panel, frame, top)


def _line(series: Series, frame: _Frame) -> list[str]:
    colour, dash = series.paint, ' stroke-dasharray="5 3"' if series.dashed else ""
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    for (x, y), word in zip(places, series.words, strict=False):
        near_edge = x > frame.right - 20
        parts.append(
            _text(x - 6 if near_edge else x + 6, y - 6, word, anchor="end" if near_edge else "start", fill=colour)
        )
    return parts


def _legend(panel: Panel, frame: _Frame, top: float) -> list[str]:
    if len(panel.series) < 2:
        return []
    parts, x = [], frame.left
    for series in panel.series:
        dash = ' stroke-dasharray="5 3"' if series.dashed else ""
        parts.append(f'<path d="M{x:.1f} {top + 30}h14" stroke="{series.paint}" stroke-width="3"{dash}/>')
        parts.append(_text(x + 18, top + 34, series.name))
        x += 30 + 5.6 * len(series.name)
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    fill: str = "",
    more: str = "",
) -> str:
    look = (f' font-size="{size}"' if size != 11 else "") + (f' font-weight="{weight}"' if weight != 400 else "")
    look += (f' text-anchor="{anchor}"' if anchor != "start" else "") + (f' fill="{fill}"' if fill else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{look}{more}>{html.escape(text)}</text>'


_STYLE = """body{font:14px system-ui,sans-serif;margin:2rem;color:#0f172a}svg{max-width:100%;height:auto}
table{border-collapse:collapse;margin-top:1rem}
th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #e2e8f0}
th{font-size:12px}"""


def _page(outcome: Outcome, picture: str) -> str:
    head, rows = table(outcome.levels)
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    notes = "".join(f"<p>{html.escape(line)}</p>\n" for line in outcome.advice)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(outcome.model)}</title>\n'
        f"<style>{_STYLE}</style>\n{picture}<table><tr>{cells}</tr>\n{lines}</table>\n{notes}</html>\n"
    )


# -- PNG -----------------------------------------------------------------------------------------------------------


def _png(outcome: Outcome, panels: Sequence[Panel]) -> bytes:
    from matplotlib.figure import Figure  # not pyplot: no display, no state

    figure = Figure(figsize=(_WIDTH * len(panels) / 80, (_HEAD + _HEIGHT + _FOOT) / 80), dpi=160, layout="constrained")
    figure.suptitle(f"{outcome.model}  |  {outcome.where}", fontsize=11)
    figure.supxlabel(sentence(outcome), fontsize=9)
    for panel, place in zip(panels, figure.subplots(1, len(panels)), strict=True):
        place.set_title(panel.title, fontsize=10)
        place.set_xlabel(panel.x_label)
        place.set_ylabel(panel.y_label)
        place.grid(color="#e2e8f0")
        for series in panel.series:
            colour, style = series.paint, "--" if series.dashed else "-"
            xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
            place.plot(xs, ys, style, marker="o", markersize=4, color=colour, label=series.name)
            for x, y, word in zip(xs, ys, series.words, strict=False):
                place.annotate(word, (x, y), (4, 4), textcoords="offset points", color=colour, fontsize=8)
        if panel.x_values:
            place.set_xscale("log", base=2)
            place.set_xticks(panel.x_values, [_tick(value) for value in panel.x_values])
            place.minorticks_off()
        else:
            place.set_xlim(left=0)
            place.xaxis.set_major_formatter(lambda value, _: _tick(value))
        place.yaxis.set_major_formatter(lambda value, _: _tick(value))
        place.set_ylim(bottom=0)
        if len(panel.series) > 1:
            place.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
