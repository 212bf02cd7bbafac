"""Access keys of AWS: the identity of each, and when it expires."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

ACCOUNT = "123456789012"  # the account of moto
ROLE_SECONDS = 6 * 3600.0
LAPTOP = "laptop"  # the user's own credentials, which may do everything


@dataclass(frozen=True)
class Credentials:
    """An access key.

    Attributes:
        identity: LAPTOP, or the name of a role.
        expires: time in seconds since 1970.
    """

    identity: str
    access_key: str
    secret: str
    token: str
    expires: float


class Identities:
    """Issues access keys, and keeps their identities.  Keys are checked, secrets are not."""

    def __init__(self) -> None:
        self._issued: dict[str, Credentials] = {}
        self._expired: set[str] = set()
        self._denied: set[str] = set()

    def issue(self, identity: str, life: float = ROLE_SECONDS) -> Credentials:
        """Return new credentials for an identity."""
        key = f"{'AKIA' if identity == LAPTOP else 'ASIA'}{secrets.token_hex(8).upper()}"
        made = Credentials(identity, key, secrets.token_hex(20), secrets.token_hex(40), time.time() + life)
        self._issued[key] = made
        return made

    def of(self, access_key: str) -> Credentials | None:
        """Return the credentials of a key; None if it was not issued."""
        return self._issued.get(access_key)

    def expire(self, identity: str) -> None:
        """Let all keys of an identity be expired, also later ones, until `renew`."""
        self._expired.add(identity)

    def renew(self, identity: str) -> None:
        self._expired.discard(identity)

    def has_expired(self, credentials: Credentials) -> bool:
        return credentials.identity in self._expired or credentials.expires < time.time()

    def deny_bucket(self, identity: str) -> None:
        """Let S3 refuse an identity from now on, as after a change of a policy."""
        self._denied.add(identity)

    def allow_bucket(self, identity: str) -> None:
        self._denied.discard(identity)

    def is_denied_buckets(self, credentials: Credentials) -> bool:
        return credentials.identity in self._denied
