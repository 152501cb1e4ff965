"""One run's life: start, train, checkpoint, finish, resume, sync."""
