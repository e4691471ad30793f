"""Small HTML tables, which notebooks show of a structure, of designs and of scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0
) -> str:
    """A table whose texts are escaped; `more` rows are not shown, and it says so."""

    def line(cells: Iterable[object], of: str) -> str:
        return "<tr>" + "".join(f"<{of}>{escape(str(cell))}</{of}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    left = f"<p>and {more} more</p>" if more else ""
    return (
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead>{line(headings, 'th')}</thead><tbody>{body}</tbody></table>{left}"
    )
