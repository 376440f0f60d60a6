"""Writing HDF5. A `Writer` fills datasets that a `Layout` describes; `rank0_pass` ends the file.

May not: decide a shape or a range, decode, print.
"""
