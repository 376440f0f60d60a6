"""Check a built site: every link leads to a file and an anchor that exist, and nothing is fetched.

check_site.py FOLDER: exit 1 and a line for each that does not.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What one page links to, fetches and can be jumped to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the attributes that matter."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if "src" in given or tag == "link":
            if given.get("rel") not in ("canonical", "next", "prev"):
                self.fetched.append(given.get("src") or given.get("href", ""))
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])


def problems(site: Path) -> list[str]:
    """Return a line for each link that leads nowhere, and each that a browser would fetch."""
    pages = {file: Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        where = file.relative_to(site)
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.fetched and parts.scheme != "data":
                    found.append(f"{where}: would fetch {link}")
                continue
            path = unquote(parts.path)
            base = site if path.startswith("/") else file.parent
            target = (base / path.lstrip("/")).resolve() if path else file
            if target.is_dir():
                target /= "index.html"
            anchors = {unquote(parts.fragment)} - {""} if target in pages else set()
            if not target.is_file():
                found.append(f"{where}: {link} leads to no file")
            elif anchors - pages.get(target, page).anchors:
                found.append(f"{where}: {link} leads to no anchor")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]).resolve())
    print("\n".join(lines) or "every link leads somewhere, and nothing is fetched from elsewhere")
    sys.exit(bool(lines))
