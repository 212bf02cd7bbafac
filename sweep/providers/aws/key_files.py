"""What this machine keeps of a sweep's cluster: its secrets, what Ray was given, the code that is shipped."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping

from sweep.errors import UserError
from sweep.providers.local_files import cluster_folder, private_text
from sweep.spec.sweep import Sweep


class Folder:
    """A folder for its owner alone, of one sweep of one store.

    Attributes:
        path: of the folder.
        token: file of the secret that Ray's processes show one another.
        key: file of the private key for SSH; the public one lies beside it.
        code: folder that is shipped.
        config: what Ray was given for the head that was made last.
    """

    def __init__(self, sweep: Sweep, environment: Mapping[str, str] = os.environ) -> None:
        self.path = cluster_folder(sweep, environment)
        self.token, self.key = self.path / "auth_token", self.path / "ssh_key"
        self.code, self.config = self.path / "code", self.path / "head.json"

    @property
    def public_key(self) -> str:
        """As EC2 takes it."""
        return self.key.with_suffix(".pub").read_text().strip()

    def make(self) -> None:
        """The folder, token and key where they are missing.

        Raises:
            UserError: they cannot be written, or there is no ssh-keygen.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
            if not self.token.exists():
                private_text(self.token, secrets.token_hex(32))
            if not self.key.exists():
                words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.path.name, "-f", str(self.key)]
                subprocess.run(words, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise UserError(f"ssh-keygen could not make {self.key}: {error.stderr.strip()}") from None
        except OSError as error:
            raise UserError(
                f"cannot keep the keys of a cluster in {self.path} ({error}); XDG_CACHE_HOME names another place"
            ) from None

    def forget(self) -> None:
        """The secrets of a cluster that is gone; the log stays."""
        for file in (self.token, self.key, self.key.with_suffix(".pub"), self.config):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.code, ignore_errors=True)
