//! Every suite that needs the whole product, as one binary, so that it links once.

mod api;
mod architecture;
mod attack;
mod bad_input;
mod bench;
mod cluster;
mod contract;
mod crash_points;
mod deployment;
mod documentation;
mod examples;
mod faults;
mod histories;
mod kill;
mod patterns;
mod poison;
mod sections;
mod security;
mod serving;
mod smoke;
mod strangers;
mod topics;
mod tracing;
