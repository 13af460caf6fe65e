"""Other projects' files, in and out."""
