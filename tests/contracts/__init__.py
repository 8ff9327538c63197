"""What we build and read, and what the sandbox answers, held against the documents that the platforms publish."""
