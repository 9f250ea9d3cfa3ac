"""``vedcore export MODEL FOLDER --to jax``: the blob of greedy search, beside the graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vedcore import UsageError
from vedcore.export import OPERATIONS, Exporter, Graphs

__all__ = ["JaxExporter"]


class JaxExporter(Exporter):
    """Writes ``generate.stablehlo``; what else JAX needs is in the graphs."""

    needs: ClassVar[tuple[str, ...]] = ("jax", "flax", "flatbuffers")
    install: ClassVar[str] = "pip install vedcore-jax"
    operations: ClassVar[frozenset[str] | None] = frozenset(OPERATIONS)
    runtime: ClassVar[str] = "vedcore_jax.runtime:JaxRuntime"

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        """Add the blob to ``folder``.

        Args:
            folder: with the graphs and the weights.
            graphs: those.
            options: ``max_new_tokens`` of the blob's texts; see `vedcore_jax.blob.write_blob`.

        Raises:
            UsageError: an unknown option.
        """
        for name in options:
            if name != "max_new_tokens":
                raise UsageError("unknown option", field=name, hint="options: max_new_tokens")
        from vedcore_jax.blob import BLOB, write_blob
        from vedcore_jax.model import load

        if None not in graphs.image:
            write_blob(load(folder), folder / BLOB, **options)
