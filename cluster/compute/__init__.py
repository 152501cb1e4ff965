"""One process's computation: gradient workers, threads, chunked vectors and the update."""
