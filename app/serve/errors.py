"""What a program gets instead of an answer: a status, and one JSON error in OpenAI's form."""

from typing import Any

from starlette.responses import JSONResponse

from vlcap.data.names import plain_line
from vlcap.errors import VlcapError

GONE = 499  # of a request whose program has left: nobody reads the answer, but it is counted
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(VlcapError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: What is wrong and what to do, in one sentence.
        code: The reason in one word for programs and for the metrics; one of a fixed set, never a part of a request.
        param: The field that is wrong, by its path in the request.
        headers: Headers of the answer, such as Retry-After.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, headers: dict[str, str] | None = None
    ):
        super().__init__(plain_line(message))
        self.status, self.code, self.param, self.headers = status, code, param, headers

    def to_dict(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.to_dict(), self.status, self.headers)


def wrong(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """The refusal of a request that is wrong in one field."""
    return ApiError(400, message, code, param)


def gone() -> ApiError:
    """For a request whose program has left."""
    return ApiError(GONE, "The program has left.", "gone")
