"""The self-contained page report.html: verdict, tables, figures, every trial and provenance.

The page opens from disk and loads nothing.  All text from data is escaped by the template, or set as text by
the script.  The page's content security policy forbids every other script and every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from sweep.leaderboard.audit import audits
from sweep.leaderboard.board import Build, Leaderboard, builder
from sweep.leaderboard.entry import METRICS, NAME
from sweep.leaderboard.rows import Row
from sweep.leaderboard.runtime import Runtime
from sweep.report.figures.style import INK, Drawing
from sweep.report.files import companion
from sweep.report.html.verdict import Account, account, verdicts
from sweep.report.sheet import Sheet
from sweep.report.sheets import sheets

TRIALS = 20_000  # maximum number of trials in the page; results.parquet has all
FIGURE_BYTES = 12 * 2**20  # maximum bytes of SVG in the page; figures/ has all
CURVE_VALUES = 500_000  # maximum number of values of learning curves in the page; history.parquet has all
FILTERED = 8  # a table with this many lines gets a filter
SMALL = 3  # a grid's table with at most this many columns leaves room for a second one next to it
LABEL = "detector"  # first column heading of a table whose lines are named by detector
TRIAL_COLUMNS = (
    "study", "detector", "variant", "setting", "dataset", "protocol", "abnormal", "split_seed", "seed", "status",
    "epoch", "auroc", "ap", "fpr95", "train_seconds", "attempts", "device", "revision", "lam", "key",
)  # fmt: skip
_NUMBER = re.compile(r"[~±$\s]*([-+]?[\d,]+(?:\.\d+)?(?:e[-+]?\d+)?)(?:\s(?:[CG]PU )?(s|min|h)\b)?")
_SECONDS = {None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Shown:
    """One cell of a table.

    Attributes:
        text: displayed text.
        bold: True for the best of its column.
        value: sort key; None sorts last.
        line: number of the line whose trials the cell opens; None if it opens none.
        abnormal: abnormal class of those trials; None for all classes.
        hint: text on hover.
    """

    text: str
    bold: bool = False
    value: float | None = None
    line: int | None = None
    abnormal: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A sheet with what the page adds: sort keys, and the trials behind each number."""

    sheet: Sheet
    sections: tuple[tuple[str, tuple[tuple[str, tuple[Shown, ...]], ...]], ...]

    @property
    def has_filter(self) -> bool:
        """True if the table gets a filter by name."""
        return self.sheet.label == LABEL and sum(len(lines) for _, lines in self.sections) >= FILTERED

    @property
    def small(self) -> bool:
        """True if the table is narrow enough for another one next to it."""
        return self.sheet.label != LABEL and len(self.sheet.columns) <= SMALL


def render_page(
    rows: Sequence[Row],
    leaderboard: Leaderboard,
    drawings: Sequence[Drawing] = (),
    *,
    provenance: Mapping[str, object] | None = None,
    spec: Mapping[str, Any] | None = None,
    trial_command: str = "python -m sweep trial CONFIG",
    built: Build | None = None,
    timed: Sequence[Runtime] = (),
) -> str:
    """Render report.html as text.

    Args:
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        leaderboard: leaderboard of these rows; the page shows its selection, evaluation and metric.
        drawings: figures of `sweep.report.figures.draw`.
        provenance: result of `sweep.leaderboard.rows.provenance`.
        spec: resolved spec of the latest launch, shown in full.
        trial_command: command that shows a trial when the trial's key is appended.
        built: `sweep.leaderboard.board.builder` of these rows, if the caller has one already.
        timed: result of `sweep.leaderboard.runtime.runtimes`.
    """
    import jinja2
    from jinja2.utils import htmlsafe_json_dumps

    here = files("sweep.report.html")
    script, style = ((here / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    trials, lines = _trials(rows, leaderboard)
    trials["curves"] = _curves(drawings)
    inlined, left_out = _inline(drawings)
    totals = account(rows, leaderboard)
    return template.render(
        name=str((provenance or {}).get("sweep", "sweep")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        metric=METRICS[leaderboard.metric],
        leaderboard=leaderboard,
        verdicts=verdicts(leaderboard),
        account=totals,
        cost=_duration(totals),
        tables=list(_tables(rows, leaderboard, lines, built or builder(rows), timed)),
        timed=len(timed),
        untimed=sum(not runtime.times for runtime in timed),
        figures=inlined,
        left_out=left_out,
        data=htmlsafe_json_dumps(trials, allow_nan=False, separators=(",", ":")),
        trial_count=trials["planned"],
        trial_limit=TRIALS,
        provenance={name: str(value) for name, value in (provenance or {}).items()},
        fingerprints=_fingerprints(rows),
        spec="" if spec is None else json.dumps(spec, indent=2, ensure_ascii=False, default=str),
        trial_command=trial_command,
    )


# -- tables -----------------------------------------------------------------------------------------


def _tables(
    rows: Sequence[Row],
    leaderboard: Leaderboard,
    lines: Mapping[tuple[str, ...], int],
    built: Build,
    timed: Sequence[Runtime],
) -> Iterator[Table]:
    other = companion(built, leaderboard)
    for board in leaderboard.boards:
        of_board = {name[:4]: number for name, number in lines.items() if name[4:] == (board.dataset, board.protocol)}
        for sheet in sheets(replace(leaderboard, boards=(board,)), (), other):
            yield _table(sheet, of_board)
    for sheet in sheets(replace(leaderboard, boards=()), audits(rows, leaderboard.metric, built=built), timed=timed):
        yield _table(sheet, {})


def _table(sheet: Sheet, numbers: Mapping[tuple[str, ...], int]) -> Table:
    """Add to each cell its sort key, and the number of its line if the page holds that line's trials."""
    sections = []
    for heading, lines in sheet.sections:
        shown = []
        for label, entries in lines:
            cells = []
            for entry in entries:
                line = None if entry.line is None else numbers.get(entry.line)
                cells.append(Shown(entry.text, entry.bold, _value(entry.text), line, entry.abnormal, entry.hint))
            shown.append((label, tuple(cells)))
        sections.append((heading, tuple(shown)))
    return Table(sheet, tuple(sections))


def _value(text: str) -> float | None:
    """Return the number at the start of a cell's text, times in seconds; None if there is no number."""
    match = _NUMBER.match(text)
    return None if match is None else float(match.group(1).replace(",", "")) * _SECONDS[match.group(2)]


# -- trials -----------------------------------------------------------------------------------------


def _trials(rows: Sequence[Row], leaderboard: Leaderboard) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Encode the trials column by column, each distinct value once, and number the lines of the boards.

    Returns:
        {"columns": {name: {"values": [...], "codes": [...]}}, "line": [...], "settings": [{...}], "setting": [...],
        "planned": count}, and the number of each line by (study, detector, variant, setting, dataset, protocol).
    """
    chosen = [r for r in rows if (r["selection"], r["evaluation"]) == (leaderboard.selection, leaderboard.evaluation)]
    listed = chosen[:TRIALS]
    lines: dict[tuple[str, ...], int] = {}
    settings: dict[tuple[tuple[str, Any], ...], int] = {}
    of_line, of_setting = [], []
    for row in listed:
        name = (*(row[column] for column in NAME), row["dataset"], row["protocol"])
        of_line.append(lines.setdefault(name, len(lines)))
        values = tuple((k[3:], v) for k, v in row.items() if k.startswith("hp_") and v is not None)
        of_setting.append(settings.setdefault(values, len(settings)))
    return {
        "columns": {name: _encode([row.get(name) for row in listed]) for name in TRIAL_COLUMNS},
        "line": of_line,
        "settings": [dict(values) for values in settings],
        "setting": of_setting,
        "planned": len(chosen),
    }, lines


def _curves(drawings: Sequence[Drawing]) -> dict[str, Any]:
    """Return the learning curves of trials by key, up to `CURVE_VALUES` numbers."""
    found: dict[str, Any] = {}
    room = CURVE_VALUES
    for drawing in drawings:
        for key, curves in drawing.curves.items():
            room -= sum(len(values) for values in curves.values())
            if room >= 0:
                found[key] = curves
    return found


def _encode(values: Sequence[Any]) -> dict[str, list[Any]]:
    distinct = dict.fromkeys(_short(value) for value in values)
    codes = {value: number for number, value in enumerate(distinct)}
    return {"values": list(distinct), "codes": [codes[_short(value)] for value in values]}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


# -- figures ----------------------------------------------------------------------------------------


def _inline(drawings: Sequence[Drawing]) -> tuple[list[tuple[Drawing, Any]], list[Drawing]]:
    """Split the drawings: those within `FIGURE_BYTES`, each with its SVG as markup, and those left out."""
    from markupsafe import Markup

    room = FIGURE_BYTES
    shown, left_out = [], []
    for drawing in drawings:
        room -= len(drawing.svg)
        if room >= 0:
            shown.append((drawing, Markup(embeddable(drawing.svg.decode()))))  # noqa: S704  (made here, texts escaped)
        else:
            left_out.append(drawing)
    return shown, left_out


def embeddable(svg: str) -> str:
    """Turn an SVG file of matplotlib into an element of a page.

    Text takes the colour of the page, and only ids that are referred to stay, so that ids of two figures do not clash.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<title>.*?</title>", "", body, count=1, flags=re.DOTALL)
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: match.group(0) if match.group(1) in referred else "", body)
    body = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', _head, body, count=1, flags=re.DOTALL)
    return body.replace(INK, "currentColor")


def _head(match: re.Match[str]) -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{match.group(1)}" aria-hidden="true" focusable="false">'


# -- provenance -------------------------------------------------------------------------------------


def _fingerprints(rows: Sequence[Row]) -> list[tuple[str, str, int, str]]:
    """List (dataset and protocol, fingerprint of the images, number of distinct splits, versions), sorted."""
    by_data: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        if row["fingerprint"]:
            entry = by_data.setdefault((f"{row['dataset']} {row['protocol']}", row["fingerprint"]), {})
            entry.setdefault("split", set()).add(str(row["split_hash"]))
            made = [str(value) for value in (row["hardware"] or row["device"], row["numerics"]) if value]
            made += [f"{name} {row[name]}" for name in ("torch", "ray") if row[name]]
            made += [f"commit {row['commit'][:12]}{' with changes' if row['dirty'] else ''}"] if row["commit"] else []
            entry.setdefault("made", set()).add(", ".join(made))
    return [
        (data, print_, len(v["split"]), "; ".join(sorted(v["made"]))) for (data, print_), v in sorted(by_data.items())
    ]


def _duration(totals: Account) -> str:
    seconds = totals.train_seconds
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
