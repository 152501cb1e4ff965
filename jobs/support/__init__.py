"""Helpers without domain knowledge: files, memory, text, threads."""
