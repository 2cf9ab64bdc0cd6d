"""The page as a whole."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from convc._version import __version__
from convc.commands.drawing.picture import picture
from convc.commands.page import sections
from convc.commands.page.markup import tag, text
from convc.commands.page.report import Report

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.program import Program

_PARTS = ("network", "source", "passes", "algorithms", "memory", "kernels")
# Of larger nets blocks are drawn as boxes.
_MOST_LAYERS = 120


def page(report: Report) -> str:
    """One HTML document with everything inside."""
    drawing = picture(report.net, 0 if len(report.net.layers) > _MOST_LAYERS else None)
    content = {
        "network": sections.network(drawing),
        "source": sections.source(report),
        "passes": sections.passes(report),
        "algorithms": sections.algorithms(report),
        "memory": sections.memory(report),
        "kernels": sections.kernels(report),
    }
    present = [part for part in _PARTS if content[part]]
    links = tag("nav", "".join(tag("a", part, href=f"#{part}") for part in present))
    threads = "" if report.target == "cuda" else f", {report.threads} threads"
    processor = f", {report.tier}{threads}" if report.tier else ""
    about = f"{report.mode}, batch {report.batch}, target {report.target}{processor}; convc {__version__}"
    body = tag("h1", text(report.net.name)) + tag("p", text(about), class_="lead") + links + sections.figures(report)
    style = files("convc.commands.page").joinpath("page.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        + tag("title", text(f"{report.net.name}: what the compiler made of it"))
        + tag("style", style)
    )
    body += "".join(content[part] for part in present)
    return "<!doctype html>\n" + tag("html", tag("head", head) + tag("body", body), lang="en") + "\n"


def write_page(path: Path, net: Net, program: Program, threads: int) -> None:
    """Write the page of a program. Error: `file-write`."""
    from convc.runtime.atomic import write_text

    write_text(path, page(Report.of(net, program, threads)))
