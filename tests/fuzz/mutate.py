"""Damages a file: its bytes, or the values of a JSON document."""

import copy
import json
import random
import struct
from typing import Any

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WORDS = " ".join(f"word{number}" for number in range(10_000))
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    [1, "a"],
    "",
    " ",
    "\0",
    "a\0b",
    "1",
    "-1",
    "007",
    "\u0661",
    "1e3",
    "\ud800",
    "🦆🏳️‍🌈",
    "\u202eevil",
    "nul\x07",
    "line\nbreak\rand\u2028more",
    WORDS,
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\photos\\0.png",
    "..",
    "a/../../b.png",
    "~/x",
)


def bytes_of(rng: random.Random, data: bytes, others: list[bytes] | None = None) -> bytes:
    """A damaged copy, with some bytes, fields or ends changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not changed:
            break
        # Most decisions depend on headers.
        place = rng.randrange(min(len(changed), rng.choice((16, 64, 400, len(changed)))))
        match rng.randrange(9):
            case 0 | 1:
                changed[place] = rng.randrange(256)
            case 2:
                changed[place] ^= 1 << rng.randrange(8)
            case 3:
                form = rng.choice(("<H", ">H", "<I", ">I"))
                field = struct.pack(form, rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(form)))
                changed[place : place + len(field)] = field
            case 4:
                del changed[rng.randrange(len(changed)) :]
            case 5:
                del changed[place : place + rng.randrange(1, 40)]
            case 6:
                changed[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 7:
                end = place + rng.randrange(1, 200)
                changed[place:place] = changed[place:end] * rng.randrange(1, 4)
            case 8:
                other = rng.choice(others) if others else bytes(rng.randrange(2000))
                changed[place:] = other[min(place, len(other)) :]
    return bytes(changed)


def json_of(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with some parts replaced, removed, doubled or renamed."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        _collect(changed, places)
        if not places or rng.random() < 0.02:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.insert(key, copy.deepcopy(parent[key]))
            case 1 | 2 if isinstance(parent, dict):
                parent[rng.choice((str(key).upper(), f"{key} ", "", "\ud800", "x"))] = parent.pop(key)
            case 3:
                other, name = rng.choice(places)
                if (isinstance(other, list) and name >= len(other)) or (isinstance(other, dict) and name not in other):
                    continue
                parent[key] = copy.deepcopy(other[name])
            case _:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
    return changed


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        places.append((value, key))
        _collect(value[key], places)


def json_text(rng: random.Random, value: Any) -> bytes:
    """A JSON document, mostly with a damaged value, sometimes damaged as a text."""
    kind = rng.random()
    if kind < 0.05:
        return json.dumps(value).encode()
    text = json.dumps(json_of(rng, value), ensure_ascii=rng.random() < 0.8).encode("utf-8", errors="surrogatepass")
    if kind < 0.7:
        return text
    match rng.randrange(9):
        case 0:
            return text[: rng.randrange(len(text) + 1)]
        case 1:
            return b"\xef\xbb\xbf" + text
        case 2:
            other = rng.choice(("utf-16", "utf-32-be", "latin-1"))
            return text.decode("utf-8", errors="replace").encode(other, errors="replace")
        case 3:
            deep = rng.choice((b"[", b'{"a":', b'{"images":[')) * rng.choice((100, 5000, 200_000))
            return rng.choice((deep, b'{"images": ' + deep + b"}", text + deep))
        case 4:
            return text.replace(b"1", b"1" * rng.choice((20, 400, 6000)))
        case 5:
            return text.replace(b":", rng.choice((b': NaN, "x":', b': -Infinity, "x":', b"::", b"=")), 1)
        case 6:
            return b""
        case _:
            return bytes_of(rng, text)
