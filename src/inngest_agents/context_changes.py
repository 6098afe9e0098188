"""What has changed in an object between two moments, as JSON, and how to change an equal object in the same way.

An object is looked at part by part: the keys of dicts, the attributes of dataclasses, pydantic models and plain
objects, and lists, sets and other values of `inngest_agents.memos.codec` as wholes. Plain objects inside another are
looked at only if they come from the same package as the outermost one and hold nothing but such values: the inside of
a lock or a client is nobody's business. What cannot be looked at is told apart by identity, so that a change can at
least be warned about.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import marshal
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias

import pydantic

from inngest_agents.memos import codec
from inngest_agents.memos.sameness import is_dataclass, own_attributes

_TRIES: Final = 5
_CODE: Final = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_WHOLES: Final = (list, tuple, set, frozenset, bytes)
MAX_DEPTH: Final = 12
MAX_ATTRIBUTES: Final = 200
SHORT: Final = 64
"""A stored value of up to this many characters stands for itself where only equality matters; others are hashed."""

Path: TypeAlias = tuple[str, ...]


class Leaf:
    """A value that is stored as a whole; what it is as JSON is only made if it differs."""

    __slots__ = ("_stored", "packed")

    def __init__(self, stored: Any = None, *, packed: bytes | None = None) -> None:
        self._stored = stored
        self.packed = packed

    @property
    def stored(self) -> Any:
        """The value as JSON."""
        if self.packed is not None:
            self._stored, self.packed = codec.encode(marshal.loads(self.packed)), None  # noqa: S302  made here
        return self._stored


class Branch:
    """A value that is looked at part by part; the parts of plain data only if it differs."""

    __slots__ = ("_parts", "kind", "packed", "unpack")

    def __init__(self, kind: type[Any], parts: dict[str, Picture] | None = None) -> None:
        self.kind = kind
        self._parts = parts
        self.packed: bytes | None = None
        self.unpack: Callable[[Any], dict[str, Picture]] | None = None

    @property
    def parts(self) -> dict[str, Picture]:
        """The parts by their names; who asks may change them."""
        if self._parts is None:
            assert self.packed is not None
            assert self.unpack is not None
            self._parts = self.unpack(marshal.loads(self.packed))  # noqa: S302  made here
        self.packed = None
        return self._parts


@dataclasses.dataclass(slots=True)
class Opaque:
    """A value that cannot be stored: only its identity and length are known."""

    mark: tuple[int, int]


Picture: TypeAlias = "Leaf | Branch | Opaque"


@dataclasses.dataclass(slots=True)
class Change:
    """One change of one part."""

    how: Literal["set", "add", "del"]
    """"add": the part is a list and got more items at its end."""
    path: Path
    before: str
    """The mark of the value before; see `mark`."""
    stored: Any = None
    """The new value, or the items that were added."""
    length: int = 0
    """The length of a list before."""

    @property
    def after(self) -> str:
        """The mark of the value after; "+" of a list that got more items."""
        return MISSING if self.how == "del" else mark(Leaf(self.stored)) if self.how == "set" else "+"

    def to_json(self) -> list[Any]:
        """The change as JSON."""
        return [self.how, list(self.path), self.before, self.stored, self.length]

    @classmethod
    def from_json(cls, value: list[Any]) -> Change:
        """The change that `to_json` stored."""
        how, path, before, stored, length = value
        return cls(how, tuple(path), before, stored, length)


MISSING: Final = "-"


def mark(picture: Picture | None) -> str:
    """A short text that is equal for equal values."""
    if picture is None:
        return MISSING
    if isinstance(picture, Leaf):
        text = json.dumps(picture.stored, sort_keys=True)
        if 'set", "value": [' in text:
            text = json.dumps(_with_sorted_sets(picture.stored), sort_keys=True)
        return text if len(text) <= SHORT else "#" + hashlib.sha256(text.encode()).hexdigest()[:20]
    return "?" if isinstance(picture, Opaque) else "{}"


def _with_sorted_sets(stored: Any) -> Any:
    """JSON of the codec in which equal sets are equal: their order differs from process to process."""
    if isinstance(stored, list):
        return [_with_sorted_sets(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    made = {key: _with_sorted_sets(item) for key, item in stored.items()}
    if made.get(codec.TYPE_KEY) in ("set", "frozenset"):
        made["value"].sort(key=lambda item: json.dumps(item, sort_keys=True))
    return made


def take(value: Any) -> Picture:
    """What an object is like now.

    Raises:
        RuntimeError: other threads change its dicts all the time.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(RuntimeError):  # a synchronous tool works in a thread of its own
            return _take(value, _package(value), (), is_root=True)
    return _take(value, _package(value), (), is_root=True)


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _take(value: Any, package: str, outer: tuple[int, ...], *, is_root: bool = False) -> Picture:
    if value is None or type(value) in (bool, int, float, str):
        return Leaf(value)
    packed = None if is_root else _pack(value)
    if packed is not None and type(value) is list:
        return Leaf(packed=packed)
    if len(outer) < MAX_DEPTH and id(value) not in outer:
        inner = (*outer, id(value))
        if packed is not None:
            branch = Branch(dict)
            branch.packed = packed
            branch.unpack = lambda known: {key: _take(item, package, inner) for key, item in known.items()}
            return branch
        if isinstance(value, dict):
            items = list(value.items())
            if all(type(key) is str for key, _ in items):
                return Branch(type(value), {key: _take(item, package, inner) for key, item in items})
        elif _has_fields(value) or (is_root and not isinstance(value, _WHOLES)):
            return Branch(type(value), {key: _take(item, package, inner) for key, item in attributes(value)})
        elif _package(value) == package and package != "builtins" and not isinstance(value, _CODE):
            parts = {key: _take(item, package, inner) for key, item in attributes(value)}
            if not any(_has_opaque(part) for part in parts.values()):
                return Branch(type(value), parts)
    stored = codec.encode(value)
    if codec.is_text(stored):
        return Opaque((id(value), len(value) if hasattr(value, "__len__") else -1))
    return Leaf(stored)


def _pack(value: Any) -> bytes | None:
    """Plain data as bytes, in a tenth of the time that its JSON takes; None for anything else.

    Equal bytes are equal data (not the other way round: the order of a dict is in them).
    """
    if type(value) is not list and not (type(value) is dict and all(type(key) is str for key in value)):
        return None
    try:
        return marshal.dumps(value, 2)  # version 2 has no references, which would tell of identity
    except ValueError:
        return None


def _has_fields(value: Any) -> bool:
    return isinstance(value, pydantic.BaseModel) or is_dataclass(value)


def _has_opaque(picture: Picture) -> bool:
    if isinstance(picture, Branch):
        return picture.packed is None and any(_has_opaque(part) for part in picture.parts.values())
    return isinstance(picture, Opaque)


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that it keeps itself."""
    found = own_attributes(value)
    if isinstance(value, pydantic.BaseModel):
        found.update(value.__pydantic_extra__ or {})
        found.update(value.__pydantic_private__ or {})
    yield from list(found.items())[:MAX_ATTRIBUTES]


def differences(before: Picture, after: Picture, value: Any) -> tuple[list[Change], list[Path]]:
    """What has changed.

    Args:
        before: what the object was like.
        after: what it is like now.
        value: the object.

    Returns:
        The changes, and the paths of changes that cannot be stored.
    """
    changes: list[Change] = []
    lost: list[Path] = []
    _compare(before, after, value, (), changes, lost)
    return changes, lost


def _compare(
    before: Picture | None, after: Picture, value: Any, path: Path, changes: list[Change], lost: list[Path]
) -> None:
    packed = getattr(before, "packed", None)
    if packed is not None and packed == getattr(after, "packed", None):
        return
    if isinstance(before, Branch) and isinstance(after, Branch) and before.kind is after.kind:
        for name, part in after.parts.items():
            _compare(before.parts.get(name), part, get_part(value, name), (*path, name), changes, lost)
        changes.extend(
            Change("del", (*path, name), mark(part)) for name, part in before.parts.items() if name not in after.parts
        )
        return
    if _equal(before, after):
        return
    if isinstance(before, Leaf) and isinstance(after, Leaf):
        old, new = before.stored, after.stored
        if codec.is_text(new):
            lost.append(path)
        elif isinstance(old, list) and isinstance(new, list) and _begins_with(new, old):
            changes.append(Change("add", path, mark(before), new[len(old) :], len(old)))
        else:
            changes.append(Change("set", path, mark(before), new))
        return
    stored = after.stored if isinstance(after, Leaf) else codec.encode(value)
    if isinstance(after, Opaque) or codec.is_text(stored):
        lost.append(path)
    else:
        changes.append(Change("set", path, mark(before), stored))


def _equal(before: Picture | None, after: Picture) -> bool:
    """Whether two pictures without parts are equal, in type as well: 1 is not True."""
    if not isinstance(before, Leaf) or not isinstance(after, Leaf):
        return isinstance(before, Opaque) and before == after
    old, new = before.stored, after.stored
    return type(old) is type(new) and old == new and (not isinstance(old, (list, dict)) or mark(before) == mark(after))


def _begins_with(new: list[Any], old: list[Any]) -> bool:
    return new[: len(old)] == old and mark(Leaf(new[: len(old)])) == mark(Leaf(old))  # 1 is not True


def get_part(value: Any, name: str) -> Any:
    """A part of an object by its name in a path.

    Raises:
        LookupError: there is none.
    """
    if isinstance(value, dict):
        return value[name]
    try:
        return getattr(value, name)
    except AttributeError:
        raise LookupError(name) from None


def find(root: Any, path: Path) -> Any:
    """The value at a path.

    Raises:
        LookupError: there is none.
    """
    for name in path:
        root = get_part(root, name)
    return root


def look(root: Any, path: Path) -> Picture | None:
    """What the value at a path is like; None if there is none."""
    try:
        value = find(root, path)
    except LookupError:
        return None
    return _take(value, _package(root), (), is_root=not path)


def graft(picture: Picture, path: Path, part: Picture | None) -> None:
    """Let a picture of the outermost object show another part at a path."""
    for name in path[:-1]:
        inner = picture.parts.get(name) if isinstance(picture, Branch) else None
        if inner is None:
            return
        picture = inner
    if isinstance(picture, Branch) and path:
        if part is None:
            picture.parts.pop(path[-1], None)
        else:
            picture.parts[path[-1]] = part


def put(root: Any, path: Path, value: Any) -> None:
    """Put a value at a path; a list, a set or a dict that is there stays the object that it is.

    Raises:
        LookupError: the object around it is not there.
        TypeError: the outermost object itself would have to be another one.
    """
    try:
        current = find(root, path)
    except LookupError:
        current = None
    if isinstance(current, list) and isinstance(value, list):
        current[:] = value
    elif (isinstance(current, set) and isinstance(value, set)) or (
        isinstance(current, dict) and type(current) is type(value)
    ):
        current.clear()
        current.update(value)
    elif not path:
        raise TypeError(f"a {type(root).__name__} cannot be changed in place into {value!r}")
    else:
        _put_part(find(root, path[:-1]), path[-1], value)


def _put_part(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
        return
    try:
        setattr(owner, name, value)
    except (AttributeError, TypeError, ValueError):  # frozen, or validated against what the step set past the check
        object.__setattr__(owner, name, value)


def remove(root: Any, path: Path) -> None:
    """Remove the part at a path, if it is there."""
    try:
        owner = find(root, path[:-1])
    except LookupError:
        return
    if isinstance(owner, dict):
        owner.pop(path[-1], None)
    elif hasattr(owner, path[-1]):
        delattr(owner, path[-1])
