"""Data sets of text: windows of consecutive tokens, and the next token as the class of each position.

A name is "text", the path of a text file, or the path of a folder with the three files of a corpus. Options follow a
question mark: "text?level=words,length=35,vocabulary=10000".

* "text" is the first 300,000 characters of Python's help pages (`pydoc_data.topics`), ordered by topic. They come with
  Python and differ slightly between versions.
* The last fifth of a text file is the test part.
* A folder has three files with "train", "valid" and "test" in their names and the suffix .txt or .tokens, such as
  ptb.train.txt of the Penn Treebank or wiki.train.tokens of WikiText. The path of the training file has the same
  meaning as that of the folder.

Options:
  level: "characters", or "words", which are separated by white space; each line then ends with the token <eos>. The
    default is words for three files, otherwise characters.
  length: number of tokens in a window, 2 or more; by default 64 characters or 35 words.
  vocabulary: number of classes: the most frequent tokens of the training part, and the token <unk>, the first class,
    which replaces all other tokens. By default all tokens of the training part are classes.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from symjax.checks import short
from symjax.data.dataset import Dataset, Source, Split
from symjax.errors import InputError

EMBEDDED, EMBEDDED_CHARACTERS = "text", 300_000
PARTS, SUFFIXES = ("train", "valid", "test"), (".txt", ".tokens")
TEST_DIVISOR = 5  # the test part of a single file is one fifth
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
LENGTHS = {"characters": 64, "words": 35}


def split_options(name: str) -> tuple[str, str]:
    """Return the name of a data set without options, and the options with their question mark."""
    base, mark, options = name.partition("?")
    return base, mark + options


def is_text(name: str) -> bool:
    """Return whether `symjax.data.load` reads this name as text."""
    base, options = split_options(name)
    path = os.path.expanduser(base)
    if base == EMBEDDED or path.endswith(SUFFIXES):
        return True
    if os.path.isdir(path):  # a folder of images can have lists of its files
        return bool(_parts_in(path)) and not os.path.isdir(os.path.join(path, "train"))
    # A name without a separator can be that of a prepared data set.
    return os.path.isfile(path) and bool(options or os.path.dirname(path)) and not path.endswith(".npz")


def read_text(name: str) -> Source | Dataset:
    """Read a data set of text; see the description of this module.

    Returns:
        A `Dataset` if the text has its own validation part, otherwise a `Source`. Inputs and labels are int32
        (n, length).

    Raises:
        InputError: an option is unknown or out of range; a file is missing, is not UTF-8, or is too short.
    """
    base, options = split_options(name)
    path = Path(os.path.expanduser(base))
    files = {} if base == EMBEDDED else _files(path)
    options = _parse(name, options, {"level": "words" if len(files) > 1 else "characters"})
    if files:
        texts = {part: _read(file) for part, file in files.items()}
    else:
        text = _embedded() if base == EMBEDDED else _read(path)
        cut = len(text) - len(text) // TEST_DIVISOR
        texts = {"train": text[:cut], "test": text[cut:]}
    level, length = options["level"], options["length"]
    tokens = {part: list(text) if level == "characters" else _words(text) for part, text in texts.items()}
    vocabulary = _vocabulary(tokens["train"], options["vocabulary"])
    number = {token: i for i, token in enumerate(vocabulary)}
    splits = {
        part: _windows(name, part, [number.get(t, 0) for t in sequence], length) for part, sequence in tokens.items()
    }
    label = base if base == EMBEDDED else path.stem
    if "valid" not in splits:
        return Source(label, splits["train"], splits["test"], vocabulary, normalize=False)
    return Dataset(label, splits["train"], splits["valid"], splits["test"], vocabulary, None, None)


def _parse(name: str, text: str, defaults: dict) -> dict:
    """Return the options of a name, with defaults filled in."""
    options = {"vocabulary": None, **defaults}
    for item in filter(None, text.removeprefix("?").split(",")):
        key, _, value = item.partition("=")
        if key not in ("level", "length", "vocabulary"):
            raise InputError(f"name: got the option {short(key)} in {name}, expected level, length or vocabulary")
        if key == "level":
            if value not in LENGTHS:
                raise InputError(f"name: got the level {short(value)} in {name}, expected {' or '.join(LENGTHS)}")
        elif not (value.isascii() and value.isdecimal() and len(value) < 8 and int(value) >= 2):
            raise InputError(f"name: got {key}={value} in {name}, expected an integer from 2 to 9999999")
        options[key] = value if key == "level" else int(value)
    return {"length": LENGTHS[options["level"]], **options}


def _parts_in(folder: str | os.PathLike) -> dict[str, list[str]]:
    """Return the names of the files of each part of a folder; empty if the training or test part has none."""
    names = [entry.name for entry in os.scandir(os.fspath(folder)) if entry.is_file() and entry.name.endswith(SUFFIXES)]
    parts = {part: sorted(name for name in names if part in name) for part in PARTS}
    return parts if parts["train"] and parts["test"] else {}


def _files(path: Path) -> dict[str, Path]:
    """Return the file of each part; empty if the path is that of a single text file."""
    if os.path.isdir(path):
        parts = _parts_in(path)
        for part, names in parts.items():
            if len(names) != 1:
                raise InputError(
                    f"name: got {path} with {len(names)} files of the part {part} ({', '.join(names) or 'none'}), "
                    "expected one, or the path of a training file"
                )
        return {part: path / name for part, (name,) in parts.items()}
    if not os.path.isfile(path):
        raise InputError(
            f"name: got {path}, expected the path of a text file, or of a folder with the files of a corpus"
        )
    files = {part: path.with_name(path.name.replace("train", part)) for part in PARTS}
    return files if "train" in path.name and all(map(os.path.isfile, files.values())) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"name: got {path}, which cannot be read ({error}), expected text in UTF-8") from error


def _embedded() -> str:
    from pydoc_data.topics import topics  # imported here, because it is slow to import

    return "\n".join(topics[topic] for topic in sorted(topics))[:EMBEDDED_CHARACTERS]


def _words(text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")  # splitlines would also divide lines at other characters
    return [token for line in lines for token in (*line.split(), END_OF_LINE)]


def _vocabulary(tokens: Iterable[str], size: int | None) -> tuple[str, ...]:
    """Return <unk> and the most frequent other tokens, `size` in total."""
    counts = Counter(tokens)
    counts.pop(UNKNOWN, None)
    ordered = sorted(counts, key=lambda token: (-counts[token], token))
    return (UNKNOWN, *(ordered if size is None else ordered[: size - 1]))


def _windows(name: str, part: str, numbers: Sequence[int], length: int) -> Split:
    """Return consecutive windows and the token after each position; an incomplete last window is dropped."""
    count = (len(numbers) - 1) // length
    if count < 1:
        raise InputError(
            f"name: got {len(numbers)} tokens in the {part} part of {name}, expected more than {length}, the length of "
            "a window"
        )
    numbers = np.asarray(numbers[: count * length + 1], np.int32)
    return Split(numbers[:-1].reshape(count, length), numbers[1:].reshape(count, length))
