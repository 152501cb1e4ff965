"""Worker processes and the group that starts, supervises and replaces them."""
