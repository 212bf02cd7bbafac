"""The command line: instant help, clear problems, machine-readable output, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest

from sweep.cli import app
from tests.support.sweeps import ROOT, command, environment, plan_of, sweep, write_config

STUDY = {"detectors": ["constant"], "abnormal": [0]}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, [STUDY])


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "CONFIG"], ["status", "CONFIG"], ["report", "CONFIG"], ["schema"]]
)
def test_these_verbs_load_neither_torch_nor_ray_nor_optuna(words: list[str], config: Path) -> None:
    code = (
        "import sys; sys.argv = ['sweep', *sys.argv[1:]]\n"
        "from sweep.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = sorted({'torch', 'ray', 'optuna', 'sklearn', 'boto3'} & set(sys.modules))\n"
        "sys.stderr.write('loaded: ' + ' '.join(heavy))\n"
    )
    words = [str(config) if word == "CONFIG" else word for word in words]
    run = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr.splitlines()[-1] == "loaded: "


@pytest.mark.parametrize(
    "verb", ["launch", "plan", "check", "status", "down", "report", "verify", "score", "trial", "schema", "data"]
)
def test_every_verb_has_help_that_teaches(verb: str) -> None:
    run = sweep(verb, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"Usage: python -m sweep {verb}")
    assert len(run.stdout) > 200


def test_a_launch_without_anybody_to_ask_starts_nothing(config: Path) -> None:
    run = sweep("launch", config)
    assert run.returncode == 1
    assert "add -y" in run.stderr
    assert not (config.parent / "store/sweeps").exists()


def test_a_dry_run_shows_the_plan_and_starts_nothing(config: Path) -> None:
    run = sweep("launch", config, "--dry-run")
    assert run.returncode == 0
    assert "1 trials = 0 done + 1 to run" in run.stdout
    assert not (config.parent / "store/sweeps").exists()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["plan", "nowhere.yaml"], ["nowhere.yaml: no such file"]),
        (["plan", "."], [".: is a folder, not a YAML file"]),
        (["plan", "CONFIG", "--set", "sweep.detecters=all"], ["did you mean 'detectors'"]),
        (
            ["plan", "CONFIG", "--set", "cluster.cpus=9999"],
            ["cluster.cpus: 9999 requested, this process may use"],
        ),
        (["plan", "CONFIG", "--set", "trial.gpus=1", "--set", "cluster.gpus=0"], ["trial.gpus: no GPU"]),
        (["plan", "CONFIG", "--set", "storage=ftp://x"], ["cannot open 'ftp://x' as a store", "s3://BUCKET"]),
        (["trial", "CONFIG", "zzz"], ["no trial of this sweep has a key that begins with zzz"]),
        (["report", "CONFIG", "--metric", "auc"], ["unknown metric 'auc'", "auroc"]),
        (["report", "CONFIG", "--selection", "best"], ["unknown selection 'best'", "oracle"]),
        (["report", "CONFIG", "-o", "/dev/null/x"], ["cannot write /dev/null/x", "may write"]),
        (["report", "CONFIG", "--compare", "constant", "knn"], ["'knn' is on no board (there are: constant plain)"]),
        (["data", "put", "minst", "CONFIG"], ["did you mean 'mnist'"]),
        (["launch", "CONFIG", "--detach"], ["--detach: provider local runs in this process"]),
        (["data", "put", "mnist", "CONFIG", "--set", "data.root=/nonexistent/x"], ["data.root"]),
    ],
)
def test_a_problem_is_one_clear_message_and_exit_code_1(words: list[str], messages: list[str], config: Path) -> None:
    run = sweep(*[config if word == "CONFIG" else word for word in words])
    assert run.returncode == 1, run.stdout
    for message in messages:
        assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_a_missing_dataset_that_cannot_be_had_stops_the_launch_before_anything_runs(tmp_path: Path) -> None:
    config = write_config(tmp_path, [{**STUDY, "datasets": ["mnist"]}], data={"root": str(tmp_path / "no")})
    run = sweep("launch", config, "-y", HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert run.returncode == 1
    assert "data.root" in run.stderr
    assert "Traceback" not in run.stderr
    assert not list((tmp_path / "store").glob("sweeps/*/specs/*"))


def test_plan_speaks_json(config: Path) -> None:
    plan = plan_of(config)
    assert {name: plan[name] for name in ("trials", "done", "failed", "pruned", "to_run")} == {
        "trials": 1, "done": 0, "failed": 0, "pruned": 0, "to_run": 1
    }  # fmt: skip
    assert plan["detectors"] == ["constant"]
    assert [(study["study"], study["trials"], study["usd"]) for study in plan["studies"]] == [("s0", 1, None)]
    assert (plan["seeds"], plan["departures"]) == ([], [])


def test_report_of_an_empty_store_shows_holes(config: Path, tmp_path: Path) -> None:
    run = sweep("report", config, "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "constant" in run.stdout
    assert (tmp_path / "out/leaderboard.csv").exists()
    assert "test was never launched into" in run.stderr and "(there: none)" in run.stderr


def test_status_and_report_show_the_latest_launch_and_with_all_every_one(config: Path) -> None:
    launched(config)
    launched(config, "sweep.seeds=[7]", "sweep.abnormal=[0, 1]")

    def seen(*words: str) -> tuple[int, set[int]]:
        trials = json.loads(sweep("status", config, "--json", *words).stdout)["trials"]
        rows = json.loads(sweep("report", config, "--json", *words).stdout)
        return trials, {row["seed"] for row in rows}

    assert seen() == (2, {7})
    assert seen("--all") == (3, {0, 7})
    assert seen("--set", "sweep.seeds=[3]") == (1, {3})
    assert seen("--set", "sweep.name=test") == (2, {7}), "`sweep.name` selects a sweep, and changes nothing in it"


def test_down_has_nothing_to_remove_on_this_machine_and_status_has_no_head(config: Path) -> None:
    down = sweep("down", config)
    assert (down.returncode, down.stderr) == (0, "")
    assert "provider local makes no machines" in down.stdout
    assert json.loads(sweep("status", config, "--json").stdout)["head"] is None


def launched(config: Path, *assignments: str) -> None:
    """Record a launch, without running it."""
    from sweep.spec.load import load
    from sweep.store import open_store
    from sweep.store.ledger import Ledger
    from tests.support.sweeps import platform

    spec = load(config, assignments)
    record = {"sweep": spec.model_dump(mode="json"), "platform": asdict(platform(spec))}
    Ledger(open_store(spec.storage), spec.name).put_spec(record)


def test_datasets_are_put_verified_fixed_and_listed(config: Path) -> None:
    put = sweep("data", "put", "digits", config)
    assert put.returncode == 0, put.stderr
    assert "1,797 images" in put.stdout
    (shard,) = (config.parent / "store/datasets/digits").rglob("*.parquet")
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    verified = sweep("data", "verify", config)
    assert verified.returncode == 1
    assert shard.name in verified.stdout
    assert "--repair" in verified.stdout
    repaired = sweep("data", "verify", config, "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert shard.name in repaired.stdout and "ok" in repaired.stdout
    assert sweep("data", "verify", "digits", config).returncode == 0
    absent = sweep("data", "verify", "digits", "mnist", config)
    assert absent.returncode == 1 and "data put mnist" in absent.stderr
    found = {entry["name"]: entry for entry in json.loads(sweep("data", "list", config, "--json").stdout)}
    assert found["digits"]["images"] == 1797
    assert found["mnist"]["images"] is None


def test_a_trial_runs_in_this_process(config: Path) -> None:
    (key,) = _keys(config)
    run = sweep("trial", config, key, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["metrics"][0]["auroc"] == 0.5
    assert plan_of(config)["to_run"] == 0


def _keys(config: Path) -> list[str]:
    from sweep.plan.expand import expand
    from sweep.spec.load import load
    from tests.support.sweeps import platform

    spec = load(config)
    return [planned.key for planned in expand(spec, platform(spec)).fixed]


def test_a_reader_that_has_seen_enough_is_no_problem(config: Path) -> None:
    words = shlex.join(command("schema"))
    run = subprocess.run(
        ["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    assert run.stdout.startswith("storage")


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "a disk is full (writing /x/y)"), (errno.EIO, "defect")])
def test_a_full_disk_is_no_defect(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(prog_name: str) -> None:
        raise OSError(number, os.strerror(number), "/x/y")

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the file of a defect
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    assert said in " ".join(capsys.readouterr().err.split())
