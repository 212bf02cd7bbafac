"""Secrets are hidden before a text is stored, printed or logged."""

from __future__ import annotations

import json

import pytest

from sweep.redaction import HIDDEN, SHORTEST, hide_secrets
from sweep.store import launch_status, open_store
from sweep.store.attempts import LOG_CHARACTERS, attempt_record, one_line
from sweep.store.launch_status import LaunchStatus

SECRET = "s3cr3t/+ \"v'alue"
NAMES = ["DB_PASSWORD", "WANDB_API_KEY", "HF_TOKEN", "CLIENT_SECRET", "GOOGLE_CREDENTIALS", "DB_PASS", "SENTRY_DSN"]
JOB = {"key": "k", "sweep": "s", "launch": 1}
PRIVATE = (
    f"-----BEGIN RSA {'PRIVATE'} KEY-----\n" + "\n".join(["QUJD" * 16] * 4) + f"\n-----END RSA {'PRIVATE'} KEY-----"
)
TOKENS = [
    "ghp_" + "a1" * 20,
    "xoxb-" + "1" * 24,
    "hf_" + "a" * 34,
    "AKIA" + "B" * 16,
    PRIVATE,
    "s3://user:pa55word@host",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("written", [SECRET, repr(SECRET), "s3cr3t%2F%2B%20%22v%27alue"])
def test_the_value_of_a_variable_that_is_named_like_a_secret_is_hidden(
    name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"cannot sign in with {written}: 403"
    assert hide_secrets(text) == text
    monkeypatch.setenv(name, SECRET)
    assert "alue" not in hide_secrets(text)
    assert hide_secrets(text).startswith("cannot sign in with ") and hide_secrets(text).endswith(": 403")


def test_each_line_of_a_long_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["first-line-of-a-secret", "second-line-of-a-secret"]
    monkeypatch.setenv("SOME_KEY", "\n".join(lines))
    assert hide_secrets(f"  | {lines[1]}\n  | {lines[0]}") == f"  | {HIDDEN}\n  | {HIDDEN}"


@pytest.mark.parametrize("token", TOKENS, ids=range(len(TOKENS)))
def test_what_looks_like_a_token_is_hidden(token: str) -> None:
    hidden = hide_secrets(f"before {token} after")
    assert hidden.startswith("before ") and hidden.endswith(" after")
    assert HIDDEN in hidden
    assert not {"ghp_", "xoxb", "hf_a", "AKIA", "QUJD", "pa55"} & {hidden[n : n + 4] for n in range(len(hidden))}


def test_other_texts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYBOARD", "x" * (SHORTEST - 1))
    monkeypatch.setenv("SSH_KEY_PATH", "/")
    monkeypatch.setenv("SOME_PLACE", "an ordinary value")
    text = "xxxxxxx in / with an ordinary value, AKIAIOSFODNN7EXAMPLE, s3://bucket/prefix, \udcff"
    assert hide_secrets(text) == text


def test_an_attempt_has_no_secret_in_cause_and_log_also_where_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "0123456789" * 5
    monkeypatch.setenv("SOME_TOKEN", secret)
    for padding in range(240, 300, 7):
        try:
            raise RuntimeError("x" * padding + secret + "\n" + secret * 3)
        except RuntimeError as error:
            record = attempt_record("failed", job=JOB, error=error)
            assert secret[:10] not in json.dumps(record) and secret[:10] not in one_line(error)
    for padding in range(LOG_CHARACTERS - 60, LOG_CHARACTERS, 7):
        log = attempt_record("failed", job=JOB, error=RuntimeError(secret + "x" * padding))["log"]
        assert secret[-10:] not in log
    assert attempt_record("hung", job=JOB, cause=f"waits for {secret}")["cause"] == f"waits for {HIDDEN}"


def test_the_status_of_a_launch_has_no_secret(folder_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "0123456789abc")
    status = LaunchStatus(1, "ended", cause="wrong 0123456789abc", refused="no 0123456789abc")
    launch_status.write(open_store(folder_url), "x", status)
    read = launch_status.read(open_store(folder_url), "x")
    assert read is not None
    assert (read.cause, read.refused) == (f"wrong {HIDDEN}", f"no {HIDDEN}")
