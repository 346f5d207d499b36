"""Progress without a terminal."""

from symjax.ops.progress import progress_bar, warn


def test_a_new_postfix_is_part_of_the_next_line(capsys):
    with progress_bar(desc="layers", total=2) as bar:
        for measure in ("cka", "cca"):
            bar.set_postfix_str(measure)
            bar.update()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("layers:   0% 0/2") and last.startswith("layers: 100% 2/2") and "cca" in last


def test_a_warning_is_one_line(capsys):
    with progress_bar(desc="layers", total=2) as bar:
        warn("a file is missing")
        bar.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "warning: a file is missing" and len(lines) == 3
