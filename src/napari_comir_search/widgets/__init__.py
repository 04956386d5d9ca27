"""What the user sees, one widget a file; they show a session and hold no state of the study."""
