"""What the commands print for programs."""

import json
import sys
from typing import Any


def print_json(value: Any, indent: int | None = None) -> None:
    """JSON on standard output, readable where its encoding has the letters and escaped as JSON wants it elsewhere."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(text)
