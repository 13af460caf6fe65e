"""Files in an uncompressed tar, by name and by where their bytes lie."""

from __future__ import annotations

import os
import shlex
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from extract.errors import ImagesError
from extract.images.file_names import LINKS, LeftOut, natural_order, refuse_tied_classes
from extract.images.folder import class_of, refuse_empty_classes
from extract.images.image_list import ImageList

# How a packed file begins, and what makes a plain tar or a folder of it.
_PACKED = {
    b"\x1f\x8b": "gunzip -c {file} > {tar}",
    b"BZh": "bunzip2 -c {file} > {tar}",
    b"\xfd7zXZ\x00": "unxz -c {file} > {tar}",
    b"\x28\xb5\x2f\xfd": "zstd -dc {file} > {tar}",
    b"PK\x03\x04": "unzip {file} -d {folder}",
}
_PACKED_SUFFIXES = (".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip")
_UNPACK_TAR_OF_TARS = (
    'mkdir {folder} && tar -xf {file} -C {folder} && for t in {folder}/*.tar; do mkdir "${{t%.tar}}" && '
    'tar -xf "$t" -C "${{t%.tar}}" && rm "$t"; done'
)


def list_tar(root: Path, suffixes: Sequence[str]) -> tuple[ImageList, LeftOut]:
    """The images of a packed class folder, as if it were unpacked, and what else lies there.

    Raises ImagesError for a name that comes twice, for a tar of tars, for a folder without images, which would be a
    class once it is unpacked, and for classes whose order is not certain.
    """
    left_out, files, folders = LeftOut(suffixes), [], set[str]()
    for member in tar_members(root):
        member.name = member.name.removeprefix("./")  # of `tar -cf x.tar .`: keys are those of the folder itself
        folders.add(member.name if member.isdir() else os.path.dirname(member.name))
        if member.isfile() and Path(member.name).suffix.lower() in suffixes:
            files.append(member)
        elif not member.isdir():
            left_out.add(member.name, None if member.isfile() else LINKS)
    repeated = [name for name, count in Counter(member.name for member in files).items() if count > 1]
    if repeated:
        raise ImagesError(f"{root}: expected every name once, found {repeated[0]!r} again; re-create the tar")
    if not files and left_out.has(".tar"):
        raise ImagesError(
            f"{root}: expected images in class folders, found a tar of tars ({left_out}); unpack it, and give the "
            f"folder: {_command(_UNPACK_TAR_OF_TARS, root)}"
        )
    odd = next((member.name for member in files if _is_odd(member.name)), None)
    if odd is not None:
        raise ImagesError(
            f"{root}: expected names such as 'class/1.jpg', found {odd!r}, which is another name once it is unpacked; "
            "re-create the tar"
        )
    files.sort(key=lambda member: natural_order(member.name))
    names = sorted({class_of(member.name) for member in files}, key=natural_order)
    refuse_tied_classes(root, names)
    if files:
        leaves = folders - {os.path.dirname(folder) for folder in folders} - {"", "."}
        refuse_empty_classes(root, leaves, names, left_out)
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[class_of(member.name)] for member in files], np.int32)
    members = {member.name: (member.offset_data, member.size) for member in files}
    return ImageList(root, [*members], labels, names, members), left_out


def _is_odd(name: str) -> bool:
    """Whether two slashes in a row, or `/./` or `/../`, hide the folder that the file lies in."""
    return not {"", ".", ".."}.isdisjoint(name.removeprefix("/").split("/")[1:])


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """All in a tar; ImagesError for a compressed or damaged one, and for files stored with gaps."""
    refuse_packed(path)
    try:
        with tarfile.open(path, "r:") as tar:
            members = list(tar)
            _refuse_rest(path, tar.offset)
    except tarfile.TarError as error:
        raise ImagesError(f"{path}: expected an uncompressed tar, found: {error}; unpack or re-create it") from error
    sparse = next((member.name for member in members if member.issparse()), None)
    if sparse is not None:
        raise ImagesError(
            f"{path}: {sparse!r}: expected a file in one piece, found one with gaps; re-create the tar without --sparse"
        )
    return members


def _refuse_rest(path: Path, end: int) -> None:
    """Raise ImagesError for data behind the end that Python has found: it takes a damaged header for the end."""
    with open(path, "rb") as file:
        file.seek(end)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise ImagesError(
                    f"{path}: expected nothing behind the last file of the tar, which ends at byte {end}, found more: "
                    "the tar is damaged there, or two were joined by `cat`, and what follows would be left out; "
                    "re-create it"
                )


def refuse_packed(path: Path) -> None:
    """Raise ImagesError, with the command that unpacks it, for a compressed file."""
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, command in _PACKED.items():
        if start.startswith(magic):
            raise ImagesError(
                f"{path}: expected an uncompressed tar, in which an image is found without reading all before it, "
                f"found a compressed file; unpack it, and give the result: {_command(command, path)}"
            )


def _command(template: str, path: Path) -> str:
    """With the path, a folder that has its name without suffixes, and a plain tar beside it."""
    folder = path
    while folder.suffix.lower() in _PACKED_SUFFIXES:
        folder = folder.with_suffix("")
    tar = folder.with_name(folder.name + ".tar")
    if tar == path:  # which the command would overwrite
        tar = folder.with_name(folder.name + "-unpacked.tar")
    file, folder_text, tar_text = (shlex.quote(str(part)) for part in (path, folder, tar))
    return template.format(file=file, folder=folder_text, tar=tar_text)
