"""A launch goes on with the seeds that its first ones ask for."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.sweeps import logged, sweep, write_config


def test_a_launch_runs_the_seeds_that_its_first_ones_ask_for(tmp_path: Path) -> None:
    config = write_config(tmp_path, [{**logged(epochs=1), "seeds": {"first": 2, "width": 1e-4, "most": 4}}])
    plan = json.loads(sweep("plan", config, "--json").stdout)
    assert (plan["to_run"], plan["may_come"]) == (2, 2)
    assert "up to 2 more trials" in sweep("plan", config).stdout
    run = sweep("launch", config, "-y")
    assert run.returncode == 0, run.stdout + run.stderr
    plan = json.loads(sweep("plan", config, "--json").stdout)
    assert (plan["trials"], plan["done"], plan["may_come"]) == (4, 4, 0), "no spread is narrow enough with two seeds"
    report = sweep("report", config).stdout
    assert "over 4 seeds" in report and "Stein's interval" in report
