"""Segmentations in the directory format of Broden."""

import csv
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from symjax.checks import integer, path, sequence, text
from symjax.data.resize import resize
from symjax.dissection.segmented import SegmentedBatch, SegmentedImages
from symjax.errors import InputError

CATEGORIES = ("object", "part", "scene", "texture", "color")
"""Categories of NetDissect-Lite's settings."""


class Broden(SegmentedImages):
    """A folder in Broden's format, which is read batch by batch.

        index.csv     image,split,ih,iw,sh,sw,CATEGORY,...: an image, sizes, and for each category the annotations,
                      separated by semicolons: numbers of concepts of the whole image, or files of segmentations
        label.csv     number,name,category,...: a concept; category has frequencies, as in "object(150);part(3)"
        category.csv  name,...: the categories
        images/       images, and segmentations: PNGs with concept R + 256 G at each pixel, 0 for no concept

    A concept belongs to the category in which it is most frequent. Images without annotations of any of the categories
    are ignored.

    Args:
      folder: the folder of these files, such as broden1_224.
      categories: names of categories; by default those in `CATEGORIES` that the folder has.
      limit: number of images to use, from the first one on; by default all.
      channels: channels of the images: 3, or 1 for gray images.

    Raises:
      InputError: a file is missing or has another format; a category is unknown; segmentations differ in size.

    Reference: Bau et al. 2017 (arXiv 1704.05796), section 2.1.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from PIL import Image
      >>> from symjax.dissection import Broden
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> tables = {
      ...     "category.csv": "name\\ncolor\\n",
      ...     "label.csv": "number,name,category\\n258,red,color(1)\\n",
      ...     "index.csv": "image,split,ih,iw,sh,sw,color\\na.png,train,4,4,2,2,a_color.png\\n",
      ... }
      >>> _ = [(folder / name).write_text(text) for name, text in tables.items()]
      >>> (folder / "images").mkdir()
      >>> Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "images" / "a.png")
      >>> concepts = np.array([[[0, 0, 0], [2, 1, 0]]] * 2, np.uint8)  # 258 = 2 + 256 * 1
      >>> Image.fromarray(concepts).save(folder / "images" / "a_color.png")
      >>> (batch,) = Broden(folder).batches(8)
      >>> batch.masks[0, ..., 0].tolist()
      [[False, True], [False, True]]
    """

    def __init__(self, folder, categories: Sequence[str] | None = None, *, limit: int | None = None, channels: int = 3):
        self.folder, self.channels = path("folder", folder), integer("channels", channels, 1, 3)
        known = [row["name"] for row in self._rows("category.csv", ("name",))]
        names = [name for name in CATEGORIES if name in known] if categories is None else categories
        self.categories = tuple(text("categories", name) for name in sequence("categories", names, "texts"))
        unknown = set(self.categories) - set(known)
        if unknown or not self.categories:
            given = ", ".join(sorted(unknown)) or "none"
            raise InputError(f"categories: got {given}, expected some of {', '.join(known)}")
        frequencies: dict[int, tuple[str, dict[str, float]]] = {}
        for row in self._rows("label.csv", ("number", "name", "category")):
            counts = re.findall(r"([^;()]+)\(([0-9.]+)\)", row["category"])
            of_concept = {name: float(count) for name, count in counts if name in self.categories}
            if of_concept:
                frequencies[self._number(row["number"], "label.csv")] = row["name"], of_concept
        if not frequencies:
            raise InputError(
                f"folder: got {self.folder}/label.csv without concepts, expected some of {', '.join(self.categories)}"
            )
        self._position = {number: position for position, number in enumerate(frequencies)}
        self.names = tuple(name for name, _ in frequencies.values())
        best = [max(of_concept, key=lambda name: of_concept[name]) for _, of_concept in frequencies.values()]
        self.category = np.array([self.categories.index(name) for name in best])
        rows = self._rows("index.csv", ("image", "sh", "sw", *self.categories))
        rows = [row for row in rows if any(row[name] for name in self.categories)]
        self._index = rows if limit is None else rows[: integer("limit", limit, 1)]
        sizes = {(row["sh"], row["sw"]) for row in self._index}
        if len(sizes) != 1:
            raise InputError(
                f"folder: got {len(sizes)} sizes of segmentations in {self.folder}/index.csv, expected one"
            )
        height, width = sizes.pop()
        self.size = self._number(height, "index.csv"), self._number(width, "index.csv")

    def __len__(self) -> int:
        return len(self._index)

    def batches(self, batch_size: int, image_size: int | None = None) -> Iterator[SegmentedBatch]:
        batch_size = integer("batch_size", batch_size, 1)
        for start in range(0, len(self), batch_size):
            rows = self._index[start : start + batch_size]
            maps_of_rows = [self._concept_maps(row) for row in rows]
            numbers = sorted(
                {number for maps in maps_of_rows for layer in maps for number in np.unique(layer).tolist()}
            )
            concepts = [number for number in numbers if number in self._position]
            masks = np.zeros((len(rows), *self.size, len(concepts)), bool)
            for mask, maps in zip(masks, maps_of_rows, strict=True):
                for layer in maps:
                    mask |= layer[..., None] == np.array(concepts, int)
            positions = np.array([self._position[number] for number in concepts], int)
            annotated = np.array([[bool(row[name]) for name in self.categories] for row in rows])
            # Pixels of a concept that is annotated in several categories count if its own category is annotated.
            masks &= annotated[:, None, None, self.category[positions]]
            yield SegmentedBatch(self._images(rows, image_size), masks, positions, annotated)

    def _concept_maps(self, row: dict[str, str]) -> list[np.ndarray]:
        """Return the number of the concept at each pixel (mask height, mask width), for each annotation of an image."""
        maps = []
        for entry in ";".join(row[name] for name in self.categories).split(";"):
            if entry.isdigit():
                maps.append(np.full(self.size, int(entry)))
            elif entry:
                image = self._read(entry, "RGB").astype(int)
                if image.shape[:2] != self.size:
                    raise InputError(
                        f"folder: got {entry} of size {image.shape[:2]}, expected {self.size} as in index.csv"
                    )
                maps.append(image[..., 0] + 256 * image[..., 1])
        return maps

    def _images(self, rows: list[dict[str, str]], image_size: int | None) -> np.ndarray:
        images = [self._read(row["image"], "L" if self.channels == 1 else "RGB") for row in rows]
        images = [image.reshape(*image.shape[:2], -1) for image in images]
        images = images if image_size is None else [resize(image[None], image_size)[0] for image in images]
        if len({image.shape for image in images}) > 1:
            raise InputError("image_size: got none for images of several sizes, expected one")
        return np.stack(images)

    def _read(self, name: str, mode: str) -> np.ndarray:
        from PIL import Image

        file = self.folder / "images" / name
        try:
            with Image.open(file) as image:
                return np.asarray(image.convert(mode))
        except OSError as error:
            raise InputError(f"folder: got {file}, which cannot be read ({error}), expected an image") from None

    def _rows(self, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
        file = pathlib.Path(self.folder, name)
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"folder: got {file}, which cannot be read ({error}), expected a table of Broden"
            ) from None
        if not rows or any(row.get(column) is None for row in rows for column in columns):
            raise InputError(
                f"folder: got {file} without rows or some columns, expected the columns {', '.join(columns)}"
            )
        return rows

    def _number(self, value: Any, name: str) -> int:
        if not value.isdigit():
            raise InputError(f"folder: got {value!r} in {self.folder}/{name}, expected a number")
        return int(value)
