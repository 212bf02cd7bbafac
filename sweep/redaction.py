"""Secrets in texts: what they look like, and how they are hidden before a text is stored, printed or logged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote

HIDDEN = "[secret]"
SHORTEST = 8  # characters of a variable's value from which it may be a secret
LONG_LINE = 16  # characters of one line of a secret with several lines, such as a private key
SECRET_VARIABLE = re.compile(
    r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(^|_)(PWD|PASS|AUTH|PAT|DSN)(_|$)", re.IGNORECASE
)
# Patterns of secrets.  Most issuers give their secrets a fixed form so that they can be found.  An AWS secret key has
# none: it is found by the name that it is assigned to.
SECRET_CONTENT = {
    "a private key": re.compile(  # also inside a string of JSON or code, and with headers, as encrypted keys have
        rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\"']|\\+[nr])+"
        rb"(?:[A-Za-z-]+: [^\n\\]*(?:\n|\\+n)(?:[\s\"']|\\+[nr])*)*[A-Za-z0-9+/=]{16}"
    ),
    "an AWS access key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    "an AWS secret key": re.compile(rb"(?i)secret[ _-]?access[ _-]?key\W{1,6}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{34}\b"),
    "a key of OpenAI's or Anthropic's": re.compile(
        rb"\bsk-(?:(?:proj|svcacct|admin|ant)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{40,})"
    ),
    "a Google API key": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a W&B key": re.compile(rb"(?i)wandb_api_key\W{1,6}[0-9a-f]{40}(?![0-9a-z])"),
    "a W&B or other key of an .netrc line": re.compile(rb"(?m)^machine\s+\S+\s+login\s+\S+\s+password\s+\S{8,}"),
}
# Examples in AWS's manuals, which are no secrets.
PUBLIC_KEYS = frozenset({b"AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"})
_REST_OF_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END [A-Z ]*PRIVATE KEY[A-Z ]*-----|\Z)", re.DOTALL)
_IN_ADDRESS = re.compile(rb"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")  # user:password@ of an address


def hide_secrets(text: str) -> str:
    """Return a text in which secrets are replaced by `HIDDEN`.

    These are the values of environment variables that are named like secrets, and whatever looks like a token.
    """
    for value in _values():
        text = text.replace(value, HIDDEN)
    data = text.encode("utf-8", "surrogatepass")
    for pattern in (_REST_OF_KEY, _IN_ADDRESS, *SECRET_CONTENT.values()):
        data = pattern.sub(_hide, data)
    return data.decode("utf-8", "surrogatepass")


def _hide(found: re.Match[bytes]) -> bytes:
    return found.group() if any(public in found.group() for public in PUBLIC_KEYS) else HIDDEN.encode()


def _values() -> list[str]:
    """Return the values of variables that are named like secrets, as texts may contain them; the longest first."""
    secrets = [
        value
        for name, value in os.environ.items()
        if SECRET_VARIABLE.search(name) and len(value.strip()) >= SHORTEST and not os.path.exists(value)
    ]
    return sorted({form for value in secrets for form in _forms(value.strip())}, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """Yield a value as it is, as `repr` and addresses write it, and its lines."""
    yield from (value, repr(value)[1:-1], quote(value, safe="", errors="replace"))
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= LONG_LINE)
