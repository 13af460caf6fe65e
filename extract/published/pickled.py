"""What a pickle says of tensors, without running it.

A pickle is a program for a stack machine that may call anything. This is the part of that machine which a tensor of
plain numbers needs; every other instruction is refused, so nothing is imported, called or allocated by a file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from store.errors import StoreError

MAX_INSTRUCTIONS = 10_000
_TENSOR = "torch._utils _rebuild_tensor_v2"
_EMPTY = "collections OrderedDict"  # of a tensor's hooks
_MARK = object()


class Global(NamedTuple):
    """A name that the pickle mentions; it is never looked up."""

    name: str


class Storage(NamedTuple):
    """Where a tensor's numbers lie: torch's name of their type, the storage's key in the file, how many there are."""

    type_name: str
    key: str
    numel: int


class Strided(NamedTuple):
    """A tensor: element [i, j, ...] is number `offset + i * stride[0] + j * stride[1] + ...` of its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(data: bytes | memoryview, at: int = 0) -> tuple[Any, int]:
    """The value of the pickle at `at`, and where it ends.

    Plain values, tuples, lists, dictionaries and `Strided`s; StoreError for any instruction that these do not need.
    """
    machine = _Machine(data, at)
    try:
        for _ in range(MAX_INSTRUCTIONS):
            code = machine.take(1)[0]
            if code == _STOP:
                return machine.stack.pop(), machine.at
            _INSTRUCTIONS[code](machine)
    except KeyError as error:
        raise StoreError(f"expected a tensor and nothing else, found the pickle instruction {error}") from None
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise StoreError(f"expected a pickled tensor, found a damaged one: {error}") from error
    raise StoreError(f"expected a tensor, found a pickle of more than {MAX_INSTRUCTIONS} instructions")


class _Machine:
    def __init__(self, data: bytes | memoryview, at: int) -> None:
        self._data = memoryview(data)
        self.at = at
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> memoryview:
        """The next bytes; IndexError at the end."""
        if self.at + count > len(self._data):
            raise IndexError("it ends too soon")
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """The next little-endian integer."""
        found: int = struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
        return found

    def text(self, form: str) -> str:
        """The next text, its length before it."""
        return str(self.take(self.number(form)), "utf-8")

    def line(self) -> str:
        """The text up to the end of the line."""
        end = self.at
        while self._data[end] != 0x0A:
            end += 1
        text = str(self.take(end - self.at), "utf-8")
        self.at += 1
        return text

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def remember(self, index: int) -> None:
        """Number the value on top."""
        self.memo[index] = self.stack[-1]


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(read(machine))


def _last(count: int) -> Callable[[_Machine], None]:
    def gather(machine: _Machine) -> None:
        values = [machine.stack.pop() for _ in range(count)]
        machine.stack.append(tuple(values[::-1]))

    return gather


def _set_items(machine: _Machine) -> None:
    values = machine.since_mark()
    if not all(isinstance(key, str) for key in values[::2]):  # the hash of a nested tuple may take for ever
        raise ValueError("a dictionary of other than texts")
    machine.stack[-1].update(dict(zip(values[::2], values[1::2], strict=True)))


def _find_storage(machine: _Machine) -> Storage:
    kind, found, key, _device, numel, *_view = machine.stack.pop()
    if kind != "storage" or not isinstance(found, Global) or not isinstance(key, str) or type(numel) is not int:
        raise ValueError("a storage that is none")
    return Storage(found.name, key, numel)


def _call(machine: _Machine) -> Any:
    arguments, called = machine.stack.pop(), machine.stack.pop()
    if called == Global(_EMPTY) and arguments == ():
        return {}
    if called == Global(_TENSOR) and isinstance(arguments, tuple) and len(arguments) >= 4:
        storage, offset, shape, stride = arguments[:4]
        whole = all(type(number) is int for number in (offset, *shape, *stride))
        if isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(stride, tuple) and whole:
            return Strided(storage, offset, shape, stride)
    raise StoreError(f"expected a tensor and nothing else, found a call of {_name(called)}")


def _name(called: Any) -> str:
    """For a message; the text of a nested tuple may have no end."""
    return repr(called.name[:80]) if isinstance(called, Global) else type(called).__name__


def _always(value: object) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


_STOP = ord(".")
_INSTRUCTIONS: dict[int, Callable[[_Machine], object]] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): lambda m: m.stack.append(_MARK),
    ord("c"): _push(lambda m: Global(f"{m.line()} {m.line()}")),
    0x93: _push(lambda m: Global(" ".join(reversed((m.stack.pop(), m.stack.pop()))))),  # STACK_GLOBAL
    ord("X"): _push(lambda m: m.text("I")),
    0x8C: _push(lambda m: m.text("B")),  # SHORT_BINUNICODE
    ord("J"): _push(lambda m: m.number("i")),
    ord("K"): _push(lambda m: m.number("B")),
    ord("M"): _push(lambda m: m.number("H")),
    0x8A: _push(lambda m: int.from_bytes(m.take(m.number("B")), "little", signed=True)),  # LONG1
    0x88: _always(True),
    0x89: _always(False),
    ord("N"): _always(None),
    ord(")"): _always(()),
    0x85: _last(1),
    0x86: _last(2),
    0x87: _last(3),
    ord("t"): _push(lambda m: tuple(m.since_mark())),
    ord("]"): lambda m: m.stack.append([]),
    ord("}"): lambda m: m.stack.append({}),
    ord("u"): _set_items,
    ord("a"): lambda m: m.stack[-2].append(m.stack.pop()),
    ord("e"): lambda m: (values := m.since_mark(), m.stack[-1].extend(values)),
    ord("q"): lambda m: m.remember(m.number("B")),
    ord("r"): lambda m: m.remember(m.number("I")),
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("h"): _push(lambda m: m.memo[m.number("B")]),
    ord("j"): _push(lambda m: m.memo[m.number("I")]),
    ord("Q"): _push(_find_storage),
    ord("R"): _push(_call),
}
