"""A safetensors file, from a file on the disk to numpy arrays over sealed memory.

Makes a small file, promotes it into a temporary registry, opens it in sealed memory, and reads its tensors in two ways: by
safetensors, through the path of the sealed memory, and by numpy alone, over its buffer, without a copy. Prints the tensors
and a checksum; ends with 1 if any value is not what was put in.

    pip install ./bindings/python safetensors numpy
    python examples/python/safetensors_numpy.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

import securereg

Arrays = dict[str, "np.ndarray[Any, Any]"]

# https://github.com/huggingface/safetensors#format
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def main() -> int:
    """Runs the example; its exit code."""
    wanted = sample()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "sample.safetensors")
        save_file(wanted, source)
        with securereg.Registry(Path(folder, "registry"), create=True) as registry:
            promotion = registry.promote(source, "sample", source="made by the example", progress=show)
            print(f"{promotion.model.name}: {promotion.outcome.name.lower()}, sha256 {promotion.model.sha256}")
            with registry.open_sealed("sample") as sealed:
                loaded = by_safetensors(sealed)
                mapped = by_numpy(sealed.data)
                inside = all(is_inside(array, sealed.data) for array in mapped.values())
    # The sealed memory is closed, and the arrays over it are as good as before: they keep it.
    for name, array in sorted(mapped.items()):
        print(f"{name:12} {array.dtype!s:8} {array.shape!s:12} crc32 {zlib.crc32(array.tobytes()):08x}")
    print(f"checksum {checksum(mapped):08x}, {'no byte' if inside else 'bytes'} copied")
    if not (same(wanted, loaded) and same(wanted, mapped) and inside):
        print("the values differ from what was promoted", file=sys.stderr)
        return 1
    return 0


def sample() -> Arrays:
    """Some tensors, the same each time."""
    random = np.random.default_rng(7)
    return {
        "embedding": random.standard_normal((64, 32)).astype(np.float32),
        "half": random.standard_normal((3, 4, 5)).astype(np.float16),
        "ids": np.arange(100, dtype=np.int64),
        "mask": np.array([True, False, True]),
        "scalar": np.array(2.5),
    }


def show(step: securereg.Progress) -> None:
    """Tells how far a promotion is."""
    print(f"{step.phase.name.lower()}: {step.done} of {step.total} bytes")


def by_safetensors(sealed: securereg.Sealed) -> Arrays:
    """As any program that takes a path: safetensors maps the sealed memory itself."""
    with safe_open(sealed.path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def by_numpy(data: memoryview) -> Arrays:
    """Arrays over the buffer. They are read-only, as it is, and keep it."""
    size = int.from_bytes(data[:8], "little")
    # The bytes are those that were promoted; what they say is the promoter's, so numpy checks each against the buffer.
    header = json.loads(bytes(data[8 : 8 + size]))
    header.pop("__metadata__", None)
    body = data[8 + size :]
    arrays = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        arrays[name] = np.frombuffer(body[begin:end], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return arrays


def is_inside(array: np.ndarray[Any, Any], data: memoryview) -> bool:
    """Whether the array's bytes are the buffer's own."""
    return np.shares_memory(array, np.frombuffer(data, np.uint8)) and not array.flags.writeable


def same(wanted: Arrays, found: Arrays) -> bool:
    """Whether names, types and values are the same."""
    if wanted.keys() != found.keys():
        return False
    return all(wanted[name].dtype == found[name].dtype and np.array_equal(wanted[name], found[name]) for name in wanted)


def checksum(arrays: Arrays) -> int:
    """Of all values, by name."""
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), total))
    return total


if __name__ == "__main__":
    sys.exit(main())
