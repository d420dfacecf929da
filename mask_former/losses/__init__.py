"""Mask losses, and where they look: all pixels or points."""
