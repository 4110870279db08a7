"""Rows and images: TSV files of any size, decoded pictures, typed batches, and the order in which they are read."""
