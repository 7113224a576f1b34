"""GET / and /docs: the page for people. Everything it loads comes from here, nothing from another server."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

router = APIRouter(include_in_schema=False)

#: The package brings Swagger UI's files; without it there is no page, and `/` leads to the document itself.
_PACKAGE = "fastapi_offline"
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon.png": "image/png"}
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>planproof</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({ url: "openapi.json", dom_id: "#page", deepLinking: true, tryItOutEnabled: true,
                  validatorUrl: null, defaultModelsExpandDepth: 0 });
"""
_CACHED = {"Cache-Control": "public, max-age=3600"}


def has_page() -> bool:
    """Tell whether the page's files are installed."""
    return find_spec(_PACKAGE) is not None


@router.get("/")
async def start() -> Response:
    """Lead to the page, or to the document that it would show."""
    return RedirectResponse("docs" if has_page() else "openapi.json")


if has_page():

    @router.get("/docs")
    async def page() -> Response:
        """The routes, to read and to try."""
        return HTMLResponse(_HTML, headers={"Content-Security-Policy": _POLICY})

    @router.get("/docs/start.js")
    async def start_script() -> Response:
        """What the page runs first; a file, since its policy forbids scripts inside it."""
        return Response(_START, media_type="text/javascript", headers=_CACHED)

    @router.get("/docs/{name}")
    def part(name: str) -> Response:
        """One of the page's files."""
        if name not in _FILES:
            raise HTTPException(404)
        content = files(_PACKAGE).joinpath("static", name).read_bytes()
        return Response(content, media_type=_FILES[name], headers=_CACHED)
