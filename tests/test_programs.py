"""Compiled programs that commands keep."""

from pathlib import Path

import jax
import pytest

from experiments import programs
from experiments.command import covered


@pytest.fixture
def setting(monkeypatch, tmp_path):
    """The folder that JAX is told to keep programs in, if any."""
    monkeypatch.setenv("SYMJAX_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


def test_programs_are_kept_in_the_cache_folder(setting, tmp_path):
    programs.keep_programs()
    folder = Path(setting())
    assert folder.parent == tmp_path / "programs"
    (folder / "one").write_bytes(b"program")
    jax.config.update("jax_compilation_cache_dir", None)
    programs.keep_programs()
    assert Path(setting()) == folder and (folder / "one").exists()


def test_a_folder_that_has_grown_too_large_is_emptied(setting, monkeypatch):
    programs.keep_programs()
    (Path(setting()) / "one").write_bytes(b"program")
    monkeypatch.setattr(programs, "LIMIT", 3)
    jax.config.update("jax_compilation_cache_dir", None)
    programs.keep_programs()
    assert Path(setting()).is_dir() and not (Path(setting()) / "one").exists()


def test_nothing_is_kept_where_the_user_has_said_so(setting, monkeypatch):
    monkeypatch.setenv("SYMJAX_PROGRAMS", "0")
    programs.keep_programs()
    assert setting() is None
    monkeypatch.delenv("SYMJAX_PROGRAMS")
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    programs.keep_programs()
    assert setting() == "/elsewhere"


def test_time_of_compilation_counts_overlaps_once():
    assert covered([]) == 0
    assert covered([(3.0, 4.0), (0.0, 2.0), (0.5, 1.0), (1.5, 2.5)]) == 3.5
