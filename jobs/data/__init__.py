"""Data: reading rows of every supported kind, holding out, encoding, scaling.

PyArrow is imported by the modules that read tables, and only once a table is read.
"""
