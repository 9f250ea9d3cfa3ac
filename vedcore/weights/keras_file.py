"""Keras 2's ``tf_model.h5``: datasets of HDF5 in groups; h5py finds where they lie, and does not read them.

The file has a group for each layer, marked by an attribute ``weight_names``; the path of a dataset below it is the
weight's name. The shards of transformers have no such groups: there the whole path is the name, mostly without its
first component, the model's scope.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from vedcore.config_files.plain import short
from vedcore.errors import CheckpointCorruptError, CheckpointLimitError, CheckpointUnsafeError
from vedcore.extras import need
from vedcore.weights.array_file import StoredArray, check_count, corrupt
from vedcore.weights.snapshot import FILE_AGAIN_HINT

__all__ = ["read_keras"]

MAX_DEPTH = 32
"""Groups within groups."""
_LAYER = ("weight_names", "weight_names0")
"""Attributes of a layer's group; the second is that of a list in pieces."""


def read_keras(file: io.FileIO, size: int) -> Iterator[StoredArray]:
    """The arrays of an opened file of ``size`` bytes; no link is followed.

    Raises:
        CheckpointCorruptError: not HDF5, truncated, or datasets that no Keras writes.
        CheckpointUnsafeError: a link, or values in another file.
        CheckpointLimitError: too many arrays, or groups that nest too deeply.
        MissingExtraError: h5py is not installed.
    """
    h5py: Any = need("h5py", "legacy", "a file of TensorFlow")
    try:
        file.seek(0)
        with h5py.File(file, "r") as opened:
            found = list(_Walk(h5py).of(opened))
    except (CheckpointCorruptError, CheckpointUnsafeError, CheckpointLimitError):
        raise
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise corrupt(f"not HDF5 as Keras writes it, or truncated: {short(reason)}") from None
    yield from found


class _Walk:
    """The datasets below a group, without following a link that leads elsewhere."""

    def __init__(self, h5py: Any) -> None:
        self._h5py = h5py
        self._count = 0

    def of(self, root: Any) -> Iterator[StoredArray]:
        """The datasets of a file."""
        for name, node in self._nodes(root, ""):
            is_layer = isinstance(node, self._h5py.Group) and any(each in node.attrs for each in _LAYER)
            yield from self._below(node, "" if is_layer else name, 1, "" if is_layer else "/")

    def _below(self, node: Any, name: str, depth: int, scope: str) -> Iterator[StoredArray]:
        """The datasets at ``name``, which ``scope`` precedes where transformers has left it out."""
        if isinstance(node, self._h5py.Dataset):
            yield self._array(node, name if "model." in name else scope + name)
            return
        if depth > MAX_DEPTH:
            raise CheckpointLimitError(f"more than {MAX_DEPTH} groups in each other", hint=FILE_AGAIN_HINT)
        for key, inner in self._nodes(node, name):
            yield from self._below(inner, f"{name}/{key}" if name else key, depth + 1, scope)

    def _nodes(self, group: Any, name: str) -> Iterator[tuple[str, Any]]:
        """The groups and datasets in a group, by name."""
        self._count += len(group)
        check_count(self._count)
        for key in group:
            path = f"{name}/{key}" if name else key
            if not isinstance(group.get(key, getlink=True), self._h5py.HardLink):
                raise CheckpointUnsafeError("a link, not an array", field=short(path), hint=FILE_AGAIN_HINT)
            node = group[key]
            if not isinstance(node, (self._h5py.Group, self._h5py.Dataset)):
                raise corrupt("neither a group nor a dataset", path)
            yield key, node

    def _array(self, node: Any, name: str) -> StoredArray:
        created = node.id.get_create_plist()
        if created.get_external_count() or created.get_layout() == self._h5py.h5d.VIRTUAL:
            raise CheckpointUnsafeError("its values are in another file", field=short(name), hint=FILE_AGAIN_HINT)
        start, dtype = node.id.get_offset(), node.dtype
        if created.get_layout() != self._h5py.h5d.CONTIGUOUS or start is None:
            raise corrupt("chunked, compressed or without values, and Keras writes them in one piece", name)
        if not dtype.isnative or not node.id.get_type().equal(self._h5py.h5t.py_create(dtype)):
            raise corrupt(f"its numbers are not plain {dtype.name} of this machine", name)
        return StoredArray(name, dtype.name, node.shape, [(start, start + int(node.id.get_storage_size()))])
