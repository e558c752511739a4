"""The disk cache of text embeddings: what is encoded again and what is not, damage, and several processes at once."""

from __future__ import annotations

import logging
import multiprocessing
import zlib
from pathlib import Path

import pytest
import torch

from mvseg.vocabulary import CachedTextEncoder
from mvseg.vocabulary.encoders import cache, cache_folder


class CountingEncoder:
    """Embeds a text by its checksum, and remembers what it was asked."""

    def __init__(self, fingerprint: str = "one") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked += texts
        return rows_of(texts)


def rows_of(texts) -> torch.Tensor:
    return torch.tensor([[zlib.crc32(t.encode()) / 2**32, float(len(t)), 1.0] for t in texts])


def test_only_missing_sentences_are_encoded(tmp_path):
    first = CountingEncoder()
    cached = CachedTextEncoder(first, tmp_path)
    texts = ["a cat", "кот", "a cat", "🚗", ""]
    torch.testing.assert_close(cached.encode(texts), rows_of(texts))
    assert first.asked == ["a cat", "кот", "🚗", ""]
    second = CountingEncoder()
    again = CachedTextEncoder(second, tmp_path)
    torch.testing.assert_close(again.encode(["🚗", "a dog", "a cat"]), rows_of(["🚗", "a dog", "a cat"]))
    assert second.asked == ["a dog"]
    torch.testing.assert_close(again.encode(["a dog", "🚗"]), rows_of(["a dog", "🚗"]))
    torch.testing.assert_close(cached.encode(["a dog"]), rows_of(["a dog"]))  # written by the other one meanwhile
    assert second.asked == ["a dog"] and len(first.asked) == 4
    with pytest.raises(ValueError, match=r"at least one sentence"):
        cached.encode([])


def test_another_encoder_has_another_folder(tmp_path):
    CachedTextEncoder(CountingEncoder("one"), tmp_path).encode(["a cat"])
    other = CountingEncoder("two")
    CachedTextEncoder(other, tmp_path).encode(["a cat"])
    assert other.asked == ["a cat"]


def test_the_folder_is_the_environments_choice(own_cache, monkeypatch):
    assert cache_folder() == own_cache and CachedTextEncoder(CountingEncoder()).folder == own_cache / "text/one"
    monkeypatch.delenv("MVSEG_CACHE")
    assert cache_folder() == Path("~/.cache/mvseg").expanduser()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_damaged_file_is_made_again_with_a_warning(tmp_path, caplog, damage):
    texts = [f"word {i}" for i in range(50)]
    cached = CachedTextEncoder(CountingEncoder(), tmp_path)
    cached.encode(texts)
    (file,) = cached.folder.glob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-700] ^= 0xFF  # inside the rows
    file.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "foreign": b"hello"}[damage])
    encoder = CountingEncoder()
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(CachedTextEncoder(encoder, tmp_path).encode(texts), rows_of(texts))
    assert encoder.asked == texts and f"{file} is damaged" in caplog.text
    encoder.asked.clear()
    CachedTextEncoder(encoder, tmp_path).encode(texts)
    assert encoder.asked == []


def test_folder_that_cannot_be_written_stops_nobody(tmp_path, caplog):
    (tmp_path / "text").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(CachedTextEncoder(CountingEncoder(), tmp_path).encode(["a"]), rows_of(["a"]))
    assert "cannot be written" in caplog.text


def test_long_lists_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4)

    class Stopping(CountingEncoder):
        def encode(self, texts):
            if len(self.asked) >= 8:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [f"word {i}" for i in range(15)]
    with pytest.raises(KeyboardInterrupt):
        CachedTextEncoder(Stopping(), tmp_path).encode(texts)
    encoder = CountingEncoder()
    torch.testing.assert_close(CachedTextEncoder(encoder, tmp_path).encode(texts), rows_of(texts))
    assert encoder.asked == texts[8:]


def test_small_files_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_FILES", 5)
    encoder = CountingEncoder()
    cached = CachedTextEncoder(encoder, tmp_path)
    reader = CachedTextEncoder(CountingEncoder(), tmp_path)
    for i in range(8):
        cached.encode([f"word {i}"])
        reader.encode([f"word {i}"])
    assert len(list(cached.folder.iterdir())) <= 5
    texts = [f"word {i}" for i in range(8)]
    for one in (cached, reader, CachedTextEncoder(encoder, tmp_path)):
        torch.testing.assert_close(one.encode(texts), rows_of(texts))
    assert len(encoder.asked) == 8 and reader.encoder.asked == []


def _encode_in_process(folder: Path, start: int) -> bool:
    cache.MAX_FILES = 3
    for step in range(12):
        texts = [f"word {(start + step * 5 + i) % 60}" for i in range(20)]
        found = CachedTextEncoder(CountingEncoder(), folder).encode(texts)
        if not torch.equal(found, rows_of(texts)):
            return False
    return True


def test_processes_share_a_folder(tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.starmap(_encode_in_process, [(tmp_path, start) for start in (0, 7, 31)]))
    encoder = CountingEncoder()
    CachedTextEncoder(encoder, tmp_path).encode([f"word {i}" for i in range(60)])
    assert encoder.asked == []
    assert not list(tmp_path.rglob("*.tmp"))
