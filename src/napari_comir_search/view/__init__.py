"""What the canvas shows: napari layers, kept in step with a session."""
