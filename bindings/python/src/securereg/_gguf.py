"""The header of a GGUF model, without its weights.

Owns: Gguf. Promises: what it says was verified like every byte; values are plain Python ones; a vocabulary is copied only
when it is asked for. Leaves out: the parser (the library), tensor data (File.read_at, Sealed.data).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping
from ctypes import byref
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

from . import _abi
from ._calls import Handle, call, optional, said, sized, text

# ggml's gguf_type, and how struct spells those of one size.
_UNSIGNED = frozenset((0, 2, 4, 10))
_SIGNED = frozenset((1, 3, 5, 11))
_FLOAT = frozenset((6, 12))
_BOOL = 7
_STRING = 8
_ARRAY = 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class NestedArray:
    """An array of arrays: the C ABI gives no more than their number, and ggml refuses them."""

    count: int


MetadataValue: TypeAlias = (
    int | float | bool | str | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...] | tuple[str, ...] | NestedArray
)


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is, and what."""

    name: str
    #: ggml's name of its type, such as "Q4_K".
    type_name: str
    #: ggml's number of its type.
    type_id: int
    #: ne0, the innermost, first: the reverse of a numpy shape.
    dimensions: tuple[int, ...]
    #: Where its data begins, in bytes from the start of the file: what File.read_at takes.
    offset: int
    #: Bytes of its data.
    size_bytes: int


class _Metadata(Mapping[str, MetadataValue]):
    """Keys in file order. Arrays stay in the library until they are asked for: a vocabulary has 100,000 strings."""

    def __init__(self, handle: Handle, count: int) -> None:
        # Closed by nobody: it goes when this goes, and what it points to stays while a method of this runs.
        self._handle = handle
        self._pairs: dict[str, int] = {}
        self._values: dict[str, MetadataValue] = {}
        for index in range(count):
            pair = self._pair(index)
            key = said(pair.key)
            self._pairs[key] = index
            if pair.value_type != _ARRAY:
                self._values[key] = _scalar(pair)

    def __getitem__(self, key: str) -> MetadataValue:
        if key not in self._values:
            # Two threads may both do it, and find the same.
            self._values[key] = self._array(self._pairs[key])
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, key: object) -> bool:
        # Mapping's would copy the value.
        return key in self._pairs

    def __repr__(self) -> str:
        return f"<GGUF metadata: {len(self)} pairs>"

    def _pair(self, index: int) -> Any:
        pair = sized(_abi.securereg_gguf_pair)
        call(_abi.lib.securereg_gguf_pair_at, self._handle.live(), index, byref(pair))
        return pair

    def _array(self, index: int) -> MetadataValue:
        pair = self._pair(index)
        if pair.array_type == _STRING:
            return self._strings(index, pair.count)
        if pair.array_type == _ARRAY:
            return NestedArray(pair.count)
        packed = ctypes.string_at(pair.data or 0, pair.data_size)
        return struct.unpack(f"<{pair.count}{_CODES[pair.array_type]}", packed)

    def _strings(self, index: int, count: int) -> tuple[str, ...]:
        handle, function = self._handle.live(), _abi.lib.securereg_gguf_string
        data, length = ctypes.c_void_p(), ctypes.c_size_t()
        to, to_length = byref(data), byref(length)
        strings = []
        for at in range(count):
            # Without an error object, which costs as much as the rest; a failure is asked again for what it says.
            if function(handle, index, at, to, to_length, None):
                call(function, handle, index, at, to, to_length)
            strings.append(_decoded(data.value, length.value))
        return tuple(strings)


class Gguf:
    """The header of a GGUF file of a promoted model. Registry.gguf makes it; it holds memory only, and needs no closing."""

    #: The format's version: 2 or 3.
    version: int
    #: The alignment of tensor data, in bytes.
    alignment: int
    #: Where tensor data begins, in bytes from the start of the file.
    data_offset: int
    #: In file order. Numbers and booleans are int, float and bool, strings str (bytes that are not UTF-8 as lone surrogates,
    #: by the error handler "surrogateescape"), arrays tuples.
    metadata: Mapping[str, MetadataValue]
    #: By name, in file order.
    tensors: Mapping[str, Tensor]

    def __init__(self, registry: Handle, model: str, path: str | None) -> None:
        handle = Handle(_abi.securereg_gguf, "securereg_gguf_free", "header")
        name, inside = text(model, "the model's name"), optional(path, "the path")
        call(_abi.lib.securereg_gguf_open, registry.live(), name, inside, handle.out())
        info = sized(_abi.securereg_gguf_info)
        call(_abi.lib.securereg_gguf_get, handle.live(), byref(info))
        self.model = model
        self.version = info.version
        self.alignment = info.alignment
        self.data_offset = info.data_offset
        self.metadata = _Metadata(handle, info.pair_count)
        tensors = (_tensor(handle, index) for index in range(info.tensor_count))
        self.tensors = MappingProxyType({tensor.name: tensor for tensor in tensors})

    def __repr__(self) -> str:
        return f"<securereg.Gguf {self.model!r}: {len(self.metadata)} pairs, {len(self.tensors)} tensors>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot copy or pickle a Gguf: open it where it is used")


def _scalar(pair: Any) -> int | float | bool | str:
    if pair.value_type in _UNSIGNED:
        return int(pair.u64_value)
    if pair.value_type in _SIGNED:
        return int(pair.i64_value)
    if pair.value_type in _FLOAT:
        return float(pair.f64_value)
    if pair.value_type == _BOOL:
        return bool(pair.u64_value)
    return _decoded(pair.data, pair.data_size)


def _decoded(address: int | None, length: int) -> str:
    if not address or not length:
        return ""
    return ctypes.string_at(address, length).decode("utf-8", "surrogateescape")


def _tensor(handle: Handle, index: int) -> Tensor:
    tensor = sized(_abi.securereg_gguf_tensor)
    call(_abi.lib.securereg_gguf_tensor_at, handle.live(), index, byref(tensor))
    return Tensor(
        name=said(tensor.name),
        type_name=said(tensor.type_name),
        type_id=tensor.type_id,
        dimensions=tuple(tensor.dimensions[: tensor.dimension_count]),
        offset=tensor.offset,
        size_bytes=tensor.size_bytes,
    )
