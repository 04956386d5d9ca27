"""napari plugin of comir_search: open slides, search a patch, judge the candidates, export.

Each folder uses only those after it: `widgets` (Qt: the dock and its sections),
`view` (napari layers), `jobs` (slow work, one subject a file), `state` (what is
open and what was judged). `manifest` is what `napari.yaml` names.
"""
