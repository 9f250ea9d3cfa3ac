"""``vedcore generate``: images in, texts out."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import click

from vedcore.cli.images import ImageWalk
from vedcore.errors import ImageError, printable

if TYPE_CHECKING:
    from vedcore.model import VisionEncoderDecoder
    from vedcore.outputs import TextResult

__all__ = ["generate"]


def _usable_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        import torch

        try:
            torch.empty(1, device=value).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, or this torch lacks it
            reason = str(error).splitlines()[0][:100]
            raise click.BadParameter(f"{value!r} is no device here: {reason}", ctx, param) from None
    return value


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--max-new-tokens", type=click.IntRange(1), help="Tokens a text may have.")
@click.option("--num-beams", type=click.IntRange(1), help="Beams of the search; 1 is greedy.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images read together.")
@click.option("--device", callback=_usable_device, help="cpu, cuda, cuda:1, ...")
@click.option("--json", "layout", flag_value="json", help="One JSON array.")
@click.option("--jsonl", "layout", flag_value="jsonl", help="One JSON object a line.")
@click.option("--verbose", "-v", is_flag=True, help="Tell each image's confidence and time on stderr.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="File to write instead of stdout.")
def generate(
    model: str, images: tuple[str, ...], batch_size: int, device: str | None, layout: str | None, verbose: bool,
    output: str | None, **options: Any,
) -> int:  # fmt: skip
    """Read or describe IMAGES with MODEL: a folder, or the name of an installed model.

    IMAGES are files, or folders that are walked. Output is the path, a tab and the text, one line an image; of a
    single image file, the text alone. An image that cannot be read is told on stderr, and the exit code is 1.
    """
    from tqdm import tqdm

    import vedcore

    walk = ImageWalk(images)
    paths = list(walk)
    loaded = vedcore.load(model, device=device)
    bare = len(images) == 1 and not os.path.isdir(images[0])
    settings = {key: value for key, value in options.items() if value is not None}
    failed = 0
    with _destination(output) as file, tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None) as progress:
        writer = _Writer(file, layout, bare)
        for at in range(0, len(paths), batch_size):
            batch, start = paths[at : at + batch_size], time.perf_counter()
            results = _read(loaded, batch, settings)
            seconds = (time.perf_counter() - start) / len(batch)
            for path, result in zip(batch, results, strict=True):
                writer.write(path, result, seconds)
                if isinstance(result, ImageError):
                    failed += 1
                    progress.write(f"error: {result}", file=sys.stderr)
                elif verbose or (result.finish_reason == "length" and "max_new_tokens" not in settings):
                    progress.write(f"{printable(path)}: {_told(result, seconds)}", file=sys.stderr)
            progress.update(len(batch))
        writer.finish()
    for line in walk.skipped:
        click.echo(f"skipped: {printable(line)}", err=True)
    if not paths:
        click.echo("error: no images there; name files, or folders that hold some", err=True)
    elif failed or walk.skipped:
        click.echo(f"{len(paths) - failed} read, {failed} failed, {len(walk.skipped)} skipped", err=True)
    return 1 if failed or not paths else 0


def _read(model: VisionEncoderDecoder, paths: list[str], settings: dict[str, Any]) -> list[TextResult | ImageError]:
    """A result for each image; when one of a batch cannot be read, the others are read one by one."""
    try:
        return list(model.generate_text(paths, batch_size=len(paths), **settings))
    except ImageError as error:
        if len(paths) == 1:
            return [error]
        return [result for path in paths for result in _read(model, [path], settings)]


def _told(result: TextResult, seconds: float) -> str:
    cut = ", cut at the length limit" if result.finish_reason == "length" else ""
    return f"confidence {result.confidence:.2%}, {1000 * seconds:.0f} ms{cut}"


@contextlib.contextmanager
def _destination(output: str | None) -> Iterator[IO[str]]:
    """Where results go: stdout, or a file that is put in place once it is complete."""
    if output is None:
        yield sys.stdout
        return
    part = f"{output}.part"
    try:
        with open(part, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        os.replace(part, output)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


class _Writer:
    """Results as text, JSON lines or one JSON array.

    JSON is ASCII: a path that is no valid Unicode keeps its bytes as ``\\udcXX``, which `os.fsencode` turns back.
    """

    def __init__(self, file: IO[str], layout: str | None, bare: bool) -> None:
        self.file, self.layout, self.bare = file, layout, bare
        self.rows: list[dict[str, Any]] = []

    def write(self, path: str, result: TextResult | ImageError, seconds: float) -> None:
        """Write one result, and its share of the time; in text, one that failed is only told on stderr."""
        if isinstance(result, ImageError):
            row: dict[str, Any] = {"image": path, "error": str(result)}
        else:
            row = {"image": path, "text": result.text, "confidence": result.confidence}
            row |= {"finish_reason": result.finish_reason, "seconds": round(seconds, 4)}
        if self.layout == "json":
            self.rows.append(row)
        elif self.layout == "jsonl":
            click.echo(json.dumps(row), file=self.file)
        elif "text" in row:
            text = printable(row["text"])
            click.echo(text if self.bare else f"{printable(path)}\t{text}", file=self.file)

    def finish(self) -> None:
        """Write what was held back."""
        if self.layout == "json":
            click.echo(json.dumps(self.rows, indent=2), file=self.file)
