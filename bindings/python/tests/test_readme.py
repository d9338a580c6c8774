"""Each Python block of README.md runs, as it stands, one after the other, and prints what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import DATA, REPOSITORY

README = (REPOSITORY / "bindings" / "python" / "README.md").read_text(encoding="utf-8")


def test_every_block_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S)
    assert len(blocks) == README.count("```python") >= 7
    shutil.copy(DATA / "tiny-llama.gguf", tmp_path / "tiny.gguf")
    for number, block in enumerate(blocks):
        # Each is a program of its own, in a folder that holds tiny.gguf and what those before it left.
        script = tmp_path / f"block{number}.py"
        script.write_text(block, encoding="utf-8")
        expected = re.findall(r"# -> (.*)$", block, flags=re.M)
        assert expected, block
        command = [sys.executable, "-W", "error", script.name]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert (shown.stdout.splitlines(), shown.stderr, shown.returncode) == (expected, "", 0), block


def test_it_tells_how_it_is_installed() -> None:
    assert "pip install ./bindings/python" in README.splitlines()
