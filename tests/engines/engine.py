"""The readers that run.sh points at the mount: one model load per process, so that a hang or a SIGBUS
is one process's, and /proc/self/maps and strace show that load alone.

    engine.py llama MODE MODEL      llama.cpp through llama-cpp-python; MODE: none, mmap, mlock, mmap+mlock
    engine.py safetensors FOLDER    each tensor that the folder's index names, compared with `tensors()`

On success prints what was read (`ids ...` or `tensors N`), then `maps ...` for each model file this
process has mapped and `locked N` (kB). On failure exits nonzero, or dies, and prints none of it.
"""

import json
import pathlib
import sys

PROMPT, COUNT = b"hello the cat", 12


def tensors():
    """The values of the safetensors folder, by shard: check.py writes them, this file expects them."""
    import numpy

    return {
        "model-00001-of-00002.safetensors": {
            "embed.weight": numpy.arange(96 * 1024, dtype=numpy.float32).reshape(96, 1024) / 7,
            "norm.weight": numpy.linspace(-1, 1, 512).astype(numpy.float16),
        },
        "model-00002-of-00002.safetensors": {
            "head.weight": (numpy.arange(64 * 2048) * 2654435761 % 65521).astype(numpy.int64).reshape(64, 2048),
        },
    }


def llama(mode, model):
    from llama_cpp import Llama

    engine = Llama(model, n_ctx=64, n_threads=2, use_mmap="mmap" in mode, use_mlock="mlock" in mode)
    stream = engine.generate(engine.tokenize(PROMPT), temp=0.0)
    print("ids", *(next(stream) for _ in range(COUNT)))
    return engine


def safetensors(folder):
    import numpy
    from safetensors import safe_open

    folder = pathlib.Path(folder)
    expected = {name: (shard, value) for shard, values in tensors().items() for name, value in values.items()}
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {name: shard for name, (shard, _) in expected.items()}, index
    shards = {shard: safe_open(folder / shard, framework="np").__enter__() for shard in set(index.values())}
    for name, (shard, value) in expected.items():
        read = shards[shard].get_tensor(name)
        assert read.dtype == value.dtype and numpy.array_equal(read, value), name
    print("tensors", len(expected))
    return shards


if __name__ == "__main__":
    reader, *arguments = sys.argv[1:]
    held = {"llama": llama, "safetensors": safetensors}[reader](*arguments)
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith((".gguf", ".safetensors")):
            print("maps", line.rstrip())
    print("locked", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")))
