"""Readers of CSV, Parquet, Arrow and IDX files and of the built-in data sets."""
