"""Read the XML in a file safely."""

from __future__ import annotations

from xml.etree import ElementTree

from comir_search.errors import ComirSearchError


def parse_xml(text: str, name: str) -> ElementTree.Element | None:
    """Return the root element, None if the text is not XML.

    Parameters
    ----------
    text : str
    name : str
        File name, for messages.

    Raises
    ------
    ComirSearchError
        If it defines entities: a few lines of them can expand to gigabytes.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ComirSearchError(
            f"{name} contains XML that defines its own entities, which is unsafe to read: export it again as OME-TIFF"
        )
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def local_name(element: ElementTree.Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def find_children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the direct children with this local name."""
    return [child for child in element if isinstance(child.tag, str) and local_name(child) == name]
