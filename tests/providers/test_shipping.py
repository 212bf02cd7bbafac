"""The files that leave this machine with a launch: the tree as git sees it, without secrets and big files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import UserError
from sweep.plan import launch_record
from sweep.providers import shipping
from sweep.providers.shipping import collect, find_secret
from sweep.redaction import SECRET_CONTENT

ROOT = Path(__file__).parents[2]
# The secrets are put together from parts, so that this file contains none and can be shipped.
BODY = "b3BlbnNzaC1rZXktdjEAAAAA"
SECRETS = {
    "a private key": "-----BEGIN OPENSSH " + f"PRIVATE KEY-----\n{BODY}\n",
    "an AWS access key": "AKIA" + "QYLPMN5HHHFPZAM2",
    "an AWS secret key": "aws_secret_access_key = " + "c" * 40,
    "a GitHub token": "ghp_" + "a1" * 18,
    "a Slack token": "xoxb-" + "123456789012-abcdefghij",
    "a Hugging Face token": "hf_" + "aB" * 17,
    "a key of OpenAI's or Anthropic's": "sk-proj-" + "aB3_" * 10,
    "a Google API key": "AIza" + "b" * 35,
    "a W&B key": "WANDB_API_KEY: " + "f" * 40,
    "a W&B or other key of an .netrc line": "machine api.wandb.ai login user password " + "f" * 40,
}
BEGIN, END = "-----BEGIN {}" + "PRIVATE KEY-----", "-----END {}" + "PRIVATE KEY-----"
OTHER_SHAPES = {
    "a service account of Google's": json.dumps({"private_key": f"{BEGIN.format('')}\n{BODY}\n{END.format('')}\n"}),
    "such an account within a string": json.dumps(json.dumps({"private_key": f"{BEGIN.format('')}\n{BODY}\n"})),
    "a key in code": f'KEY = (\n    "{BEGIN.format("EC ")}\\n"\n    "{BODY}"\n)',
    "an encrypted key": f"{BEGIN.format('RSA ')}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,01\n\n{BODY}",
    "a key of Windows": f"{BEGIN.format('RSA ')}\r\nProc-Type: 4,ENCRYPTED\r\n\r\n{BODY}",
    "a key of PGP": f"{BEGIN.format('PGP ').replace('KEY', 'KEY BLOCK')}\nVersion: GnuPG v2\n\n{BODY}",
    "an answer of AWS's STS": json.dumps({"SecretAccessKey": "c" * 40}, indent=2),
    "a line of AWS's console": "Secret access key: " + "c" * 40,
    "an old key of OpenAI's": "OPENAI_API_KEY=sk-" + "aB3" * 16,
    "a key of Anthropic's": "sk-ant-api03-" + "aB3-" * 20,
}


def tree(folder: Path, files: dict[str, str | bytes], *, git: bool = True) -> Path:
    root = folder / "tree"
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if git:
        subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_this_project_can_be_shipped() -> None:
    shipment = collect(ROOT)
    assert {"pyproject.toml", "sweep/cli/app.py", "models/catalog.py", "sweep/providers/aws/machine/guard.py"} <= set(
        shipment.files
    )
    assert shipment.size < 20 * 2**20


def test_what_git_tracks_or_would_track_is_shipped_and_what_it_ignores_is_not(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            ".gitignore": "results\n*.log",
            "a.py": "1",
            "my detector's ü.py": "2",
            "results/x": "3",
            "a.log": "4",
            "gone": "5",
        },
    )
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    (root / "gone").unlink()
    (root / "new").mkdir()
    (root / "new/file.py").write_text("untracked")
    shipment = collect(root)
    assert shipment.files == (".gitignore", "a.py", "my detector's ü.py", "new/file.py")


@pytest.fixture
def hanging_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for module in (shipping, launch_record):
        monkeypatch.setattr(module, "GIT_SECONDS", 0.2)


@pytest.mark.usefixtures("hanging_git")
def test_a_git_that_hangs_ships_nothing_that_it_may_ignore_and_keeps_no_launch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"git does not list its files .* try: git -C .* ls-files"):
        collect(tree(tmp_path, {"a.py": "1"}, git=False))
    assert launch_record.commit() == {"commit": None, "dirty": None}


def test_without_git_caches_and_results_stay_here(tmp_path: Path) -> None:
    files = {"a.py": "1", "b/c.py": "2", ".venv/x.py": "3", "b/__pycache__/c.cpython-311.pyc": "4", "results/x": "5"}
    assert collect(tree(tmp_path, dict(files), git=False)).files == ("a.py", "b/c.py")


def test_a_copy_is_these_files_and_no_others(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.sh": "#!/bin/sh", "b/c.py": "2"})
    (root / "a.sh").chmod(0o755)
    folder = tmp_path / "copy"
    (folder / "b").mkdir(parents=True)
    (folder / "b/of an earlier launch.py").write_text("old")
    collect(root).copy_to(folder)
    copied = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert copied == {"a.sh": "#!/bin/sh", "b/c.py": "2"}
    assert os.access(folder / "a.sh", os.X_OK)


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "id_ed25519", "server.pem", "Credentials", "service-account-x.json", ".netrc"]
)
def test_a_file_named_like_a_secret_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        collect(tree(tmp_path, {"a.py": "1", f"folder/{name}": "x"}))
    assert caught.value.problems == [f"folder/{name}: a file of this name usually holds secrets"]
    assert ".gitignore" in caught.value.heading


@pytest.mark.parametrize("name", [".env.example", "keys.py", "id_rsa.pub", "environment.yaml", "monkey.py"])
def test_a_harmless_name_is_not(name: str) -> None:
    assert find_secret(name, b"x") is None


@pytest.mark.parametrize("kind", SECRET_CONTENT)
@given(before=st.binary(max_size=50), after=st.binary(max_size=50))
def test_a_secret_is_found_wherever_it_stands(kind: str, before: bytes, after: bytes) -> None:
    content = before + b"\n" + SECRETS[kind].encode() + b"\n" + after
    found = find_secret("settings.py", content)
    assert found is not None
    assert found.startswith("line ")


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_a_secret_is_found_in_whatever_shape_programs_write_it(shape: str) -> None:
    assert find_secret("my-project-1a2b3c4d5e6f.json", OTHER_SHAPES[shape].encode()) is not None


@pytest.mark.parametrize(
    "text",
    [
        f'if "{BEGIN.format("")}" in text:\n    raise ValueError',
        f"{BEGIN.format('')}\n...\n{END.format('')}",
        "class='sk-estimator-doc-link sk-toggleable__content'",
        "--tags=task-1234567890123456789012345678901234567890",
        "the key SecretAccessKey of credentials, and sk-proj-...",
    ],
)
def test_words_about_secrets_are_none(text: str) -> None:
    assert find_secret("notes.md", text.encode()) is None


def test_many_headers_are_looked_through_at_once() -> None:
    lines = [BEGIN.format("RSA "), "a: b: " * 5_000, *["a: b"] * 5_000, "."]
    assert find_secret("x", "\n".join(lines).encode()) is None


def test_the_line_of_a_secret_is_named_and_all_problems_are_said_at_once(tmp_path: Path) -> None:
    key = SECRETS["an AWS access key"]
    root = tree(tmp_path, {"a.py": f"x\ny = '{key}'\n", "b.py": SECRETS["a GitHub token"], "c.py": "fine"})
    with pytest.raises(UserError) as caught:
        collect(root)
    assert caught.value.problems == [
        "a.py: line 2 looks like an AWS access key",
        "b.py: line 1 looks like a GitHub token",
    ]
    assert key not in str(caught.value), "a secret is not printed"


def test_the_examples_of_manuals_are_no_secrets() -> None:
    assert find_secret("doc.md", b"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE") is None
    assert find_secret("doc.md", b"aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY") is None


@given(content=st.text(alphabet="abcdef0123456789 \n=_-", max_size=400))
def test_hashes_and_ordinary_text_are_no_secrets(content: str) -> None:
    assert find_secret("notes.txt", content.encode()) is None


def test_big_files_and_big_trees_are_refused_with_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "BIG_FILE", 1000)
    monkeypatch.setattr(shipping, "BIG_TREE", 1500)
    root = tree(tmp_path, {"weights.pt": b"x" * 1001, "a.py": "1"})
    with pytest.raises(UserError, match=r"weights\.pt: .*are not shipped: put them into the store"):
        collect(root)
    (root / "weights.pt").unlink()
    for name in ("b", "c"):
        (root / name).write_bytes(b"x" * 900)
    with pytest.raises(UserError, match=r"3 files of .* in all.*the largest: [bc], [bc], a\.py"):
        collect(root)


def test_a_link_that_leads_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, {"a.py": "1"})
    (tmp_path / "elsewhere").write_text("2")
    (root / "inside").symlink_to("a.py")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError) as caught:
        collect(root)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["outside"]
