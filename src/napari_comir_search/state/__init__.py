"""What is open and what was said of it, without Qt and without layers."""
