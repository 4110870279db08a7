"""Speed of the parts: `python -m benchmarks`, or `make bench`.

Times mean little on shared machines. Every case is therefore reported with the rates of matrix products and
convolutions that were measured between its repetitions, and with the published implementation's time scaled by the same
rate. Compare these ratios.
"""
