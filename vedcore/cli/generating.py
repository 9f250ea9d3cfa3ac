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

from vedcore.cli.generation_options import generation_options, generation_settings
from vedcore.cli.images import ImageWalk
from vedcore.errors import GenerationError, printable

if TYPE_CHECKING:
    from vedcore.outputs import TextResult

__all__ = ["generate"]


def _check_pages(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        from vedcore.processing.pages import parse_pages

        parse_pages(value)
    return value


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--pages", metavar="PAGES", callback=_check_pages, help="Pages of TIFFs and PDFs to read, such as 1-3,7-."
)
@click.option("--dpi", type=click.FloatRange(0, min_open=True), help="Pixels an inch of a PDF's pages.  [default: 200]")
@generation_options
@click.option("--keep-special-tokens", is_flag=True, help="Leave special tokens in the texts.")
@click.option("--stream", is_flag=True, help="Write the text of one image while it is generated.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images read together.")
@click.option("--json", "layout", flag_value="json", help="One JSON array.")
@click.option("--jsonl", "layout", flag_value="jsonl", help="One JSON object a line.")
@click.option("--verbose", "-v", is_flag=True, help="Write each image's confidence and time to stderr.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="File to write instead of stdout.")
def generate(
    model: str,
    images: tuple[str, ...],
    pages: str | None,
    dpi: float | None,
    keep_special_tokens: bool,
    overrides: tuple[str, ...],
    stream: bool,
    batch_size: int,
    device: str | None,
    layout: str | None,
    verbose: bool,
    output: str | None,
    **options: Any,
) -> int:
    """Read or describe IMAGES with MODEL: a folder, or the name of an installed model.

    IMAGES are files, or folders, whose subfolders are searched too. The output has one line an image: the path, a tab
    and the text. Each page of a TIFF or PDF is an image; the number of the page stands behind the path. For a single
    file it is the text alone. An image that cannot be read is an error on stderr, and the exit code is then 1.
    """
    from tqdm import tqdm

    import vedcore

    settings = generation_settings(options, overrides)
    settings |= {"pages": pages, "dpi": dpi, "skip_special_tokens": not keep_special_tokens}
    bare = len(images) == 1 and not os.path.isdir(images[0])
    if stream and (layout or verbose or not bare):
        raise click.UsageError("--stream writes the text of one image file: give one, without --json, --jsonl or -v")
    walk = ImageWalk(images)
    paths = list(walk)
    loaded = vedcore.load(model, device=device)
    if stream:
        with _destination(output) as file:
            for text in loaded.stream(images[0], **settings):
                click.echo(printable(text), file=file, nl=False)
            click.echo(file=file)
        return 0
    read: set[tuple[int, int | None]] = set()
    failed: set[tuple[int, int | None]] = set()
    with _destination(output) as file, tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None) as progress:
        writer = _ResultWriter(file, layout, bare)
        for at in range(0, len(paths), batch_size):
            batch, start = paths[at : at + batch_size], time.perf_counter()
            results = loaded.generate_text(batch, batch_size=batch_size, on_error="return", **settings)
            if all(
                isinstance(result.error, GenerationError) for result in results
            ):  # the model's or the options' fault
                loaded.generate_text(batch, batch_size=batch_size, **settings)
            seconds = (time.perf_counter() - start) / len({(result.source, result.page) for result in results})
            for result in results:
                path = batch[result.source]
                writer.write(path, result, seconds)
                (read if result.error is None else failed).add((at + result.source, result.page))
                if result.error is not None:
                    where = "" if result.error.path else f"{_place(path, result)}: "
                    progress.write(f"error: {where}{result.error}", file=sys.stderr)
                elif verbose or (result.finish_reason == "length" and "max_new_tokens" not in settings):
                    progress.write(f"{_place(path, result)}: {_summary(result, seconds)}", file=sys.stderr)
            progress.update(len(batch))
        writer.finish()
    for line in walk.skipped:
        click.echo(f"skipped: {printable(line)}", err=True)
    if not paths:
        click.echo("error: no images found; name image files, or folders that contain some", err=True)
    elif failed or walk.skipped:
        click.echo(f"{len(read)} read, {len(failed)} failed, {len(walk.skipped)} skipped", err=True)
    return 1 if failed or not paths else 0


def _place(path: str, result: TextResult) -> str:
    """The path, and the page of a file of several."""
    return printable(path) + ("" if result.page is None else f", page {result.page}")


def _summary(result: TextResult, seconds: float) -> str:
    cut = ", cut at the length limit" if result.finish_reason == "length" else ""
    return f"confidence {result.confidence:.2%}, {1000 * seconds:.0f} ms{cut}"


@contextlib.contextmanager
def _destination(output: str | None) -> Iterator[IO[str]]:
    """Open the output: stdout, or a file that gets its final name once it is complete."""
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


class _ResultWriter:
    """Writes results as text, JSON lines or one JSON array.

    JSON is ASCII: a path that is not valid Unicode keeps its bytes as ``\\udcXX``, which `os.fsencode` turns back.
    """

    def __init__(self, file: IO[str], layout: str | None, bare: bool) -> None:
        self.file, self.layout, self.bare = file, layout, bare
        self.rows: list[dict[str, Any]] = []

    def write(self, path: str, result: TextResult, seconds: float) -> None:
        """Write one result and its share of the batch's time; in text layout, skip an error."""
        row: dict[str, Any] = {"image": path} if result.page is None else {"image": path, "page": result.page}
        if result.error is not None:
            row["error"] = str(result.error)
        else:
            row |= {"text": result.text, "confidence": result.confidence}
            row |= {"finish_reason": result.finish_reason, "seconds": round(seconds, 4)}
        if self.layout == "json":
            self.rows.append(row)
        elif self.layout == "jsonl":
            click.echo(json.dumps(row), file=self.file)
        elif "text" in row:
            text = printable(row["text"])
            click.echo(text if self.bare else f"{_place(path, result)}\t{text}", file=self.file)

    def finish(self) -> None:
        """Write the JSON array, which needs all results."""
        if self.layout == "json":
            click.echo(json.dumps(self.rows, indent=2), file=self.file)
