"""`hfds/NAME[:SPLIT]` and `wds/FOLDER` in the place of an image folder; imported by `tokenmix --help`."""

from __future__ import annotations

from pathlib import Path

SCHEMES = ("hfds", "wds")


def split_scheme(images: Path) -> tuple[str, str] | None:
    """Scheme and name, which is an absolute path where it is a local folder; None for any other path.

    A path has lost its second slash: `hfds//data/x` is the folder /data/x, unless there is a data/x here.
    """
    scheme, *parts = images.parts or ("",)
    if scheme not in SCHEMES or not parts:
        return None
    name = "/".join(parts)
    path, colon, split = name.partition(":") if scheme == "hfds" else (name, "", "")
    found = next((folder for folder in (Path(path).absolute(), Path(f"/{path}")) if folder.exists()), path)
    return scheme, f"{found}{colon}{split}"


def absolute_images(images: Path) -> str:
    """The same images from any working directory."""
    return "/".join(split_scheme(images) or (str(images.absolute()),))
