"""Reading a JSON file that may be damaged, too large, or not a file at all."""

import json
import os
import stat
from typing import Any

from ..errors import VlcapError

MAX_BYTES = 64 * 1024**2  # a tokenizer of 250,000 pieces has 20 MB


class JsonError(VlcapError, ValueError):
    """A JSON file cannot be read. The message names the file and the fault."""


def load_json(
    path: str | os.PathLike,
    max_bytes: int = MAX_BYTES,
    pipes: bool = False,
    name: str | None = None,
    error: type[VlcapError] = JsonError,
) -> Any:
    """Reads the value in a JSON file.

    Args:
        path: The file.
        max_bytes: Largest size of a file. A pipe has no size, and is read to its end.
        pipes: Whether a pipe may stand in the file's place, as in `vlcap score <(...) captions.json`. Opening a pipe
            can wait forever, so only allow it where a person names the file.
        name: Name of the file in messages; its path if left out.
        error: Class of the error that is raised.

    Raises:
        VlcapError: There is no such file, it is too large, or it is not JSON. The class is `error`.
    """
    name = name or str(path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) and not pipes:
            raise error(f"{name}: not a file")
        if found.st_size > max_bytes:
            raise error(f"{name}: too large, the limit is {max_bytes // 1024**2} MB")
        with open(path, "rb") as file:
            return json.loads(file.read())
    except VlcapError:
        raise
    except OSError as fault:
        raise error(f"{name}: cannot be read ({fault.strerror})") from fault
    except json.JSONDecodeError as fault:
        raise error(f"{name}, line {fault.lineno}, column {fault.colno}: not valid JSON ({fault.msg})") from fault
    except (ValueError, RecursionError) as fault:  # not UTF-8; a number of thousands of digits; brackets without end
        raise error(f"{name}: not a JSON text ({type(fault).__name__})") from fault
