//! Every suite that needs the whole product, as one binary, so that it links once.

mod architecture;
mod bad_input;
mod cluster;
mod contract;
mod documentation;
mod examples;
mod faults;
mod kill;
mod smoke;
mod tracing;
