"""What a person touches: job specs, data, tracking, training runs and the command line."""
