"""Read the rows of a job, divide them into splits, and encode and scale them.

Modules that read tables import PyArrow, which is slow, so they are imported when a table is read.
"""
