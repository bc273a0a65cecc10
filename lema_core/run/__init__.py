"""One run: its file, its options, what it has made."""
