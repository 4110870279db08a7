"""How fast the parts are: `python -m benchmarks`, or `make bench`.

Times mean little on machines that are noisy and shared. So every case is reported beside the rates of matrix products
and convolutions that the machine reached between its repetitions, and beside the published implementation's time,
scaled by the same rate: these ratios are what to compare.
"""
