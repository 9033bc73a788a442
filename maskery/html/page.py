"""Pages that need nothing beside them: one style and script, written into every page, and no other may run."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

PAGES = Path(__file__).parent / "templates"
WIDEST = 1100  # pixels of a picture


def render(template: str, **facts: Any) -> str:
    """The whole page. Everything in `facts` is text: nothing of it is read as HTML."""
    style, script = ((PAGES / name).read_text(encoding="utf-8") for name in ("house.css", "house.js"))
    asks = "'self'" if facts.setdefault("version", "") else "'none'"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"connect-src {asks}; base-uri 'none'; form-action 'none'"
    )
    pages = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made = pages.get_template(template).render(facts, style=Markup(style), script=Markup(script), policy=policy)
    return made.encode("utf-8", "backslashreplace").decode()  # a surrogate that slipped through is no UTF-8


def picture(path: Path) -> str | None:
    """An image file as a data URI, no wider than WIDEST; None when it cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if small.width > WIDEST:
        small = small.resize((WIDEST, round(small.height * WIDEST / small.width)), Image.Resampling.LANCZOS)
    return data_uri(small, "WEBP", quality=84, method=4)


def data_uri(image: Image.Image, kind: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
