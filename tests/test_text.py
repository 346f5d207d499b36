"""Text as data sets: windows, vocabularies, corpora of three files, and options."""

import numpy as np
import pytest

from symjax.data import load, resolve_name
from symjax.data.text import is_text
from symjax.errors import InputError


def decode(dataset, numbers):
    """Return the tokens with these numbers."""
    return [dataset.class_names[number] for number in numbers.reshape(-1)]


def write_parts(folder, pattern):
    """Write the three files of a corpus in the format of the Penn Treebank."""
    texts = {
        "train": " the cat <unk> the dog \n a cat sat on the mat \n",
        "valid": " the <unk> sat \n",
        "test": " the bird sat \n on a mat \n",
    }
    for part, text in texts.items():
        (folder / pattern.format(part)).write_text(text)


def test_a_file_is_split_into_consecutive_windows(tmp_path):
    path = tmp_path / "abc.txt"
    text = "abca bcab\n" * 30
    path.write_text(text)
    data = load(f"{path}?length=7")
    assert data.name == "abc" and data.class_names == ("<unk>", "b", "a", "c", "\n", " ")[:1] + data.class_names[1:]
    assert set(data.class_names) == {"<unk>", *"abc \n"} and data.num_classes == 6
    test = decode(data, data.test.images)
    assert "".join(test) == text[240 : 240 + 56] and data.test.images.shape == (
        8,
        7,
    )  # the last fifth of the text, without the incomplete window
    np.testing.assert_array_equal(data.test.images.reshape(-1)[1:], data.test.labels.reshape(-1)[:-1])
    assert (len(data.train), len(data.validation)) == (31, 3)  # 34 windows, split like the examples of other data sets
    for window, following in zip(data.train.images, data.train.labels, strict=True):
        np.testing.assert_array_equal(window[1:], following[:-1])
        assert "".join(decode(data, window)) in text
    assert len(load(f"{path}?length=7", train_size=5, test_size=2).test) == 2


@pytest.mark.parametrize("pattern", ["ptb.{}.txt", "wiki.{}.tokens"])
def test_files_of_a_corpus_become_words_and_ends_of_lines(tmp_path, pattern):
    write_parts(tmp_path, pattern)
    for name in (tmp_path, tmp_path / pattern.format("train")):
        data = load(f"{name}?length=2")
        train = "the cat <unk> the dog <eos> a cat sat on the mat <eos>".split()
        assert decode(data, data.train.images) == train[:-1] and decode(data, data.train.labels) == train[1:]
        assert data.class_names[:2] == ("<unk>", "the") and set(data.class_names) == set(train)
        assert (
            decode(data, data.test.images) == "the <unk> sat <eos> on a".split()
        )  # "bird" does not occur in the training part
        assert decode(data, data.validation.images) == ["the", "<unk>"]
    assert load(f"{tmp_path}?length=2,vocabulary=3").class_names == ("<unk>", "the", "<eos>")
    assert "c" in load(f"{tmp_path}?level=characters,length=3").class_names
    (tmp_path / "other.train.txt").write_text("a")
    with pytest.raises(InputError, match="with 2 files of the part train .*, expected one"):
        load(str(tmp_path))


def test_the_text_that_comes_with_python():
    data = load("text")
    assert (data.name, data.example_shape) == ("text", (64,)) and 80 < data.num_classes < 300
    assert len(data.train) + len(data.validation) == 3749 and len(data.test) == 937
    words = load("text?level=words")
    assert words.example_shape == (35,) and {"the", "<eos>"} <= set(words.class_names[:5])


def test_paths_are_resolved_and_options_are_kept(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert resolve_name("a.txt?length=5") == f"{tmp_path.resolve()}/a.txt?length=5"
    assert resolve_name("text?level=words") == "text?level=words"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", "name: got none.txt, expected the path of a text file"),
        ("text?size=3", "name: got the option 'size' in text.size=3, expected level, length or vocabulary"),
        ("text?level=lines", "name: got the level 'lines' in text.level=lines, expected characters or words"),
        ("text?length=1", "name: got length=1 in text.length=1, expected an integer from 2"),
        ("text?length=70000", "name: got 60000 tokens in the test part of text.*, expected more than 70000"),
    ],
)
def test_wrong_names_raise(name, message):
    with pytest.raises(InputError, match=message):
        load(name)


def test_text_that_is_not_utf8_raises(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected text in UTF-8"):
        load(str(tmp_path / "a.txt"))


def test_image_folders_and_names_of_prepared_sets_are_not_text(tmp_path, monkeypatch):
    """Image data sets often have lists of their files beside the folders of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "train").mkdir(parents=True)
    for name in ("photos/train.txt", "photos/test.txt", "cifar10", "novel"):
        (tmp_path / name).write_text("some text\n" * 100)
    assert not is_text("photos") and not is_text("cifar10")
    assert is_text("./novel") and is_text("novel?level=words")
    assert load("./novel").num_classes == 1 + len(set("some text\n"))  # and <unk>


def test_lines_end_at_line_feeds_only(tmp_path):
    (tmp_path / "a.txt").write_text("one two\u2028three\n\n" * 60)
    data = load(f"{tmp_path / 'a.txt'}?level=words,length=4")
    tokens = decode(data, data.test.images)
    assert tokens[: tokens.index("one") + 5][-5:] == ["one", "two", "three", "<eos>", "<eos>"]
