"""MaskFormer beside its peers: time and memory at equal results.

Every module with a `main` is a command, `python -m benchmarks.NAME`; `python -m benchmarks.report`
puts what they found into benchmarks/RESULTS.md.
"""
