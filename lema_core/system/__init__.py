"""What the operating system, other programs and other people's files are trusted with."""
