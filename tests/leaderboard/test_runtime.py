"""Runtime studies: what they time and how often, with nothing else running.

They have their own table, and are on no board.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from data.storage import shards
from models.detector import Detector
from sweep.errors import UserError
from sweep.launch.one_trial import describe
from sweep.leaderboard.papers import printed_runtime
from sweep.leaderboard.runtime import Milliseconds, runtimes
from sweep.plan.cost import Cost
from sweep.plan.expand import Planned, Work, expand
from sweep.plan.status import read_status
from sweep.report.files import RUNTIME_COLUMNS, runtime_csv
from sweep.report.report import Report
from sweep.spec.load import resolve
from sweep.spec.named_studies import named_studies
from sweep.spec.schema import text
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Timing
from sweep.store import open_store
from sweep.store.ledger import Ledger
from sweep.trial import timing
from sweep.trial.options import Options
from sweep.trial.run import run_trial
from tests.plan.test_expand import CPU
from tests.support.sweeps import plan_of, platform, results_of, sweep, write_config

STUDY: dict[str, Any] = {"name": "t", "kind": "runtime", "datasets": ["mnist"], "detectors": ["ganomaly", "knn"]}
BOARD: dict[str, Any] = {**STUDY, "name": "board", "kind": "error_bars"}


def resolved(*studies: dict[str, Any], **top: Any) -> Sweep:
    return resolve({"storage": "./r", "sweep": {"studies": list(studies)}, **top})


def problems_of(*studies: dict[str, Any]) -> str:
    with pytest.raises(UserError) as raised:
        resolved(*studies)
    return "\n".join(raised.value.problems)


def work_of(**keys: Any) -> Work:
    return expand(resolved({**STUDY, **keys}), CPU)


def finished(running: Generator[Any, Any, Any]) -> Any:
    while True:
        try:
            next(running)
        except StopIteration as ended:
            return ended.value


# -- what is timed ----------------------------------------------------------------------------------


class Watched(Detector):
    """A detector that records how it is called."""

    def __init__(self) -> None:
        super().__init__(1, 16, None)
        self.batches: list[Tensor] = []
        self.calm: list[bool] = []

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        self.batches.append(batch)
        self.calm.append(not self.training and not torch.is_grad_enabled())
        return {"score": batch.mean((1, 2, 3))}


def images(number: int) -> Any:
    return np.arange(number, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(256, 1).reshape(number, 1, 16, 16)


def test_each_batch_size_is_timed_as_often_as_asked_after_the_warm_up_in_evaluation_mode() -> None:
    detector, ticks = Watched().train(), count()
    asked = Timing(batch_sizes=(1, 4), warmup=2, repetitions=5)
    running = timing.time_scoring(detector, images(8), asked, torch.device("cpu"), lambda: float(next(ticks)))
    found = finished(running)
    assert found == [{"batch_size": size, "seconds": [1.0] * 5} for size in (1, 4)]  # one tick between start and end
    assert [len(batch) for batch in detector.batches] == [1] * 7 + [4] * 7
    assert all(detector.calm)
    assert detector.training


def test_images_are_taken_in_turn_and_again_from_the_first() -> None:
    detector = Watched()
    finished(timing.time_scoring(detector, images(3), Timing((2,), 0, 3), torch.device("cpu")))
    shown = [((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist() for batch in detector.batches]
    assert shown == [[0, 1], [2, 0], [1, 2]]


def test_a_gpu_is_idle_before_the_clock_starts_and_has_finished_before_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    class Scored(Watched):
        def components(self, batch: Tensor) -> dict[str, Tensor]:
            events.append("score")
            return super().components(batch)

    def clock() -> float:
        events.append("clock")
        return 0.0

    monkeypatch.setattr(timing, "_finish", lambda _: events.append("finish"))
    finished(timing.time_scoring(Scored(), images(1), Timing((1,), 0, 1), torch.device("cpu"), clock))
    assert events == ["finish", "clock", "score", "finish", "clock"]


# -- what is planned --------------------------------------------------------------------------------


def test_each_detector_is_timed_once_untrained() -> None:
    fixed = work_of(variants=["default", "paper"], repetitions=25, seeds=5).fixed
    assert [(p.detector, p.variant) for p in fixed] == [
        ("ganomaly", "repo_head"), ("ganomaly", "paper"), ("knn", "plain")
    ]  # fmt: skip
    assert {p.spec.hyperparameters.get("epochs", 0) for p in fixed} == {0}
    assert {p.spec.timing for p in fixed} == {Timing(batch_sizes=(1, 64), warmup=3, repetitions=25)}
    assert {p.spec.evaluations for p in fixed} == {()}


def test_how_often_it_is_timed_is_part_of_the_key_and_of_the_cost() -> None:
    few, many = work_of(repetitions=10), work_of(repetitions=100)
    assert {p.key for p in few.fixed}.isdisjoint(p.key for p in many.fixed)
    cost = Cost(few.datasets)
    assert 5 * cost.seconds(few.fixed[0]) < cost.seconds(many.fixed[0])


def test_studies_of_other_kinds_are_refused_beside_it() -> None:
    problem = problems_of(STUDY, BOARD)
    assert "studies of kind runtime (t) need a sweep in which nothing else runs: move the others (board)" in problem
    assert resolved(STUDY, {**STUDY, "name": "u"}).exclusive
    assert not resolved(BOARD).exclusive


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluations", ["clean", "legacy_ordered"]),
        ("validation", {}),
        ("hyperparameters", {"all": {"epochs": 3}}),
        ("repetitions", 2),
        ("candidates", 5),
        ("axes", {"nz": [8]}),
    ],
)
def test_what_a_runtime_study_cannot_have_is_refused_by_name(key: str, value: Any) -> None:
    assert key in problems_of({**STUDY, key: value})


def test_other_kinds_have_no_repetitions() -> None:
    assert "repetitions: only a study of kind runtime has this key" in problems_of({**BOARD, "repetitions": 7})


def test_its_platform_has_one_slot_whatever_the_machine_has() -> None:
    assert platform(resolved(STUDY)).slots == 1


def test_the_named_study_is_listed_planned_and_explained(tmp_path: Path) -> None:
    assert "runtime" in named_studies()
    config = tmp_path / "config.yaml"
    config.write_text(f"storage: {tmp_path / 'store'}\nsweep: {{study: runtime}}\n")
    plan = plan_of(config)
    assert (plan["trials"], plan["to_run"], plan["slots"]) == (4, 4, 1)
    assert {line["study"] for line in plan["lines"]} == {"runtime"}
    shown = text()
    assert "runtime: milliseconds to score an image" in shown
    assert "  repetitions = 100: runtime: timed batches of each size" in shown


# -- what is stored ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    shards.put(open_store(str(folder)), "digits", size=16, root=None)
    return folder


@pytest.mark.parametrize("detector", ["ganomaly", "pca"])
def test_a_trial_stores_its_times_and_nothing_that_a_board_could_show(
    detector: str, prepared: Path, tmp_path: Path, one_thread: None
) -> None:
    small = {"width": 4, "nz": 8} if detector == "ganomaly" else {}
    (planned,) = work_of(datasets=["digits"], detectors=[detector], hyperparameters={detector: small}).fixed
    asked = Timing(batch_sizes=(1, 8), warmup=1, repetitions=4)
    spec = replace(planned.spec, preparation="s16-bilinear-1", timing=asked)
    store = open_store(str(prepared))
    result = finished(run_trial(spec, store, Options(tmp_path, lambda_default=planned.lam, checkpoint_seconds=1e-9)))
    assert [(t["batch_size"], len(t["seconds"])) for t in result["timings"]] == [(1, 4), (8, 4)]
    assert all(second > 0 for times in result["timings"] for second in times["seconds"])
    assert (result["status"], result["metrics"], result["validation"], result["epochs_trained"]) == ("ok", [], None, 0)
    assert result["hardware"]
    kept = {path.split("/")[2] for path in store.list(f"trials/{spec.key}")}
    assert kept == {"result.json"}  # no resume state either: writing it would disturb the times
    assert Ledger(store, "").result(spec.key) == result


def test_a_launch_times_one_detector_after_another_on_one_slot_and_reports_them(tmp_path: Path) -> None:
    study = {**STUDY, "datasets": ["digits"], "detectors": ["pixel_mean", "constant"], "repetitions": 3}
    config = write_config(tmp_path, [study])
    run = sweep("launch", config, "-y")
    assert run.returncode == 0, run.stderr
    assert "Runtime: milliseconds to score an image" in run.stdout
    assert "AUROC" not in run.stdout
    assert len(results_of(tmp_path)) == 2
    (launched,) = (tmp_path / "store/sweeps/test/specs").glob("*.json")
    assert json.loads(launched.read_text())["platform"]["slots"] == 1
    assert plan_of(config)["to_run"] == 0
    records = json.loads(sweep("report", config, "--json").stdout)
    assert [(r["kind"], r["detector"], set(r["times"])) for r in records] == [
        ("runtime", "pixel_mean", {"1", "64"}), ("runtime", "constant", {"1", "64"})
    ]  # fmt: skip
    refused = sweep("report", config, "--bundle", tmp_path / "x.zip")
    assert refused.returncode == 1
    assert "a runtime study has none; use -o FOLDER" in refused.stderr


# -- what is shown ----------------------------------------------------------------------------------


def result_of(planned: Planned, **more: Any) -> dict[str, Any]:
    """Return a result with 1, 2, ..., 5 ms per image, in batches of either size."""
    times = [{"batch_size": b, "seconds": [b * n / 1000 for n in range(1, 6)]} for b in (1, 64)]
    return {
        "key": planned.key, "spec": planned.spec.to_dict(), "status": "ok", "cause": None, "seconds": 1.0,
        "metrics": [], "validation": None, "lam": planned.lam, "timings": times, "hardware": "A Machine",
        "torch": "2.14.0", **more,
    }  # fmt: skip


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[Report]:
    """Return the report of three detectors, two of which have been timed."""
    work = work_of(detectors=["ganomaly", "knn", "egbad"])
    ledger = Ledger(open_store(str(tmp_path / "store")), "test")
    for planned in work.fixed:
        if planned.detector != "egbad":
            ledger.put_result(planned.key, result_of(planned))
    yield Report(read_status(work, ledger), ledger)


def test_the_table_has_times_the_papers_value_the_hardware_and_why_they_differ(timed: Report) -> None:
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    timed.show(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in shown.splitlines() if line.startswith("ganomaly"))
    assert line.split("  ")[-1].strip() == "2.79"
    assert line.count("3.00 (2.00 to 4.00)") == 2  # milliseconds per image, not per batch
    assert next(line for line in shown.splitlines() if line.startswith("egbad")).split()[-3:] == ["-", "-", "8.92"]
    for part in (
        "mnist, 32 x 32, A Machine", "over 5 batches", "GANomaly 2018, Table 4, not the same experiment",
        "the paper used an NVIDIA GTX Titan X with PyTorch 0.3.0, we used A Machine with torch 2.14.0",
        "- no result yet",
    ):  # fmt: skip
        assert part in shown


def test_runtimes_are_on_no_board(timed: Report) -> None:
    assert timed.rows == []
    assert len(timed.records()) == 3


def test_the_story_of_a_trial_tells_its_times(tmp_path: Path) -> None:
    (planned, *_) = work_of().fixed
    ledger = Ledger(open_store(str(tmp_path)), "test")
    ledger.put_result(planned.key, result_of(planned, train_seconds=0.0))
    assert "batches of 64: 3 ms an image, median of 5" in describe(ledger, planned)


def test_a_failed_trial_is_shown_as_failed() -> None:
    (planned, *_) = work_of().fixed
    (found, *_) = runtimes([planned], {}, {planned.key: [{"status": "failed"}]}, set())
    assert (found.status, dict(found.times)) == ("failed", {})


def test_every_file_of_a_report_has_the_runtimes(timed: Report, tmp_path: Path) -> None:
    written = {path.name: path for path in timed.write(tmp_path / "out", "report", "trial")}
    for name in ("leaderboard.md", "leaderboard.tex", "report.html"):
        shown = written[name].read_text()
        assert "Runtime: milliseconds to score an image" in shown
        assert "Nothing is planned" not in shown
    assert "2 of 3 timed" in written["report.html"].read_text()
    lines = list(csv.DictReader(written["runtime.csv"].read_text().splitlines()))
    assert tuple(lines[0]) == RUNTIME_COLUMNS
    assert [(line["detector"], line["batch_size"], line["status"]) for line in lines] == [
        ("ganomaly", "1", "ok"), ("ganomaly", "64", "ok"), ("knn", "1", "ok"), ("knn", "64", "ok"),
        ("egbad", "", "missing"),
    ]  # fmt: skip
    assert {(line["milliseconds"], line["low"], line["high"], line["n"]) for line in lines[:4]} == {
        ("3.0", "2.0", "4.0", "5")
    }


def test_a_name_that_is_a_formula_is_harmless_in_the_csv(timed: Report) -> None:
    (line,) = csv.DictReader(runtime_csv([replace(timed.timed[2], hardware="=1+1")]).splitlines())
    assert line["hardware"] == "'=1+1"


def test_a_median_is_of_batches_as_they_were_timed() -> None:
    (planned, *_) = work_of().fixed
    times = [{"batch_size": 2, "seconds": [0.004, 0.1, 0.002, 0.006, 0.008]}]
    (found,) = runtimes([planned], {planned.key: result_of(planned, timings=times)}, {}, {planned.key})
    assert asdict(found.times[2]) == pytest.approx(asdict(Milliseconds(median=3.0, low=2.0, high=4.0, n=5)))


def test_the_papers_values_are_those_of_their_table() -> None:
    assert printed_runtime("anogan", "uba") == (7110.0, "ganomaly_paper_tab4")
    assert printed_runtime("skip_ganomaly", "mnist") is None
