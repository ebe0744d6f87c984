"""One lock between processes, on file systems of every kind."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from igsp_deploy.files import explain_os_error

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What NFS, Lustre, CIFS and FUSE answer where they have no flock."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of the file `path`, if nobody else does; it ends with the process, however that ends.

    A thread that holds it may take it again. Where the file system has no locks, a second file `PATH.soft` that exists
    is the lock; it holds the process and the machine, and is taken over when that process is gone.

    Args:
        path: a file for nothing else; its folder is there.

    Yields:
        Whether it is ours now; False while another process or thread holds it.

    Raises:
        UserError: the file cannot be written.
    """
    path = path.resolve()
    with ExitStack() as stack:
        try:
            held = _acquire(stack, path)
        except OSError as error:
            raise explain_os_error(error, path) from error
        yield held


def _acquire(stack: ExitStack, path: Path) -> bool:
    soft: BaseFileLock = SoftFileLock(path.with_name(f"{path.name}.soft"), is_singleton=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own word about a soft lock
            stack.enter_context(FileLock(path, is_singleton=True, fallback_to_soft=False).acquire(timeout=0))
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        try:
            # Not at once: the first look at the lock of a process that is gone only removes it.
            stack.enter_context(soft.acquire(timeout=1, poll_interval=0.1))
        except Timeout:
            return False
    return True
