"""Commands whose S3 server accepts connections and never answers: they say so in time, and end at their deadline."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.s3_proxy import faulty_proxy
from tests.support.s3_servers import S3Server
from tests.support.sweeps import ROOT, command, environment, write_config


def test_plan_and_report_say_that_the_server_is_silent_and_end(moto: S3Server, tmp_path: Path) -> None:
    config = write_config(
        tmp_path, [{"detectors": ["constant"], "abnormal": [0]}],
        storage=f"s3://{moto.bucket}/silent", budget={"outage_seconds": 11.5},
    )  # fmt: skip
    with faulty_proxy(moto) as (endpoint, faults):
        faults.outage = "silent"
        there = environment(**{**moto.environment(), "AWS_ENDPOINT_URL_S3": endpoint})
        runs = {
            verb: subprocess.Popen(
                command(verb, config, *more),
                cwd=ROOT,
                env=there,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for verb, *more in (["plan"], ["report", "-o", str(tmp_path / "report")])
        }
        printed = {verb: run.communicate(timeout=200) for verb, run in runs.items()}
    for _, errors in printed.values():
        assert (
            f"s3://{moto.bucket}/silent has not answered as it should for 10 s, trying again: no answer yet" in errors
        )
        assert "Traceback" not in errors
    assert "1 trials, done: unknown" in printed["plan"][0]
    assert "Read timeout on endpoint URL" in printed["report"][1]
    assert {verb: run.returncode for verb, run in runs.items()} == {"plan": 0, "report": 1}
