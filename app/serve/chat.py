"""OpenAI's chat completions (platform.openai.com/docs/api-reference/chat): what a request asks for, and its answer.

A captioner reads one photo and nothing else. So exactly one photo is needed in all messages, and their texts are
accepted and ignored. A setting that would change the answer elsewhere and can't here is refused, never left out.
"""

import base64
import binascii
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from vlcap.bulk.work import Wish
from vlcap.captioner import Caption
from vlcap.data.names import plain_line, shown

from .errors import ApiError, wrong
from .model import ServedModel

# Fields of OpenAI's that can't be honoured, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "stop": (None, [], ""),
    "store": (None, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
# Fields that say nothing about the caption.
ASIDE = {"metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "user"}
TEXTS = ("text", "refusal")  # kinds of parts that hold a text


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Request(BaseModel):
    """The fields that are honoured, under OpenAI's names; `budget` is our own."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = None
    budget: Any = None  # the model says which there are
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        wish: What is asked of the caption.
        stream: Whether the answer is a stream of events.
        with_usage: Whether the stream ends with the usage.
    """

    wish: Wish
    stream: bool
    with_usage: bool


def read(body: bytes, model: ServedModel) -> tuple[Asked, bytes]:
    """The request in a body, and the file of its photo.

    Raises:
        ApiError: It is wrong, or asks for what can't be done.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise wrong(f"The body is not JSON ({shown(str(error))}).", None, "invalid_json") from None
    if not isinstance(fields, dict):
        raise wrong("The body must be a JSON object.", None, "invalid_json")
    for name in sorted(fields.keys() - Request.model_fields.keys() - ASIDE):
        if name not in NEUTRAL:
            raise wrong(f"There is no field {shown(name)}.", shown(name), "unknown_parameter")
        if fields[name] not in NEUTRAL[name]:
            raise wrong(f"A captioner can't honour {name}: leave it out.", name, "unsupported_parameter")
    try:
        request = Request.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = str(first["loc"][0])
        raise wrong(f"{where}: {first['msg']}.", where) from None
    if request.model not in (None, model.name):
        missing = f"There is no model {shown(str(request.model))}: here is {model.name}."
        raise ApiError(404, missing, "model_not_found", "model")
    if request.seed is not None and request.temperature:
        raise wrong("A sample can't be repeated: leave out seed, or temperature.", "seed", "unsupported_parameter")
    pieces = [most for most in (request.max_tokens, request.max_completion_tokens) if most is not None]
    settings = (min(pieces, default=None), request.temperature, request.top_p)
    wish = model.wish(request.budget, request.n, *settings, param="n")
    usage = bool(request.stream_options and request.stream_options.include_usage)
    return Asked(wish, bool(request.stream), usage), photo_in(request.messages)


def photo_in(messages: Sequence[dict[str, Any]]) -> bytes:
    """The only photo of all messages.

    Raises:
        ApiError: There is none, or more than one, or it is no data URI; or a part is neither text nor photo.
    """
    found: list[tuple[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}].content"
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise wrong(f"{where} must be a text or a list of parts.", where)
        for place, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "image_url":
                found.append((f"{where}[{place}].image_url", part.get("image_url")))
            elif kind not in TEXTS:
                raise wrong(f"{where}[{place}] must be a part of the type text or image_url.", f"{where}[{place}]")
    if len(found) != 1:
        raise wrong(f"Exactly one photo is needed in all messages, as an image_url part, not {len(found)}.", "messages")
    [(where, image)] = found
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise wrong(f"{where} must be an object with a url.", where)
    return decoded(url, f"{where}.url")


def decoded(url: str, where: str) -> bytes:
    """The bytes in a data URI (RFC 2397). Its media type is not looked at: the file itself says what it is.

    Raises:
        ApiError: It is something else. Nothing is ever fetched.
    """
    head, comma, data = url.partition(",")
    if head[:5].lower() != "data:":
        raise wrong(
            "No address is fetched: send the photo itself as data:image/jpeg;base64,...", where, "image_url_not_data"
        )
    if not comma or not head.lower().endswith(";base64"):
        raise wrong("A data URI must hold base64: data:image/jpeg;base64,...", where, "invalid_base64")
    try:
        return base64.b64decode(data.encode("ascii").translate(None, b" \t\r\n"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise wrong("The photo is not valid base64.", where, "invalid_base64") from None


def _choices(captions: Sequence[Caption]) -> list[dict[str, Any]]:
    """What each caption adds to its choice. Without the end's log-probability, a caption was cut at its limit."""
    return [
        {"index": number, "finish_reason": "stop" if len(each.logprobs) > len(each.ids) else "length"}
        for number, each in enumerate(captions)
    ]


def _usage(captions: Sequence[Caption]) -> dict[str, int]:
    """Visual tokens that were read, and pieces that were written."""
    prompt, written = captions[0].budget ** 2, sum(len(each.ids) for each in captions)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _head(kind: str, model: str, captions: Sequence[Caption]) -> dict[str, Any]:
    """The fields that an answer and each event of a stream begin with; `budget` is our own."""
    made = {"created": int(time.time()), "model": model, "budget": captions[0].budget}
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, **made}


def answer(captions: Sequence[Caption], model: str) -> dict[str, Any]:
    """The completion: a choice for each caption, with the caption's score as a field of our own."""
    choices = [
        {
            **choice,
            "message": {"role": "assistant", "content": plain_line(each.text), "refusal": None},
            "logprobs": None,
            "score": round(each.score, 3),
        }
        for choice, each in zip(_choices(captions), captions, strict=True)
    ]
    return {**_head("chat.completion", model, captions), "choices": choices, "usage": _usage(captions)}


def events(captions: Sequence[Caption], model: str, with_usage: bool) -> Iterator[str]:
    """The completion as server-sent events. Beams change their minds, so a caption comes whole, in one event."""
    head = _head("chat.completion.chunk", model, captions)

    def event(**fields: Any) -> str:
        return f"data: {json.dumps({**head, **fields}, ensure_ascii=False)}\n\n"

    for choice, each in zip(_choices(captions), captions, strict=True):
        for delta in ({"role": "assistant", "content": ""}, {"content": plain_line(each.text)}):
            yield event(choices=[{**choice, "delta": delta, "finish_reason": None, "logprobs": None}])
        yield event(choices=[{**choice, "delta": {}, "logprobs": None}])
    if with_usage:
        yield event(choices=[], usage=_usage(captions))
    yield "data: [DONE]\n\n"
