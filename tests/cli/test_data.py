"""Messages of `data` if the storage does not exist, denies access, or cannot be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.s3_servers import S3Server
from tests.support.sweeps import sweep, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, [{"detectors": ["constant"], "abnormal": [0]}])


@pytest.mark.parametrize("verb", [["put", "digits"], ["list"], ["verify"]])
def test_a_bucket_that_does_not_exist(verb: list[str], config: Path, moto: S3Server) -> None:
    run = sweep("data", *verb, config, "--set", "storage=s3://no-such-bucket/here", **moto.environment())
    assert (run.returncode, "Traceback" in run.stderr) == (1, False)
    assert "there is no bucket no-such-bucket; correct `storage`, or create the bucket: aws s3 mb" in run.stderr


def test_credentials_that_may_not(config: Path, seaweed: S3Server) -> None:
    wrong = {**seaweed.environment(), "AWS_SECRET_ACCESS_KEY": "wrong"}
    run = sweep("data", "put", "digits", config, "--set", f"storage=s3://{seaweed.bucket}/here", **wrong)
    assert (run.returncode, "Traceback" in run.stderr) == (1, False)
    assert "the server rejects these credentials (SignatureDoesNotMatch); set valid ones" in run.stderr


def test_an_endpoint_that_is_down(config: Path, moto: S3Server) -> None:
    down = {**moto.environment(), "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    short = ["--set", "budget.outage_seconds=0.5"]
    run = sweep("data", "put", "digits", config, "--set", "storage=s3://bucket/here", *short, **down)
    assert (run.returncode, "Traceback" in run.stderr) == (1, False)
    assert "check the network, AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL" in run.stderr


def test_what_is_put_to_s3_is_whole_there(config: Path, seaweed: S3Server) -> None:
    there = ["--set", f"storage=s3://{seaweed.bucket}/data", "--set", "sweep.name=t"]
    assert sweep("data", "put", "digits", config, *there, **seaweed.environment()).returncode == 0
    verified = sweep("data", "verify", config, *there, **seaweed.environment())
    assert verified.returncode == 0 and "digits s16-bilinear-1: ok" in verified.stdout
