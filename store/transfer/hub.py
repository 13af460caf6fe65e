"""A dataset repository of the Hugging Face hub: all files of a push arrive in one commit.

The hub limits commits per hour. The commit is what makes a push visible, so it needs no order; a pull reads one commit,
whatever comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from store.errors import StoreError, TransferError
from store.transfer.remote import Remote, Sent, remote_errors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_REVISION = r"refs/(?:convert|pr)/[^/]+|[^/]+"
_PLACE = re.compile(rf"datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>{_REVISION}))?(?:/(?P<folder>.+))?")
_FILES_AT_ONCE = 64  # are uploaded before progress is reported
_TYPE = "dataset"


class HubRemote(Remote):
    """The repository as of the commit that was its last one when this was made."""

    def __init__(self, url: str, fs: AbstractFileSystem, root: str, *, to_write: bool = False) -> None:
        """`to_write`: the repository may be missing; it is made, for its owner alone, by the first commit."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        place = _PLACE.fullmatch(root)
        if place is None:
            raise StoreError(f"{url}: expected hf://datasets/USER/NAME, perhaps with @REVISION or a folder behind it")
        self._repo, self._folder = place["repo"], place["folder"]
        self._revision = unquote(place["revision"]) if place["revision"] else None
        self._api = HfApi(endpoint=fs.endpoint, token=fs.token)
        super().__init__(url, fs, root)
        self._commit: str | None = None
        try:
            self._stand_at(self._last_commit())
        except RepositoryNotFoundError:
            if not to_write:
                raise

    def sizes(self) -> dict[str, int]:
        """As of every place; empty where there is no repository."""
        return super().sizes() if self._commit else {}

    def quietly(self) -> AbstractContextManager[None]:
        """The library would show a bar per file."""
        return _without_bars()

    def commit(
        self, files: Sequence[Sent], summary: str, on_sent: Callable[[str], object], before_commit: Callable[[], object]
    ) -> None:
        """Add or replace all of these at once; TransferError where somebody else has committed meanwhile.

        `before_commit` is called when all has been read and sent, and may raise.
        """
        from huggingface_hub import CommitOperationAdd

        prefix = f"{self._folder}/" if self._folder else ""
        with remote_errors(self.url), _without_bars():
            if self._commit is None:  # one that somebody else has made meanwhile is an error
                self._api.create_repo(self._repo, repo_type=_TYPE, private=True)
                self._stand_at(self._last_commit())
            added = [CommitOperationAdd(prefix + file.name, file.source) for file in files]
            for start in range(0, len(files), _FILES_AT_ONCE):
                part = slice(start, start + _FILES_AT_ONCE)
                self._api.preupload_lfs_files(
                    self._repo, added[part], repo_type=_TYPE, revision=self._revision, free_memory=False
                )
                for file in files[part]:
                    on_sent(file.name)
            before_commit()
            done = self._api.create_commit(
                self._repo,
                added,
                commit_message=summary,
                repo_type=_TYPE,
                revision=self._revision,
                parent_commit=self._commit,
            )
        self._stand_at(done.oid)
        self._require({file.name: one.upload_info.size for file, one in zip(files, added, strict=True)})

    def _last_commit(self) -> str | None:
        commit: str | None = self._api.repo_info(self._repo, repo_type=_TYPE, revision=self._revision).sha
        return commit

    def _stand_at(self, commit: str | None) -> None:
        """Read this commit from now on, whatever comes after it."""
        self._commit, at = commit, f"datasets/{self._repo}@{commit}"
        self.root = f"{at}/{self._folder}" if self._folder else at

    def _require(self, sizes: Mapping[str, int]) -> None:
        """The library leaves out of a commit what a .gitignore of the repository names, and says nothing."""
        there = self.sizes()
        for name, nbytes in sizes.items():
            if there.get(name) != nbytes:
                found = there.get(name, "no such file")
                raise TransferError(
                    f"{self.url}/{name}: expected {nbytes} bytes in the commit, found {found}; "
                    "if the repository's .gitignore names it, remove that line there, and push again"
                )


@contextmanager
def _without_bars() -> Iterator[None]:
    """The library's own bars say nothing meanwhile: the caller has one."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
