"""report.html: one page that needs nothing but itself.

Verdict, tables, figures, every trial, provenance.  Opens from disk; loads nothing.  All text from data is
escaped by the template, or set as text by the script; the page's own policy forbids any other script, and
any request.
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
from sweep.leaderboard.board import METRICS, NAME, Build, Leaderboard, builder
from sweep.leaderboard.rows import Row
from sweep.leaderboard.runtime import Runtime
from sweep.report.figures.style import INK, Drawing
from sweep.report.files import companion
from sweep.report.html.verdict import Account, account, verdicts
from sweep.report.sheet import Sheet
from sweep.report.sheets import sheets

TRIALS = 20_000  # that the page holds; results.parquet has all
FIGURE_BYTES = 12 * 2**20  # of SVG that the page holds; the files have all
FILTERED = 8  # lines from which a table has a filter
SMALL = 3  # columns up to which a grid's tables stand side by side
LABEL = "detector"  # of a table whose lines have names
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
        text: what stands there.
        bold: the best of its column.
        value: what it is sorted by; None sorts last.
        line, abnormal: what trials it stands for; None where it stands for none.
    """

    text: str
    bold: bool = False
    value: float | None = None
    line: int | None = None
    abnormal: str | None = None


@dataclass(frozen=True)
class Table:
    """A sheet with what a page adds: values to sort by, trials to look at."""

    sheet: Sheet
    sections: tuple[tuple[str, tuple[tuple[str, tuple[Shown, ...]], ...]], ...]

    @property
    def has_filter(self) -> bool:
        """Whether it has a filter of names."""
        return self.sheet.label == LABEL and sum(len(lines) for _, lines in self.sections) >= FILTERED

    @property
    def small(self) -> bool:
        """Whether it leaves room for another beside it."""
        return self.sheet.label != LABEL and len(self.sheet.columns) <= SMALL


def page(
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
    """The page as text.

    Args:
        rows: of `sweep.leaderboard.rows.gather`.
        leaderboard: of the rows; its selection, evaluation and metric are what the page shows.
        drawings: of `sweep.report.figures.draw`.
        provenance: what `sweep.leaderboard.rows.provenance` says.
        spec: resolved spec of the latest launch, shown whole.
        trial_command: shows a trial, its key following.
        built: of `sweep.leaderboard.board.builder` for the rows, where it was made already.
        timed: of `sweep.leaderboard.runtime.runtimes`.
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
    inlined, left_out = _inline(drawings)
    found = account(rows, leaderboard)
    return template.render(
        name=str((provenance or {}).get("sweep", "sweep")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        metric=METRICS[leaderboard.metric],
        leaderboard=leaderboard,
        verdicts=verdicts(leaderboard),
        account=found,
        cost=_duration(found),
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
    """With the number of each line whose trials the page holds."""
    sections = []
    for heading, lines in sheet.sections:
        shown = []
        for label, entries in lines:
            cells = []
            for entry in entries:
                line = None if entry.line is None else numbers.get(entry.line)
                cells.append(Shown(entry.text, entry.bold, _value(entry.text), line, entry.abnormal))
            shown.append((label, tuple(cells)))
        sections.append((heading, tuple(shown)))
    return Table(sheet, tuple(sections))


def _value(text: str) -> float | None:
    """The number that a cell begins with; a time in seconds."""
    found = _NUMBER.match(text)
    return None if found is None else float(found.group(1).replace(",", "")) * _SECONDS[found.group(2)]


# -- trials -----------------------------------------------------------------------------------------


def _trials(rows: Sequence[Row], leaderboard: Leaderboard) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Trials by column, each value stored once; and the number of each line.

    Returns:
        {"columns": {name: {"values": [...], "codes": [...]}}, "lines": [[...]], "line": [...], "settings":
        [{...}], "setting": [...], "planned": count}, and lines by (study, detector, variant, setting, dataset,
        protocol).
    """
    chosen = [r for r in rows if (r["selection"], r["evaluation"]) == (leaderboard.selection, leaderboard.evaluation)]
    kept = chosen[:TRIALS]
    lines: dict[tuple[str, ...], int] = {}
    settings: dict[tuple[tuple[str, Any], ...], int] = {}
    of_line, of_setting = [], []
    for row in kept:
        name = (*(row[column] for column in NAME), row["dataset"], row["protocol"])
        of_line.append(lines.setdefault(name, len(lines)))
        values = tuple((k[3:], v) for k, v in row.items() if k.startswith("hp_") and v is not None)
        of_setting.append(settings.setdefault(values, len(settings)))
    return {
        "columns": {name: _encode([row.get(name) for row in kept]) for name in TRIAL_COLUMNS},
        "line": of_line,
        "settings": [dict(values) for values in settings],
        "setting": of_setting,
        "planned": len(chosen),
    }, lines


def _encode(values: Sequence[Any]) -> dict[str, list[Any]]:
    distinct = dict.fromkeys(_short(value) for value in values)
    codes = {value: number for number, value in enumerate(distinct)}
    return {"values": list(distinct), "codes": [codes[_short(value)] for value in values]}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


# -- figures ----------------------------------------------------------------------------------------


def _inline(drawings: Sequence[Drawing]) -> tuple[list[tuple[Drawing, Any]], list[Drawing]]:
    """Drawings with their SVG as markup, up to `FIGURE_BYTES`; and those beyond."""
    from markupsafe import Markup

    room = FIGURE_BYTES
    shown, left_out = [], []
    for drawing in drawings:
        room -= len(drawing.svg)
        if room >= 0:
            shown.append((drawing, Markup(embeddable(drawing.svg.decode()))))  # noqa: S704  (ours, its texts escaped)
        else:
            left_out.append(drawing)
    return shown, left_out


def embeddable(svg: str) -> str:
    """An SVG file of matplotlib's as an element of a page: text in the page's colour, no ids but those referred to."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<title>.*?</title>", "", body, count=1, flags=re.DOTALL)
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in referred else "", body)
    body = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', _head, body, count=1, flags=re.DOTALL)
    return body.replace(INK, "currentColor")


def _head(found: re.Match[str]) -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{found.group(1)}" aria-hidden="true" focusable="false">'


# -- provenance -------------------------------------------------------------------------------------


def _fingerprints(rows: Sequence[Row]) -> list[tuple[str, str, int, str]]:
    """(dataset and protocol, fingerprint of the images, number of different splits, versions)."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        if row["fingerprint"]:
            place = found.setdefault((f"{row['dataset']} {row['protocol']}", row["fingerprint"]), {})
            place.setdefault("split", set()).add(str(row["split_hash"]))
            made = [str(found_on) for found_on in (row["hardware"] or row["device"], row["numerics"]) if found_on]
            made += [f"{name} {row[name]}" for name in ("torch", "ray") if row[name]]
            made += [f"commit {row['commit'][:12]}{' with changes' if row['dirty'] else ''}"] if row["commit"] else []
            place.setdefault("made", set()).add(", ".join(made))
    return [
        (where, print_, len(v["split"]), "; ".join(sorted(v["made"]))) for (where, print_), v in sorted(found.items())
    ]


def _duration(found: Account) -> str:
    seconds = found.train_seconds
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
