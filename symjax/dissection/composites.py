"""Images composed of digits, strokes, colors and textures, with the exact mask of each concept."""

import numpy as np

from symjax.checks import integer, one_of
from symjax.data.dataset import Source, Split
from symjax.data.digits import read_digits
from symjax.data.resize import resize
from symjax.dissection.segmented import SegmentedArrays

SIZE = 24
HALF = SIZE // 2
INK = 96  # least gray value of a pixel of a digit that is ink
COLORS = {"red": (230, 40, 40), "green": (40, 210, 60), "blue": (50, 70, 240), "yellow": (235, 215, 40)}
GRAYS = (50, 110)  # mean gray values of a background
STROKE = 245  # gray value of a stroke
TRAIN, TEST = 3000, 1000  # number of images
MAX_COUNT = 20_000  # largest number of images; the masks of each take 16 kB

_down, _right = np.mgrid[:SIZE, :SIZE]
TEXTURES = {
    "rows": _down % 4 < 2,
    "columns": _right % 4 < 2,
    "checks": (_down // 3 + _right // 3) % 2 == 0,
    "dots": (_down % 4 == 1) & (_right % 4 == 1),
    "plain": np.zeros((SIZE, SIZE), bool),
}
_row, _column = np.mgrid[:HALF, :HALF] - (HALF - 1) / 2
_inside = np.maximum(abs(_row), abs(_column)) < HALF / 2 - 1
STROKES = {
    "horizontal": _inside & (abs(_row) < 1),
    "vertical": _inside & (abs(_column) < 1),
    "falling": _inside & (abs(_row - _column) < 1.5),
    "rising": _inside & (abs(_row + _column) < 1.5),
}
QUADRANTS = ("upper left", "upper right", "lower left", "lower right")
CONCEPTS = {
    **{f"digit {digit}": "digit" for digit in range(10)},
    **{f"{color} ink": "color" for color in COLORS},
    **{f"{texture} background": "texture" for texture in TEXTURES},
    **{f"{stroke} stroke": "stroke" for stroke in STROKES},
    **{f"digit {quadrant}": "quadrant" for quadrant in QUADRANTS},
}


def composites(part: str = "test", count: int = TEST, seed: int = 0) -> tuple[SegmentedArrays, np.ndarray]:
    """Return composed images with the masks of 27 concepts, and their digits as classes.

    An image (24 x 24, three channels) has a background texture of two grays, one of scikit-learn's digits in colored
    ink in one quadrant, and a light stroke in another quadrant. It has one concept of each of five categories:

    * digit, its class, and color, that of its ink; the pixels of both are the ink.
    * texture, that of the background; its pixels are the background, without ink and stroke.
    * stroke, its orientation; its pixels are the stroke.
    * quadrant, the one with the digit; its pixels are the whole quadrant.

    Args:
      part: "train" or "test": the part of scikit-learn's digits. No digit occurs in both parts.
      count: number of images.
      seed: seed of the random choices; equal arguments give equal images.

    Returns:
      (images, classes): `SegmentedArrays`, and an int32 array (count,).

    Raises:
      InputError: `part` is unknown, or `count` or `seed` is out of range.

    Example:
      >>> from symjax.dissection import composites
      >>> images, digits = composites("test", 3)
      >>> images.images.shape, images.masks.shape, images.categories
      ((3, 24, 24, 3), (3, 24, 24, 27), ('digit', 'color', 'texture', 'stroke', 'quadrant'))
    """
    images, classes, concepts = _compose(part, count, seed)
    masks = [mask[..., None] & (which[:, None, None, None] == np.arange(n)) for mask, which, n in concepts]
    segmented = SegmentedArrays(images, np.concatenate(masks, axis=-1), list(CONCEPTS), list(CONCEPTS.values()))
    return segmented, classes


def _compose(part: str, count: int, seed: int):
    """Return images, classes, and for each category the masks, the concept of each image and the number of concepts."""
    one_of("part", part, ("train", "test"))
    count, seed = integer("count", count, 1, MAX_COUNT), integer("seed", seed, 0, 2**32 - 1)
    digits = getattr(read_digits(HALF), part)
    rng = np.random.default_rng([seed, part == "train"])
    chosen = rng.integers(0, len(digits), count)
    classes = digits.labels[chosen]
    draws = {
        name: rng.integers(0, n, count) for name, n in (("color", 4), ("texture", 5), ("stroke", 4), ("quadrant", 4))
    }
    stroke_quadrant = (draws["quadrant"] + rng.integers(1, 4, count)) % 4
    ink = _placed(digits.images[chosen, ..., 0] >= INK, draws["quadrant"])
    stroke = _placed(np.array(list(STROKES.values()))[draws["stroke"]], stroke_quadrant)
    background = ~(ink | stroke)
    quadrants = _placed(np.ones((count, HALF, HALF), bool), draws["quadrant"])

    grays = rng.integers(-15, 16, (count, 2)) + np.array(GRAYS)
    pattern = np.array(list(TEXTURES.values()))[draws["texture"]]
    images = np.repeat(np.where(pattern, grays[:, 1, None, None], grays[:, 0, None, None])[..., None], 3, axis=-1)
    colors = np.array(list(COLORS.values()))[draws["color"]][:, None, None]
    images = np.where(ink[..., None], colors, np.where(stroke[..., None], STROKE, images))
    images = np.clip(images + rng.normal(0, 6, images.shape), 0, 255).astype(np.uint8)

    concepts = (
        (ink, classes, 10),
        (ink, draws["color"], len(COLORS)),
        (background, draws["texture"], len(TEXTURES)),
        (stroke, draws["stroke"], len(STROKES)),
        (quadrants, draws["quadrant"], len(QUADRANTS)),
    )
    return images, classes, concepts


def load_composites(image_size: int | None = None, seed: int = 0) -> Source:
    """Return the composites as a data set of ten classes: `--dataset symjax.dissection:load_composites`.

    Args:
      image_size: height and width to which images are resized; 24 by default.
      seed: seed of the 3,000 training images and the 1,000 test images.

    Raises:
      InputError: an argument is out of range.

    Example:
      >>> from symjax import data
      >>> data.load("symjax.dissection:load_composites").num_classes
      10
    """
    if image_size is not None:
        integer("image_size", image_size, 1, 4096)

    def split(part: str, count: int) -> Split:
        images, classes, _ = _compose(part, count, seed)
        return Split(images if image_size is None else resize(images, image_size), classes)

    return Source("composites", split("train", TRAIN), split("test", TEST), tuple(map(str, range(10))))


def _placed(patches: np.ndarray, quadrants: np.ndarray) -> np.ndarray:
    """Return masks (n, SIZE, SIZE) with patches (n, HALF, HALF) in the given quadrants."""
    masks = np.zeros((len(patches), 2, HALF, 2, HALF), bool)
    masks[np.arange(len(patches)), quadrants // 2, :, quadrants % 2] = patches
    return masks.reshape(len(patches), SIZE, SIZE)
