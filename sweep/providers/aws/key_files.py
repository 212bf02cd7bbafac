"""Files of a sweep's cluster on this machine: its secrets, Ray's configuration, and the code that is copied."""

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
    """Private folder for one sweep of one store.

    Attributes:
        path: path of the folder.
        token: file with the secret that Ray's processes use among each other.
        key: file of the private key for SSH; the public key is next to it.
        code: folder that is copied to the machines.
        config: file with the configuration of the head that was made last.
    """

    def __init__(self, sweep: Sweep, environment: Mapping[str, str] = os.environ) -> None:
        self.path = cluster_folder(sweep, environment)
        self.token, self.key = self.path / "auth_token", self.path / "ssh_key"
        self.code, self.config = self.path / "code", self.path / "head.json"

    @property
    def public_key(self) -> str:
        """Public key for SSH, in the format of EC2."""
        return self.key.with_suffix(".pub").read_text().strip()

    def make(self) -> None:
        """Make the folder, token and key if they are missing.

        Raises:
            UserError: they cannot be written, or ssh-keygen is not installed.
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
                f"cannot write the keys of a cluster to {self.path} ({error}); set XDG_CACHE_HOME to use another folder"
            ) from None

    def forget(self) -> None:
        """Remove the secrets of a cluster that is gone; the log stays."""
        for file in (self.token, self.key, self.key.with_suffix(".pub"), self.config):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.code, ignore_errors=True)
