"""Hooks of MkDocs: pages and files of the repository outside of docs/ are in the site, too.

They keep their paths (jobs/README.md), and docs/ is the site's root: so links that work in the
repository work in the site once `docs/` is taken out of them.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("jobs/README.md", "docker/README.md", "ARCHITECTURE.md", "CHANGELOG.md")
INSTEAD = {"README.md": "docs/index.md", "jobs": "jobs/README.md", "docker": "docker/README.md",
           "CONTRIBUTING.md": "CONTRIBUTING.md"}  # fmt: skip
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")


def in_repository(uri: str) -> str:
    """Return the path in the repository of what the site calls so."""
    return uri if uri in PAGES or not (ROOT / "docs" / uri).exists() else f"docs/{uri}"


def linked(page: str, link: str) -> str:
    """Return the path in the repository of what a page links to."""
    path = normpath(join(dirname(in_repository(page)), link))
    return INSTEAD.get(path, path)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and files that any page links to."""
    for uri in PAGES:
        files.append(File.generated(config, uri, content=(ROOT / uri).read_text()))
    for page in list(files.documentation_pages()):
        text = (ROOT / in_repository(page.src_uri)).read_text()
        for _, link, _ in LINK.findall(text):
            path = linked(page.src_uri, link)
            if path.startswith("docs/") or path in PAGES or not (ROOT / path).is_file():
                continue
            if files.get_file_from_path(f"{path}.txt") is None:
                file = File.generated(config, f"{path}.txt", content=(ROOT / path).read_text())
                files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make links between pages, as they are in the repository, links of the site."""

    def link(match: re.Match[str]) -> str:
        path = linked(page.file.src_uri, match[2])
        if not path.startswith("docs/") and path not in PAGES:
            path += ".txt"  # shown by a browser, not kept as a download
        return match[1] + relpath(path.removeprefix("docs/"), dirname(page.file.src_uri)) + match[3]

    return LINK.sub(link, markdown)
