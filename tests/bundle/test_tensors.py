"""Tensor files, held against the safetensors library, and damaged in many ways."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from time import process_time
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentrt.bundle.errors import WeightsError
from latentrt.bundle.tensors import Layout, TensorFile, save_tensors, write_tensors

DTYPES = {
    torch.float64: np.dtype(np.float64),
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
    torch.int16: np.dtype(np.int16),
    torch.int8: np.dtype(np.int8),
    torch.uint8: np.dtype(np.uint8),
    torch.bool: np.dtype(np.bool_),
}
PAGE = 4096
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """A few tensors of any dtype and shape, NaN and infinity among the values."""
    result = {}
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        dtype = draw(st.sampled_from(list(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        size = int(np.prod(shape)) * dtype.itemsize
        values = draw(st.binary(min_size=size, max_size=size))
        if dtype == torch.bool:
            values = bytes(b & 1 for b in values)
        flat = torch.frombuffer(bytearray(values), dtype=dtype) if size else torch.empty(0)
        result[name] = flat.to(dtype).reshape(shape)
    return result


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def as_arrays(of: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {
        name: np.frombuffer(raw(t), dtype=DTYPES[t.dtype]).reshape(t.shape)
        for name, t in of.items()
    }


@given(expected=tensors())
def test_the_library_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, expected: dict[str, torch.Tensor]
) -> None:
    path = tmp_path_factory.getbasetemp() / "ours.safetensors"
    save_tensors(path, as_arrays(expected))
    found = safetensors.torch.load(path.read_bytes())
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw(found[name]) == raw(tensor)


@given(expected=tensors())
def test_we_read_what_the_library_writes(
    tmp_path_factory: pytest.TempPathFactory, expected: dict[str, torch.Tensor]
) -> None:
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    path.write_bytes(safetensors.torch.save(expected, metadata={"format": "pt"}))
    found = TensorFile(path)
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    assert found.metadata == {"format": "pt"}
    for name, tensor in expected.items():
        assert found[name].dtype == DTYPES[tensor.dtype]
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].tobytes() == raw(tensor)
        assert found.entries[name].nbytes == len(raw(tensor))


def test_bfloat16_keeps_its_bits(tmp_path: Path) -> None:
    tensor = torch.tensor([1.0, -2.5, 3.0e38, 1e-40, float("inf"), 0.1], dtype=torch.bfloat16)
    safetensors.torch.save_file({"x": tensor}, tmp_path / "theirs")
    array = TensorFile(tmp_path / "theirs")["x"]
    assert array.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())
    save_tensors(tmp_path / "ours", {"x": array})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "ours")["x"], tensor)


def test_arrays_that_are_not_contiguous_are_written_in_their_own_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    save_tensors(tmp_path / "x", {"t": array.T, "s": array[:, ::2], "r": array[::-1]})
    found = safetensors.torch.load_file(tmp_path / "x")
    np.testing.assert_array_equal(found["t"].numpy(), array.T)
    np.testing.assert_array_equal(found["s"].numpy(), array[:, ::2])
    np.testing.assert_array_equal(found["r"].numpy(), array[::-1])


def test_arrays_read_cannot_be_written_to(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"a": np.zeros(3, np.float32)})
    assert not TensorFile(tmp_path / "x")["a"].flags.writeable


# The canonical layout.


def split(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """The prefix and header as bytes, and the header as JSON."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[: 8 + length], json.loads(content[8 : 8 + length])


@given(shapes=st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=3), max_size=6))
def test_equal_tensor_lists_give_equal_offsets_whatever_the_values(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "layout.safetensors"
    save_tensors(path, {name: np.zeros(s, np.float32) for name, s in shapes.items()})
    zeros = path.read_bytes()
    backwards = list(shapes.items())[::-1]
    save_tensors(path, {name: np.full(s, 7.5, np.float32) for name, s in backwards})
    others = path.read_bytes()
    assert split(zeros)[0] == split(others)[0]
    assert len(zeros) == len(others)


def test_tensors_lie_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.10", "b.2", "a", "B", "ä", ""]
    save_tensors(tmp_path / "x", {n: np.zeros(i + 1, np.float16) for i, n in enumerate(names)})
    _, header = split((tmp_path / "x").read_bytes())
    assert list(header) == ["", "B", "a", "b.10", "b.2", "ä"]
    # Sizes follow the order of `names` above: 2 bytes times 6, 4, 3, 1, 2, 5.
    offsets = [[0, 12], [12, 20], [20, 26], [26, 28], [28, 32], [32, 42]]
    assert [entry["data_offsets"] for entry in header.values()] == offsets


@pytest.mark.parametrize("total", [PAGE - 1, PAGE, PAGE + 1])
def test_data_begins_at_a_multiple_of_the_alignment(tmp_path: Path, total: int) -> None:
    # `total` is what prefix and header would be without padding.
    bare = len('{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    save_tensors(tmp_path / "x", {"n" * (total - 8 - bare): np.ones(1, np.float32)})
    prefix, _ = split((tmp_path / "x").read_bytes())
    assert len(prefix) == (PAGE if total <= PAGE else 2 * PAGE)
    assert len(prefix.rstrip(b" ")) == total


def test_layout_entries_are_the_absolute_places_in_the_file(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3, dtype=np.int16), "a": np.arange(4, dtype=np.float64)}
    layout = Layout.of({name: (a.dtype, a.shape) for name, a in arrays.items()})
    advanced: list[int] = []
    write_tensors(tmp_path / "x", layout, lambda name: arrays[name], advanced.append)
    content = (tmp_path / "x").read_bytes()
    for name, array in arrays.items():
        entry = layout.entries[name]
        assert content[entry.begin : entry.end] == array.tobytes()
    assert advanced == [32, 6]


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros((2, 2), np.float16)])
def test_an_array_other_than_the_layout_says_is_refused(
    tmp_path: Path, wrong: NDArray[Any]
) -> None:
    layout = Layout.of({"w": (np.dtype(np.float32), (2, 2))})
    with pytest.raises(WeightsError, match=r"tensor 'w': expected \(2, 2\) float32, got \("):
        write_tensors(tmp_path / "x", layout, lambda _: wrong)


# Damage.


def file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A tensor file of that header (JSON, or its bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: Any, end: Any, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def many(count: int) -> bytes:
    return json.dumps({str(i): entry(0, 0, [0]) for i in range(count)}).encode()


A = entry(0, 4)
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "shorter than its 8-byte prefix"),
    "shorter than 8 bytes": (b"\x02\0\0\0\0\0\0", "shorter than its 8-byte prefix"),
    "header longer than the file": (file({}, length=3), "truncated: header ends at 11 of 10 bytes"),
    "header of 1 TB": (file({}, length=1 << 40), "header of 1099511627776 bytes exceeds"),
    "header of 2^64 - 1": (file({}, length=(1 << 64) - 1), "bytes exceeds"),
    "no header": (file(b""), "header is not valid"),
    "not JSON": (file(b'{"a": '), "header is not valid"),
    "not text": (file(b'{"\xff": 1}'), "header is not valid"),
    "nested without end": (file(b"[" * 100_000), "header is not valid"),
    "a list": (file([A]), "header is not a JSON object"),
    "a string": (file("header"), "header is not a JSON object"),
    "null": (file(None), "header is not a JSON object"),
    "duplicate key": (
        file(b'{"a": %s, "a": %s}' % ((json.dumps(A).encode(),) * 2), bytes(4)),
        "'a' occurs twice",
    ),
    "entry is a number": (file({"a": 4}, bytes(4)), "'a' has a malformed entry"),
    "entry is a list": (file({"a": ["F32", [1], [0, 4]]}, bytes(4)), "'a' has a malformed entry"),
    "no dtype": (file({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "'a' has a malf"),
    "no shape": (file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), "'a' has a malf"),
    "no offsets": (file({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "'a' has a malformed"),
    "three offsets": (file({"a": {**A, "data_offsets": [0, 4, 4]}}, bytes(4)), "'a' has a malf"),
    "unknown dtype": (file({"a": entry(0, 4, dtype="F31")}, bytes(4)), "'a' has a malformed"),
    "dtype is a list": (file({"a": entry(0, 4, dtype=["F32"])}, bytes(4)), "'a' has a malformed"),
    "shape of text": (file({"a": entry(0, 4, ["1"])}, bytes(4)), "'a' has a malformed entry"),
    "shape of fractions": (file({"a": entry(0, 4, [1.5])}, bytes(4)), "'a' has a malformed entry"),
    "shape of infinity": (file({"a": entry(0, 4, [1e999])}, bytes(4)), "'a' has a malformed"),
    "shape of NaN": (file({"a": entry(0, 4, [float("nan")])}, bytes(4)), "'a' has a malformed"),
    "offset of infinity": (file({"a": entry(0, 1e999)}, bytes(4)), "'a' has a malformed entry"),
    "negative shape": (file({"a": entry(0, 4, [-1])}, bytes(4)), "'a' of shape (-1,) needs"),
    "negative shape twice": (file({"a": entry(0, 4, [-1, -1])}, bytes(4)), "'a' of shape (-1, -1)"),
    "wrong byte count": (file({"a": entry(0, 4, [2])}, bytes(4)), "needs 8 bytes, has 4"),
    "huge shape": (file({"a": entry(0, 4, [1 << 62, 4])}, bytes(4)), "'a' of shape"),
    "end before begin": (file({"a": entry(4, 0, [0])}, bytes(4)), "needs 0 bytes, has -4"),
    "overlap": (file({"a": A, "b": entry(2, 6)}, bytes(6)), "'b' overlaps another or leaves a gap"),
    "same bytes twice": (file({"a": A, "b": A}, bytes(4)), "overlaps another or leaves a gap"),
    "gap": (file({"a": A, "b": entry(8, 12)}, bytes(12)), "'b' overlaps another or leaves a gap"),
    "gap before the first": (file({"a": entry(4, 8)}, bytes(8)), "'a' overlaps another or leaves"),
    "inside the header": (file({"a": entry(-4, 0)}, bytes(4)), "'a' overlaps another or leaves"),
    "truncated data": (file({"a": A}, bytes(3)), "is truncated: tensors end at"),
    "no data": (file({"a": A}), "is truncated: tensors end at"),
    "trailing bytes": (file({"a": A}, bytes(5)), "is longer than its tensors"),
    "too many tensors": (file(many(65_537)), "lists 65537 tensors, more than 65536"),
}


# The library takes the last of two entries, lets an entry be a list of its fields' values, and has
# no bound on the number of tensors.
OURS_ALONE = {"duplicate key", "entry is a list", "too many tensors"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name_and_problem(tmp_path: Path, damage: str) -> None:
    content, problem = DAMAGE[damage]
    if damage not in OURS_ALONE:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.torch.load(content)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        TensorFile(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert problem in caught.value.problem


def test_as_many_tensors_as_allowed_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(file(many(65_536)))
    assert len(TensorFile(tmp_path / "x")) == 65_536


def test_a_header_of_a_terabyte_is_refused_even_if_the_file_has_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(struct.pack("<Q", 1 << 40))
    try:
        with open(path, "r+b") as sparse:
            sparse.truncate((1 << 40) + 8)
    except OSError:
        pytest.skip("the filesystem has no sparse files of a terabyte")
    with pytest.raises(WeightsError, match="header of 1099511627776 bytes exceeds"):
        TensorFile(path)


def test_a_name_given_twice_among_very_many_is_found_soon(tmp_path: Path) -> None:
    # 16 MB of header hold a million names: to count each name in all of them would take hours.
    names = ",".join(f'"{i}":0' for i in range(40_000))
    (tmp_path / "x").write_bytes(file(f'{{{names},"39999":0}}'.encode()))
    start = process_time()
    with pytest.raises(WeightsError, match="'39999' occurs twice"):
        TensorFile(tmp_path / "x")
    assert process_time() - start < 5  # 0.1 s where names are counted once


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: cannot be read: No such file"):
        TensorFile(tmp_path / "none.safetensors")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read: "):
        TensorFile(tmp_path)


VALID = file({"__metadata__": {"k": "v"}, "a": entry(0, 4), "b": entry(4, 6, [1], "F16")}, bytes(6))


@given(
    position=st.integers(0, len(VALID) - 1),
    replacement=st.binary(max_size=3),
    removed=st.integers(0, 3),
)
def test_a_file_changed_anywhere_is_read_as_the_library_does_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, replacement: bytes, removed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    changed = VALID[:position] + replacement + VALID[position + removed :]
    path.write_bytes(changed)
    try:
        ours = TensorFile(path)
    except WeightsError:
        return
    theirs = safetensors.torch.load(changed)
    assert {n: ours[n].tobytes() for n in ours} == {n: raw(t) for n, t in theirs.items()}
