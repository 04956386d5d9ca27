"""napari plugin of comir_search: open slides, search a patch, verify, hand over.

`session` holds what is open and knows no Qt; `jobs` describes the slow work as
generators, `worker` runs them beside the window; `layers` shows slides and
candidates; `widgets` are what the user sees, one widget a file.
"""
