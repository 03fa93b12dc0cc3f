"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def no_room(what: object) -> Iterator[None]:
    """
    Say what to do when the disk is full.

    :param what: What is being written, for the message
    :raises OSError: with that advice, for every error of the disk
    """
    try:
        yield
    except OSError as error:
        raise OSError(f"Could not write {what}: {error}. Free some space, or name another folder with --data.") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Give a temporary name beside a file's; once all is written under it, it becomes the file.

    :param path: The file; its folder is made if missing
    :return: The temporary name, which is gone afterwards whatever happens
    :raises OSError: if it cannot be written
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with no_room(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def alone(name: Path) -> Iterator[None]:
    """
    Let one process at a time do what has this name; others wait.

    :param name: A file for the lock; it stays, and holds nothing
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with no_room(name):
        name.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(name, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
