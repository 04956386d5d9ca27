"""Find where an image patch lies on whole-slide images of another modality."""
