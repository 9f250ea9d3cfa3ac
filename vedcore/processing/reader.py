"""The images of a call, from sources of which some have several pages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from PIL import Image

from vedcore.errors import ImageError
from vedcore.processing.images import MAX_PIXELS, ImageSource, first_page, open_image, path_of, rewound
from vedcore.processing.pages import OpenImage, Pages, check_dpi, page_numbers, parse_pages

__all__ = ["ImageOrigin", "ImageReader"]


@dataclass(frozen=True)
class ImageOrigin:
    """Where an image comes from: a source, or a page of it."""

    source: int
    """Number of the source among those of the call, from 0."""
    page: int | None = None
    """Number of the page, from 1; None where the source has only one."""
    error: ImageError | None = None
    """Why the source cannot be opened; reading raises it."""


class ImageReader:
    """The images of several sources, read one at a time; at most one file is open.

    Args:
        sources: each as `load_image` takes it.
        pages: the pages to read of each source; None reads all.
        first_page_only: without ``pages``, read the first one, with a warning if there are more.
        dpi: as `load_image` takes it.
        max_pixels: limit of an image's width times height.

    Attributes:
        origins: of all images, in order.

    Raises:
        UsageError: ``pages`` or ``dpi`` of another kind.
    """

    def __init__(
        self,
        sources: Iterable[ImageSource],
        *,
        pages: Pages | None = None,
        first_page_only: bool = False,
        dpi: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_dpi(dpi)
        if pages is not None:
            parse_pages(pages)
        self._sources = list(sources)
        self._dpi, self._max_pixels = dpi, max_pixels
        self._files = contextlib.ExitStack()
        self._opened: tuple[int, OpenImage] | None = None
        self.origins: list[ImageOrigin] = []
        for index, source in enumerate(self._sources):
            try:
                count = self._open(index).count
                if pages is None and first_page_only:
                    numbers = first_page(source, count)
                else:
                    numbers = page_numbers(pages, count, path_of(source))
            except ImageError as error:
                self.origins.append(ImageOrigin(index, error=_numbered(error, index)))
            else:
                self.origins += [ImageOrigin(index, number if count > 1 else None) for number in numbers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open, if any."""
        self._opened = None
        self._files.close()

    def read(self, origin: ImageOrigin) -> Image.Image:
        """The image of an origin as `load_image` gives it; errors name the path, or the number of the source."""
        if origin.error is not None:
            raise origin.error
        try:
            return self._open(origin.source).read(origin.page or 1)
        except ImageError as error:
            raise _numbered(error, origin.source) from None

    def _open(self, index: int) -> OpenImage:
        if self._opened is None or self._opened[0] != index:
            self.close()
            source = self._sources[index]
            if hasattr(source, "read"):
                source = self._sources[index] = rewound(source)  # a pipe can be read only once
            self._opened = index, self._files.enter_context(open_image(source, self._dpi, self._max_pixels))
        return self._opened[1]


def _numbered(error: ImageError, index: int) -> ImageError:
    """``error`` with the number of its source in place of a path that it does not have."""
    if error.path is not None:
        return error
    return error.at(None, ", ".join(filter(None, [f"images[{index}]", error.field])))
