"""The web page at `/`."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse

router = APIRouter(tags=["page"])
_FILE: Final = Path(__file__).parents[1] / "page" / "index.html"


@router.get("/", include_in_schema=False)
def page() -> HTMLResponse:
    """The page, which asks this service alone."""
    text, policy = _page()
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(text, headers=headers)


@cache
def _page() -> tuple[str, str]:
    """The file, and the policy under which a browser runs it: its own script and style alone."""
    text = _FILE.read_text(encoding="utf-8")
    policy = (
        "default-src 'self' data: blob:",
        f"script-src {_hashes('script', text)}",
        f"style-src {_hashes('style', text)}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
    return text, "; ".join(policy)


def _hashes(tag: str, text: str) -> str:
    """The sources of all inline elements of a tag, as a policy names them."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (hashlib.sha256(each.encode()).digest() for each in contents)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
