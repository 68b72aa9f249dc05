"""What a hierarchy answers with as bytes: small, and read no further than it has to be.

Of ancestors, the paths are mostly beginnings of the longest one: where they end stands for them
then. Who has the same last ancestor has all the same, and the same bytes.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from mvrefresh.hierarchy.node import HierarchyCounts, HierarchyNode, base_of, grown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mvrefresh.cache.tier import Tag
    from mvrefresh.hierarchy.node import Chain

_NOBODY: Final = b"0"
_ID_KINDS: Final = (int, str, UUID)


class ChainCodec:
    """Ancestors.

    Args:
        known: Gives those of a content that were met before, by the last of them; it is added to.
    """

    def __init__(self, known: Callable[[Tag | None], dict[Any, Chain]]) -> None:
        self._known = known

    def encode(self, value: Chain) -> bytes | None:
        """None where ids or names are of types that JSON has not."""
        if not value:
            return _NOBODY
        ids, names = [node.id for node in value], [node.name for node in value]
        kind = type(ids[-1])
        if kind not in _ID_KINDS or set(map(type, ids)) != {kind} or not _survives(names):
            return None
        are_uuids = kind is UUID
        texts = list(map(str, ids)) if are_uuids else ids
        return _json([are_uuids, texts, *_paths([node.path for node in value]), names])

    def decode(self, data: bytes, tag: Tag) -> Chain:
        """Only what is not known yet is made."""
        if data == _NOBODY:
            return ()
        are_uuids, ids, longest, paths, names = orjson.loads(data)
        _require(bool(ids) and len(ids) == len(paths) == len(names))
        if are_uuids:
            ids = list(map(UUID, ids))
        known = self._known(tag)
        count, base = base_of(ids, known)
        if longest is not None:
            paths[count:] = [longest[:end] for end in paths[count:]]
        return grown(base, ids[count:], paths[count:], names[count:], known)


class NodeCodec:
    """A place: path and name. The id is the key's."""

    def encode(self, value: HierarchyNode) -> bytes | None:
        """None where the id or the name is of a type that JSON has not."""
        if not _survives([value.name]) or type(value.id) not in _ID_KINDS:
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


def _json(value: object) -> bytes | None:
    try:
        data: bytes = orjson.dumps(value)
    except TypeError:
        return None
    return data


def _survives(names: Sequence[object]) -> bool:
    """Whether they come back from JSON as they went in."""
    return all(
        name is None or type(name) in (str, int, bool) or (type(name) is float and isfinite(name))
        for name in names
    )


def _require(fits: bool) -> None:
    if not fits:
        raise ValueError("the fields are not those of such a value")


def _paths(paths: Sequence[str | None]) -> tuple[str | None, list[Any]]:
    """The longest, and where in it each of them ends; or none, and each as it is."""
    longest = paths[-1]
    if longest is not None and all(path and f"{longest}.".startswith(f"{path}.") for path in paths):
        return longest, [len(path) for path in paths if path]
    return None, list(paths)
