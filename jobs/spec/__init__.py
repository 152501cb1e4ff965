"""The job spec: its schema, loader, template and paths."""
