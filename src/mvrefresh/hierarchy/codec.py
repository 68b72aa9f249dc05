"""What a hierarchy answers with as bytes: small, and read no further than it has to be.

Ancestors begin with the last of them: who has the same last ancestor has all the same, so that
whoever has met it in this content need not read the rest. Their paths are mostly beginnings of
the longest one: numbers of labels then stand for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mvrefresh.cache.tier import Tag
    from mvrefresh.hierarchy.node import Chain

_NOBODY: Final = b"0"
_INTEGER: Final = b"i"
_TEXT: Final = b"t"
_UUID: Final = b"u"
_WIDTH: Final = 8
_LONGEST_TEXT: Final = 2**16
_BIGINT: Final = range(-(2**63), 2**63)


class ChainCodec:
    """Ancestors.

    Args:
        known: Gives those of a content that were met before, by the last of them; it is added to.
    """

    def __init__(self, known: Callable[[Tag | None], dict[Any, Chain]]) -> None:
        self._known = known

    def encode(self, value: Chain) -> bytes | None:
        """None where ids or names are of types that JSON has not, or an id is too long."""
        if not value:
            return _NOBODY
        ids, names = [node.id for node in value], [node.name for node in value]
        head = _head(ids)
        if head is None or not _survives(names):
            return None
        rest = _json([ids, *_paths([node.path for node in value]), names])
        return None if rest is None else head + rest

    def decode(self, data: bytes, tag: Tag) -> Chain:
        """By the last of them if that is known, else all."""
        kind = data[:1]
        if kind == _NOBODY:
            return ()
        known = self._known(tag)
        last: Any
        if kind == _INTEGER:
            last, rest = int.from_bytes(data[1 : 1 + _WIDTH], "little", signed=True), 1 + _WIDTH
        elif kind in (_TEXT, _UUID):
            rest = 3 + int.from_bytes(data[1:3], "little")
            text = data[3:rest].decode()
            last = UUID(text) if kind == _UUID else text
        else:
            raise ValueError(f"ids of kind {kind!r}")
        chain = known.get(last)
        if chain is None:
            ids, paths, names = _read(data[rest:], of_uuids=kind == _UUID)
            _require(bool(ids) and ids[-1] == last and len(ids) == len(paths) == len(names))
            chain = chain_of(ids, paths, names, known)
        return chain


class NodeCodec:
    """A place: path and name. The id is the key's."""

    def encode(self, value: HierarchyNode) -> bytes | None:
        """None where the id or the name is of a type that JSON has not."""
        if not _survives([value.name]) or type(value.id) not in (int, str, UUID):
            return None
        is_uuid = isinstance(value.id, UUID)
        return _json([str(value.id) if is_uuid else value.id, is_uuid, value.path, value.name])

    def decode(self, data: bytes, tag: Tag) -> HierarchyNode:  # noqa: ARG002 - a codec
        """The node."""
        entity, is_uuid, path, name = orjson.loads(data)
        _require(path is None or isinstance(path, str))
        return HierarchyNode(UUID(entity) if is_uuid else entity, path, name)


class CountsCodec:
    """How much lies below."""

    def encode(self, value: HierarchyCounts) -> bytes | None:
        """None never, as the view has it."""
        return _json(list(value))

    def decode(self, data: bytes, tag: Tag) -> HierarchyCounts:  # noqa: ARG002 - a codec
        """The counts."""
        counts = HierarchyCounts(*orjson.loads(data))
        _require(all(isinstance(each, int) for each in counts[:4]))
        return counts


def _head(ids: Sequence[Any]) -> bytes | None:
    """Of which kind the ids are, and the last of them; None where they cannot be written."""
    last = ids[-1]
    if any(type(each) is not type(last) for each in ids):
        return None
    if type(last) is int:
        fits = all(each in _BIGINT for each in ids)
        return _INTEGER + last.to_bytes(_WIDTH, "little", signed=True) if fits else None
    kind = {str: _TEXT, UUID: _UUID}.get(type(last))
    text = str(last).encode()
    if kind is None or len(text) >= _LONGEST_TEXT:
        return None
    return kind + len(text).to_bytes(2, "little") + text


def _json(value: object) -> bytes | None:
    try:
        data: bytes = orjson.dumps(value)
    except TypeError:
        return None
    return data


def _survives(names: Sequence[object]) -> bool:
    """Whether they come back from JSON as they went in."""
    return all(name is None or type(name) in (str, int, float, bool) for name in names)


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError("the fields are not those of such a value")


def _paths(paths: Sequence[str | None]) -> tuple[str | None, list[Any]]:
    """The longest, and of each how many of its labels it has; or each as it is."""
    longest = paths[-1]
    if longest is not None and all(path and f"{longest}.".startswith(f"{path}.") for path in paths):
        return longest, [path.count(".") + 1 for path in paths if path]
    return None, list(paths)


def _read(data: bytes, *, of_uuids: bool) -> tuple[list[Any], list[Any], list[Any]]:
    ids, longest, paths, names = orjson.loads(data)
    if of_uuids:
        ids = [UUID(each) for each in ids]
    if longest is not None:
        labels = longest.split(".")
        paths = [".".join(labels[:count]) for count in paths]
    return ids, paths, names
