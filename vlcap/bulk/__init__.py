"""Captions of many photos, kept: in one file, or in a file beside each photo. A run that was killed goes on."""
