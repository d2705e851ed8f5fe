"""Photographs and videos by file, folder or pattern."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.data.io.media import find_media


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_folders_give_their_images_and_videos_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "z.MP4", "c.mov", "notes.txt", "more/c.jpeg", "more/in/d.jpg")
    media = find_media([tmp_path, tmp_path / "more" / "c.jpeg", tmp_path / "a.png"])
    assert names(media.photos) == ["a.png", "b.JPG", "c.jpeg"]
    assert names(media.videos) == ["c.mov", "z.MP4"]
    assert media.paths == (*media.photos, *media.videos)


def test_a_file_of_an_unknown_suffix_is_an_image_if_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "scan.img")
    assert names(find_media([tmp_path / "scan.img"]).photos) == ["scan.img"]


def test_patterns_are_expanded(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "a.txt", "in/c.jpg", "clip.avi")
    assert names(find_media([tmp_path / "*.jpg"]).photos) == ["a.jpg", "b.jpg"]
    media = find_media([tmp_path / "*"])
    assert (names(media.photos), names(media.videos)) == (["a.jpg", "b.jpg"], ["clip.avi"])
    assert names(find_media([tmp_path / "**" / "c*.jpg"]).photos) == ["c.jpg"]
    with pytest.raises(ValueError, match=r"\*\.png: expected images .* found none"):
        find_media([tmp_path / "*.png"])


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].jpg", "a1.jpg")
    assert names(find_media([tmp_path / "a[1].jpg"]).photos) == ["a[1].jpg"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(ValueError, match=r"x/a\.jpg and .*y/a\.jpg have the same name"):
        find_media([tmp_path / "x", tmp_path / "y"])


def test_a_file_given_by_two_paths_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "x/a.jpg")
    (tmp_path / "y").symlink_to(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    paths = (Path("x"), tmp_path / "x", Path("x/../x/a.jpg"), Path("y"))
    assert find_media(paths).photos == (Path("x/a.jpg"),)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: expected an image, a video, or a folder"):
        find_media([tmp_path / "a.jpg"])
    with pytest.raises(ValueError, match=r"expected images .* or videos .* found none"):
        find_media([tmp_path])


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpd.data.io.media.MAX_FILES", 1)
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match="expected 1 to 1 images or videos, found 2"):
        find_media([tmp_path])
