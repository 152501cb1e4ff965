"""Helpers of all packages of jobs: errors, files, HTTP, logs, memory, text, threads, YAML."""
