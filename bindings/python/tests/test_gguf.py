"""The header of a GGUF model, as Python values."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import securereg
from conftest import blob, flip
from securereg import NestedArray

Promote = Callable[[str, bytes], securereg.Model]


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(pairs: list[tuple[bytes, int, bytes]]) -> bytes:
    body = b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


#: A type, its bytes, and the value they are.
VALUES: list[tuple[str, int, bytes, Any]] = [
    ("u8", 0, b"\xff", 255),
    ("i8", 1, b"\xff", -1),
    ("u16", 2, b"\xff\xff", 65535),
    ("i16", 3, struct.pack("<h", -300), -300),
    ("u32", 4, struct.pack("<I", (1 << 32) - 1), (1 << 32) - 1),
    ("i32", 5, struct.pack("<i", -5), -5),
    ("f32", 6, struct.pack("<f", 1.5), 1.5),
    ("true", 7, b"\1", True),
    ("false", 7, b"\0", False),
    ("text", 8, text("naïve".encode()), "naïve"),
    ("no text", 8, text(b""), ""),
    ("a NUL", 8, text(b"a\0b"), "a\0b"),
    ("no UTF-8", 8, text(b"\xff\xfea"), b"\xff\xfea".decode("utf-8", "surrogateescape")),
    ("u64", 10, struct.pack("<Q", (1 << 64) - 1), (1 << 64) - 1),
    ("i64", 11, struct.pack("<q", -(1 << 63)), -(1 << 63)),
    ("f64", 12, struct.pack("<d", -2.25), -2.25),
    ("u8s", 9, array(0, 3, b"\0\1\xff"), (0, 1, 255)),
    ("i8s", 9, array(1, 2, b"\x80\x7f"), (-128, 127)),
    ("u16s", 9, array(2, 2, struct.pack("<2H", 1, 65535)), (1, 65535)),
    ("i16s", 9, array(3, 1, struct.pack("<h", -2)), (-2,)),
    ("u32s", 9, array(4, 2, struct.pack("<2I", 0, (1 << 32) - 1)), (0, (1 << 32) - 1)),
    ("i32s", 9, array(5, 2, struct.pack("<2i", 7, -7)), (7, -7)),
    ("f32s", 9, array(6, 2, struct.pack("<2f", 0.5, -0.5)), (0.5, -0.5)),
    ("bools", 9, array(7, 3, b"\1\0\1"), (True, False, True)),
    ("texts", 9, array(8, 4, text(b"a") + text(b"") + text(b"\xff") + text("ü".encode())), ("a", "", "\udcff", "ü")),
    ("u64s", 9, array(10, 1, struct.pack("<Q", 1 << 63)), (1 << 63,)),
    ("i64s", 9, array(11, 1, struct.pack("<q", -9)), (-9,)),
    ("f64s", 9, array(12, 1, struct.pack("<d", 1e300)), (1e300,)),
    ("none", 9, array(4, 0, b""), ()),
    ("no texts", 9, array(8, 0, b""), ()),
]


def test_every_type_is_a_python_value(registry: securereg.Registry, promote: Promote) -> None:
    promote("m", header([(key.encode(), kind, value) for key, kind, value, _ in VALUES]))
    metadata = registry.gguf("m").metadata
    assert list(metadata) == [key for key, *_ in VALUES]
    for key, _, _, expected in VALUES:
        assert (metadata[key], type(metadata[key])) == (expected, type(expected)), key
        assert metadata[key] is metadata[key], "converted once"
    assert isinstance(metadata["bools"], tuple) and metadata["bools"][0] is True
    assert dict(metadata) == {key: expected for key, _, _, expected in VALUES}


def test_an_array_of_arrays_is_their_number(
    registry: securereg.Registry, tiny: securereg.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ggml loads no such file, so none is promoted by default: a vocabulary's array, told of as the C ABI would one of arrays.
    metadata = registry.gguf("tiny").metadata
    told = type(metadata)._pair  # type: ignore[attr-defined]

    def nested(self: object, index: int) -> Any:
        pair = told(self, index)
        pair.array_type = 9
        return pair

    monkeypatch.setattr(type(metadata), "_pair", nested)
    assert metadata["tokenizer.ggml.token_type"] == NestedArray(338)


def test_metadata_is_a_mapping(registry: securereg.Registry, tiny: securereg.Model) -> None:
    gguf = registry.gguf("tiny", "tiny-llama.gguf")
    assert (gguf.version, gguf.alignment, gguf.model) == (3, 32, "tiny")
    assert gguf.metadata["general.architecture"] == "llama"
    assert gguf.metadata.get("nothing") is None
    assert "tokenizer.ggml.tokens" in gguf.metadata and "nothing" not in gguf.metadata
    with pytest.raises(KeyError):
        gguf.metadata["nothing"]
    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple) and len(tokens) == gguf.metadata["llama.vocab_size"] == 338
    assert tokens[:3] == ("<unk>", "<s>", "</s>")
    assert len(gguf.metadata) == 24
    assert "24 pairs, 21 tensors" in repr(gguf) and "24 pairs" in repr(gguf.metadata)


def test_tensors_lie_where_it_says(registry: securereg.Registry, tiny: securereg.Model) -> None:
    gguf = registry.gguf("tiny")
    norm = gguf.tensors["output_norm.weight"]
    assert (norm.type_name, norm.type_id, norm.dimensions, norm.size_bytes) == ("F32", 0, (256,), 1024)
    assert gguf.tensors["token_embd.weight"].dimensions == (256, 338)
    assert min(tensor.offset for tensor in gguf.tensors.values()) == gguf.data_offset
    assert max(tensor.offset + tensor.size_bytes for tensor in gguf.tensors.values()) <= tiny.size_bytes
    with registry.open("tiny") as file, registry.open_sealed("tiny") as sealed:
        weights = np.empty(norm.dimensions[::-1], np.float32)
        assert file.read_at_into(weights.data, norm.offset) == norm.size_bytes
        mapped = np.frombuffer(sealed.data, np.float32, count=256, offset=norm.offset)
        assert np.array_equal(weights, mapped) and np.isfinite(weights).all()
    with pytest.raises(TypeError):
        gguf.tensors["x"] = norm  # type: ignore[index]


def test_it_outlives_the_registry_and_the_model(registry: securereg.Registry, tiny: securereg.Model) -> None:
    gguf = registry.gguf("tiny")
    registry.delete("tiny")
    registry.close()
    scores = gguf.metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, tuple) and len(scores) == 338


def test_what_is_no_sound_gguf_is_refused(
    registry: securereg.Registry, root: Path, folder: securereg.Model, tiny: securereg.Model
) -> None:
    with pytest.raises(securereg.Refused):
        registry.gguf("folder", "model.safetensors")
    with pytest.raises(securereg.NotFound):
        registry.gguf("none")
    flip(blob(root, tiny), 100)
    with pytest.raises(securereg.Corrupt):
        registry.gguf("tiny")
