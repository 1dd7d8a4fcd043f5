"""The command line, and the digits task that its demo, the tests and the benchmarks learn from."""
