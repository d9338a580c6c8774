"""Puts libsecurereg.so into the wheel.

Owns: how it is built, and the wheel's tag. Promises: a wheel holds a library or is not made; it is tagged for this platform
and any Python 3. Leaves out: the wheel itself (hatchling).

    SECUREREG_LIBRARY   a libsecurereg.so to take instead of building one
    CARGO               the cargo to build it with; CARGO_TARGET_DIR and cargo's other variables mean what they always mean
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "libsecurereg.so"


class Bundle(BuildHookInterface):  # type: ignore[type-arg]
    """Found by hatchling as the only hook in this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is made; `version` is its kind."""
        if sys.platform != "linux":
            self.app.abort("securereg runs on Linux only")
        given = os.environ.get("SECUREREG_LIBRARY")
        library = Path(given) if given else self._build()
        if not library.is_file():
            self.app.abort(f"there is no {library} (SECUREREG_LIBRARY)" if given else f"cargo left no {library}")
        with library.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                self.app.abort(f"{library} is not a shared library")
        package = Path(self.root) / "src" / "securereg"
        if version == "editable":
            # The package is used where it lies, so its library must lie there too.
            shutil.copy2(library, package / NAME)
        else:
            build_data["force_include"][str(library.resolve())] = f"securereg/{NAME}"
        build_data["pure_python"] = False
        # The library speaks C, not Python's ABI: one wheel for any Python 3 on this platform.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def _build(self) -> Path:
        """Builds it from the clone that this folder is in."""
        clone = Path(self.root).parent.parent
        if not (clone / "Cargo.toml").is_file():
            self.app.abort(
                f"{clone} is no clone of securereg, and the library is built from one: install from there "
                "(pip install ./bindings/python), or set SECUREREG_LIBRARY=/path/to/libsecurereg.so"
            )
        cargo = shutil.which(os.environ.get("CARGO", "cargo"))
        if cargo is None:
            self.app.abort(
                "cargo was not found, and securereg's library is written in Rust: install Rust and put cargo into PATH, or "
                "set SECUREREG_LIBRARY=/path/to/libsecurereg.so to bundle one that is built already"
            )
        # Its own word for where the library is: CARGO_TARGET_DIR, CARGO_BUILD_TARGET and its configuration all decide that.
        command = [str(cargo), "build", "--release", "--locked", "-p", "securereg"]
        command += ["--message-format", "json-render-diagnostics"]
        self.app.display_info(f"building {NAME}: {' '.join(command)}")
        built = subprocess.run(command, cwd=clone, stdout=subprocess.PIPE, text=True, check=False)
        if built.returncode:
            self.app.abort(f"cargo failed ({built.returncode}): see above")
        for line in built.stdout.splitlines():
            message = json.loads(line) if line.startswith("{") else {}
            if message.get("reason") == "compiler-artifact" and "cdylib" in message["target"]["kind"]:
                for file in message["filenames"]:
                    if Path(file).name == NAME:
                        return Path(file)
        self.app.abort(f"cargo built no {NAME}")
        raise SystemExit(1)
