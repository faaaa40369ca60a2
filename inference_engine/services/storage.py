"""What happens when the disk refuses: the same words wherever something is stored. Knows no store."""

from __future__ import annotations

import errno

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = get_logger(__name__)


def refusal(error: OSError, what: str) -> Unavailable:
    """The error for a client when `what` could not be stored. The path stays in the log."""
    _log.error("cannot be stored", what=what, problem=str(error))
    if error.errno in _FULL:
        return Unavailable(
            f"{what} could not be stored: the disk of this server is full; nothing was kept, its operator must free "
            "space in state_dir",
            retry_after_s=None,
        )
    return Unavailable(
        f"{what} could not be stored, nothing was kept; the server's log says why: its operator must look at state_dir",
        retry_after_s=None,
    )
