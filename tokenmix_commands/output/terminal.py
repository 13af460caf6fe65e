"""What the commands say, and how they end: one message and exit status 1 for what the user can mend."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import click

from extract.job.processes.signals import Stopped, leave, stop_on_signals

if TYPE_CHECKING:
    from pathlib import Path

    from extract.job.processes.signals import StopRequest
    from extract.job.progress import Report


@contextmanager
def user_errors() -> Iterator[None]:
    """Errors that the user can mend end in one message and exit status 1, anything else in a traceback."""
    from extract.errors import ExtractError
    from store import StoreError

    try:
        with warnings.catch_warnings():  # Python would put a file of ours, its line and a class's name before them
            warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
            yield
    except (ExtractError, StoreError) as error:
        fail(str(error))
    except BrokenPipeError:  # `| head` has read enough: click ends quietly
        raise
    except OSError as error:
        if error.errno is None:  # of an image library, or of our own
            fail(str(error))
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "free some and run again: what is finished is kept" if full else "check the path"
        fail(f"{error.filename or 'file system'}: {error.strerror}; {mend}")
    except KeyboardInterrupt:  # click would end with 1, as if something had failed
        say("interrupted; run again to go on")
        sys.exit(130)


@contextmanager
def running_job() -> Iterator[StopRequest]:
    """A command that a signal stops, within seconds and with the exit status that says so; errors as `user_errors`."""
    with stop_on_signals(say) as stop:
        try:
            with user_errors():
                yield stop
        except Stopped as stopped:
            say(f"stopped by {stop.signal.name if stop.signal else 'request'} while {stopped}; run again to go on")
            leave(stop.exit_code)
        except SystemExit as end:
            leave(end.code)


def fail(message: str) -> NoReturn:
    """Say what went wrong on stderr and end with status 1."""
    click.echo(f"tokenmix: error: {message}", err=True)
    sys.exit(1)


def say(message: str) -> None:
    """One line on stderr, for people."""
    with suppress(OSError):  # a log that is gone or full must not end the job
        click.echo(message, err=True)


def describe_report(report: Report, store: Path, figure: str) -> None:
    """Say how a job ended: what it did, and which images it could not read; `figure`: what its top-1 is called."""
    from store import unreadable_rows

    progress = report.progress
    for key, reason in progress.errors:
        say(f"unreadable: {key!r}: {reason}")
    done = "nothing to do"
    if progress.done:
        done = f"{progress.done} images in {progress.seconds:.1f} s ({progress.rate:.1f} img/s), "
        if progress.confusion.judged:
            done += f"{figure} {100 * progress.top1:.1f} %"
        else:
            done += "no predictions" if progress.readable else "none of them readable"
    elif report.complete and (count := sum(1 for _ in unreadable_rows(store))):
        say(f"{count} images were unreadable when their shards were done (`tokenmix status --errors`); repaired since? "
            "`tokenmix verify --retry-unreadable --images IMAGES`, then run again")  # fmt: skip
    state = "complete" if report.complete else "incomplete"
    click.echo(f"{store}: {done}; {report.shards_written} shards written, this worker's share is {state}")


def finish(report: Report, store: Path, stop: StopRequest, figure: str = "teacher's top-1") -> None:
    """Say how a job ended, and end with the exit status of a stop if it was stopped."""
    describe_report(report, store, figure)
    if report.stopped:
        say(f"stopped by {stop.signal.name if stop.signal else 'request'}; run again to go on")
        sys.exit(stop.exit_code)


def let_openmp_sleep() -> None:
    """Let the teacher's threads sleep while they wait: on a CPU, decoding needs the cores that OpenMP would spin on.

    To be called before torch is loaded. benchmarks/extract.py shows what it does to a decode-bound job.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
