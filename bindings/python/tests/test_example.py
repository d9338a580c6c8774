"""examples/python: it prints the tensors, and notices a value that differs."""

from __future__ import annotations

import runpy
import subprocess
import sys
from typing import Any

import pytest

from conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "python" / "safetensors_numpy.py"


def test_it_ends_well_and_prints_every_tensor() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    for line in ("embedding    float32  (64, 32)", "scalar       float64  ()", "checksum ", "no byte copied"):
        assert line in shown.stdout


def test_it_fails_when_a_value_differs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    main = names["main"]
    right = main.__globals__["by_numpy"]

    def wrong(data: memoryview) -> Any:
        arrays = right(data)
        arrays["mask"] = ~arrays["mask"]
        return arrays

    main.__globals__["by_numpy"] = wrong
    assert main() == 1
    assert "the values differ" in capsys.readouterr().err
