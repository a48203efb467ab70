import sys
from pathlib import Path

import pytest

from rtcfoci.errors import MediaError, UsageError
from rtcfoci.media.files import DeviceSource, FileSource
from rtcfoci.media.frames import Kind
from rtcfoci.media.sources import PatternSource, SilenceSource, ToneSource
from rtcfoci.media.specs import check_folder, check_source, open_source

from .making import pattern, record, tone


def test_each_form_gives_its_source(tmp_path: Path) -> None:
    path = record(tmp_path / "a:b.mkv", tone(500, 0, 0.2), pattern(9, 0, 0.2))
    assert isinstance(open_source("silence"), SilenceSource)
    made = open_source("tone:1150")
    assert isinstance(made, ToneSource)
    assert made.frequency_hz == 1150
    assert isinstance(open_source("tone"), ToneSource)
    drawn = open_source("pattern:77@640x360@30")
    assert isinstance(drawn, PatternSource)
    assert (drawn.sender_id, drawn._size, drawn._rate) == (77, (640, 360), 30)
    assert isinstance(open_source("pattern"), PatternSource)
    for word in ("file", "loop"):
        source = open_source(f"{word}:{path}")
        assert isinstance(source, FileSource)
        assert set(source.hubs) == set(Kind)


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no usual device names")
def test_devices_are_named_without_being_opened() -> None:
    for spec, kind in (
        ("device", Kind.AUDIO),
        ("microphone:hw:1", Kind.AUDIO),
        ("camera", Kind.VIDEO),
    ):
        source = open_source(spec)
        assert isinstance(source, DeviceSource)
        assert set(source.hubs) == {kind}
    assert source.name


@pytest.mark.parametrize(
    ("spec", "do"),
    [
        ("tone:abc", "tone[:HZ]"),
        ("tone:-5", "tone[:HZ]"),
        ("tone:99999", "20 to 20000"),
        ("patern", "did you mean pattern?"),
        ("pattern:x", "pattern[:ID"),
        ("pattern:70000", "320x240"),
        ("silence:1", "silence"),
        ("file", "file:PATH"),
        ("", "there are: silence"),
        ("qqq", "there are: silence"),
    ],
)
def test_what_is_not_understood_says_what_would_be(spec: str, do: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_source(spec)
    assert do in caught.value.do
    assert caught.value.why


def test_a_bare_path_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "x.mkv"
    path.touch()
    with pytest.raises(UsageError) as caught:
        open_source(str(path))
    assert f"file:{path}" in caught.value.do


def test_files_are_checked_up_front(tmp_path: Path) -> None:
    check_source(f"file:{record(tmp_path / 'x.mkv', tone(500, 0, 0.2))}")
    with pytest.raises(MediaError, match="cannot be played"):
        check_source(f"file:{tmp_path / 'missing.mkv'}")
    (tmp_path / "x.txt").write_text("words")
    with pytest.raises(MediaError, match="cannot be opened"):
        check_source(f"file:{tmp_path / 'x.txt'}")


def test_a_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(MediaError, match="cannot be written to") as caught:
        check_folder(file)
    assert caught.value.why
    assert caught.value.do
    with pytest.raises(MediaError):
        check_folder(Path("/proc/rtcfoci"))
