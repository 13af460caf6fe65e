"""`hfds/NAME[:SPLIT]` and `wds/FOLDER` in the place of an image folder."""

from __future__ import annotations

from pathlib import Path

SCHEMES = ("hfds", "wds")


def split_scheme(images: Path) -> tuple[str, str] | None:
    """The scheme, and the name: of a local folder its absolute path. None for any path without a scheme.

    pathlib turns `hfds//data/x` into `hfds/data/x`, so that is the folder /data/x, unless there is a data/x here.
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
