//! End-to-end, fault and conformance suites that drive the built binaries.
