"""The declarations in Python are those of include/securereg.h."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER
from typing import Any

import pytest

from conftest import REPOSITORY
from securereg import _abi, _numbers


def without_comments(header: str) -> str:
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", header, flags=re.S))


CODE = without_comments((REPOSITORY / "include" / "securereg.h").read_text(encoding="utf-8"))

SCALARS: dict[str, Any] = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
    "size_t": ctypes.c_size_t,
    "char": ctypes.c_char,
    "securereg_status": _abi.securereg_status,
    "securereg_progress": _abi.securereg_progress,
}


def constants(code: str = CODE) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in re.findall(r"^#define (SECUREREG_\w+) (\S.*)$", code, flags=re.M):
        found[name] = value.strip('"') if value.startswith('"') else int(value, 0)
    for name, value in re.findall(r"^\s*(SECUREREG_\w+) = (-?\w+),", code, flags=re.M):
        found[name] = int(value, 0)
    return found


def ctype(declared: str) -> Any:
    """The ctypes type of a C type, such as `const struct securereg_task *`."""
    words = re.sub(r"\b(const|struct)\b", "", declared)
    base, stars = words.replace("*", "").strip(), words.count("*")
    if base == "char" and stars == 1:
        assert "const" in declared, declared
        return ctypes.c_char_p
    if base == "void" and stars == 1:
        return ctypes.c_void_p
    if base in ("char", "void") and stars == 2:
        # An address that is handed out.
        return POINTER(ctypes.c_void_p)
    kind = SCALARS[base] if base in SCALARS else getattr(_abi, base)
    assert stars <= 1, declared
    return POINTER(kind) if stars else kind


def declarator(text: str) -> tuple[str, Any]:
    """The name and type of a field or a parameter."""
    match = re.fullmatch(r"\s*(.*?)(\w+)\s*(?:\[(\w+)\])?\s*", text, flags=re.S)
    assert match, text
    declared, name, length = match.groups()
    if length is None:
        return name, ctype(declared)
    return name, SCALARS[declared.strip()] * (int(length) if length.isdigit() else constants()[length])


def structs(code: str = CODE) -> dict[str, list[tuple[str, Any]]]:
    found = re.findall(r"typedef struct (\w+) \{(.*?)\} (\w+);", code, flags=re.S)
    assert all(tag == name for tag, _, name in found)
    return {name: [declarator(field) for field in body.split(";") if field.strip()] for name, body, _ in found}


def functions(code: str = CODE) -> dict[str, tuple[Any, list[Any]]]:
    found: dict[str, tuple[Any, list[Any]]] = {}
    prototype = r"^((?:const )?\w+ \*?)\s*(securereg_\w+)\(([^;]*?)\);"
    for declared, name, body in re.findall(prototype, code, flags=re.M | re.S):
        parameters = [] if body.strip() == "void" else [declarator(p)[1] for p in body.split(",")]
        found[name] = (ctype(declared), parameters)
    # None was overlooked.
    assert len(found) == len(re.findall(r"\bsecurereg_\w+\(", code))
    return found


def declared_structs() -> dict[str, list[tuple[str, Any]]]:
    return {
        name: [(field[0], field[1]) for field in kind._fields_]
        for name, kind in vars(_abi).items()
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure) and name.startswith("securereg_")
    }


def test_every_constant_and_status_has_its_value() -> None:
    header = constants()
    here = {name: value for name, value in vars(_abi).items() if name.startswith("SECUREREG_")}
    assert len(header) > 45
    assert here == header


def test_every_struct_has_its_fields() -> None:
    assert len(structs()) == CODE.count("typedef struct ") > 15
    assert structs() == declared_structs()


def test_every_function_takes_and_returns_what_it_says() -> None:
    assert len(functions()) > 50
    assert functions() == _abi.FUNCTIONS
    for name, (result, arguments) in functions().items():
        function = getattr(_abi.lib, name)
        assert (function.restype, function.argtypes) == (result, arguments), name


def test_the_callback_has_its_signature() -> None:
    match = re.search(r"typedef (\w+) \(\*securereg_progress\)\(([^)]*)\);", CODE)
    assert match
    arguments = tuple(declarator(p)[1] for p in match[2].split(","))
    callback: Any = _abi.securereg_progress
    assert (callback._restype_, callback._argtypes_) == (ctype(match[1]), arguments)


def test_every_number_has_a_name() -> None:
    header = constants()
    statuses = dict(re.findall(r"^\s*SECUREREG_(\w+) = (-?\w+),", CODE, flags=re.M))
    for enum, prefix, names in (
        (_numbers.Status, "SECUREREG_", set(statuses)),
        (_numbers.Phase, "SECUREREG_PHASE_", None),
        (_numbers.Outcome, "SECUREREG_OUTCOME_", None),
        (_numbers.Method, "SECUREREG_METHOD_", None),
        (_numbers.ModelStatus, "SECUREREG_MODEL_", None),
        (_numbers.EventKind, "SECUREREG_EVENT_", None),
    ):
        if names is None:
            names = {name.removeprefix(prefix) for name in header if name.startswith(prefix)} - {"NONE"}
        assert {member.name: member.value for member in enum} == {name: header[prefix + name] for name in names}


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("SECUREREG_NAME_MAX 256", "SECUREREG_NAME_MAX 512"),
        ("SECUREREG_IO = 18,", "SECUREREG_IO = 18,\n  SECUREREG_NEW = 20,"),
        ("#define SECUREREG_OPEN_WRITE 1", "#define SECUREREG_OPEN_WRITE 1\n#define SECUREREG_OPEN_OTHER 4"),
        ("  uint32_t sealed;", "  int32_t sealed;"),
        ("  uint32_t kind;\n  \n  uint32_t sealed;", "  uint32_t sealed;\n  \n  uint32_t kind;"),
        ("  uint64_t data_offset;", "  uint64_t data_offset;\n  uint64_t added;"),
        ("uint64_t dimensions[4]", "uint64_t dimensions[5]"),
        ("  const char *source;", ""),
        ("securereg_close(struct securereg_registry registry)", "securereg_close(struct securereg_file registry)"),
        ("const char *securereg_version(void);", "int securereg_version(void);"),
        ("const char *securereg_version(void);", ""),
        ("const char *securereg_version(void);", "const char *securereg_version(void);\nint securereg_new(void);"),
    ],
)
def test_a_difference_is_noticed(was: str, now: str) -> None:
    assert was in CODE
    edited = CODE.replace(was, now, 1)
    try:
        same = (
            constants(edited) == constants()
            and structs(edited) == declared_structs()
            and functions(edited) == _abi.FUNCTIONS
        )
    except AttributeError:  # a type that is not declared
        same = False
    assert not same
