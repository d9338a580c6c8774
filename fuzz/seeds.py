"""Sound files of torch.save's forms, small, for fuzz/seeds.sh: made without torch, by classes that only bear its names.

    seeds.py FOLDER     writes FOLDER/state.pt, plain.pt, legacy.pt and the pickles in them
"""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

out = Path(sys.argv[1])
torch = types.ModuleType("torch")
utils = types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})


def named(module, name):
    """A class and a function cannot be told apart by a pickle: both are a module and a name."""
    thing = type(name, (), {"__module__": module.__name__})
    setattr(module, name, thing)
    return thing


FLOAT, HALF, BYTE = (named(torch, n) for n in ("FloatStorage", "HalfStorage", "ByteStorage"))
REBUILD = named(utils, "_rebuild_tensor_v2")
PARAMETER = named(utils, "_rebuild_parameter")


class Storage:
    def __init__(self, kind, key, count):
        self.id = ("storage", kind, key, "cpu", count)


class Tensor:
    def __init__(self, kind, key, shape, count):
        stride, n = [], 1
        for size in reversed(shape):
            stride.insert(0, n)
            n *= size
        self.args = (Storage(kind, key, count), 0, shape, tuple(stride), False, collections.OrderedDict())

    def __reduce__(self):
        return REBUILD, self.args


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return PARAMETER, (self.tensor, True, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.id if isinstance(thing, Storage) else None


def dumped(thing):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(thing)
    return stream.getvalue()


state = collections.OrderedDict(
    weight=Parameter(Tensor(FLOAT, "0", (2, 3), 6)), bias=Tensor(HALF, "1", (4,), 4), step=7, name="a", flags=[True, None, 1.5]
)
plain = {"model": {"w": Tensor(BYTE, "0", (8,), 8)}, "epoch": 3}
for name, thing, blobs in (
    ("state", state, {"0": bytes(24), "1": bytes(8)}),
    ("plain", plain, {"0": bytes(8)}),
):
    data = dumped(thing)
    (out / f"{name}.pkl").write_bytes(data)
    with zipfile.ZipFile(out / f"{name}.pt", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, blob in blobs.items():
            archive.writestr(f"archive/data/{key}", blob)
        archive.writestr("archive/version", "3\n")
    with zipfile.ZipFile(out / f"{name}-deflated.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", data)
        for key, blob in blobs.items():
            archive.writestr(f"x/data/{key}", blob)
        archive.writestr("x/version", "3\n")


class LegacyStorage(Storage):
    def __init__(self, kind, key, count):
        self.id = ("storage", kind, key, "cpu", count, None)


legacy = collections.OrderedDict(w=Tensor(FLOAT, "94", (2,), 2))
legacy["w"].args = (LegacyStorage(FLOAT, "94", 2), *legacy["w"].args[1:])
parts = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}]
stream = b"".join(pickle.dumps(p, protocol=2) for p in parts) + dumped(legacy) + pickle.dumps(["94"], protocol=2)
(out / "legacy.pt").write_bytes(stream + struct.pack("<q", 2) + bytes(8))
