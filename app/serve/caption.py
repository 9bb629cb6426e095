"""POST /caption: a photo as the body or as the file of a form, and captions as `vlcap caption --json` prints them."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vlcap.captioner import Caption
from vlcap.data.names import plain_line, printable, shown

from .errors import wrong

FIELDS = ("budget", "count")
STEP = 2**20  # bytes that a form is parsed in, so that others get their turn
PHOTO = "photo"  # name of a photo that has none


class _Form(MultiPartParser):
    spool_max_size = 2**31  # a body is far smaller: its file stays in memory, and no photo is written to disk


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        name: Name of the photo.
        budget: Side of the compressed grid, or "auto"; None for the server's own.
        count: Number of captions; None for one.
    """

    name: str
    budget: int | str | None
    count: int | None


async def read(request: Request, body: bytes) -> tuple[Asked, bytes]:
    """The request with this body, and the file of its photo.

    Raises:
        ApiError: It is wrong. Whether the captioner can do it is checked elsewhere.
    """
    given: list[tuple[str, str]] = [*request.query_params.multi_items()]
    name, photo = PHOTO, body
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        name, photo, fields = await _form(request, body)
        given += fields
    if not photo:
        raise wrong("There is no photo: send its file as the body, or in a form.", None, "no_photo")
    values = _values(given)
    budget = values.get("budget")
    side = budget if budget == "auto" else _whole("budget", budget)
    return Asked(name, side, _whole("count", values.get("count"))), photo


async def _form(request: Request, body: bytes) -> tuple[str, bytes, list[tuple[str, str]]]:
    """Name and content of the only file of a form, and its fields."""

    async def steps() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), STEP):
            yield body[start : start + STEP]

    try:
        form = await _Form(request.headers, steps(), max_files=1, max_fields=len(FIELDS)).parse()
    except (MultiPartException, FormParserError) as error:  # the latter with older versions of starlette
        said = shown(getattr(error, "message", None) or str(error))
        raise wrong(f"The form can't be read: {said}", None, "invalid_form") from None
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise wrong("There is no photo in the form: send its file as one part.", None, "no_photo")
    content = await files[0].read()
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    await form.close()
    return printable(files[0].filename or "") or PHOTO, content, fields


def _values(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields of the address and of the form, each once."""
    values: dict[str, str] = {}
    for name, value in given:
        if name not in FIELDS:
            raise wrong(f"There is no field {shown(name)}: there are {', '.join(FIELDS)}.", shown(name))
        if name in values:
            raise wrong(f"{name} is given twice.", name)
        values[name] = value
    return values


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise wrong(f"{name} must be a whole number{', or auto' if name == 'budget' else ''}.", name)
    return int(text)


def answer(captions: Sequence[Caption], name: str) -> dict[str, Any]:
    """The best caption, as `vlcap caption --json` prints it, and the others in the same form if there are any."""

    def row(caption: Caption) -> dict[str, Any]:
        facts = {"budget": caption.budget, "score": round(caption.score, 3), "ms": round(caption.ms, 1)}
        return {"image": name, "caption": plain_line(caption.text), **facts}

    best, *others = map(row, captions)
    return {**best, "others": others} if others else best
